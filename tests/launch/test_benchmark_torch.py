"""launch.benchmark compares JAX with PyTorch at the same work. Speed itself is never tested."""

# pyright: reportMissingImports=false

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm", reason='the reference needs PyTorch: pip install -e ".[parity]"')
pytest.importorskip("torchaudio", reason='the loader needs PyTorch: pip install -e ".[parity]"')

import jax
import torch
from flax import nnx

from avmae_jax.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from avmae_jax.data.example import example
from avmae_jax.data.frontend import model_inputs
from avmae_jax.data.instruments import make_clip
from avmae_jax.weights.build import described
from launch.benchmarks import against_torch, data, measuring
from launch.benchmarks.gpu import part
from launch.benchmarks.gpu.part import Part
from parity import torch_side
from tests.support import ROOT, time_limit

MODEL = ModelConfig(
    depth=2, width=32, heads=4, decoder_depth=1, decoder_width=16, decoder_heads=2, mel_bins=48, audio_frames=80, image_size=48
)
TINY = Config(name="mini", model=MODEL, optim=OptimConfig(learning_rate=1e-3), train=TrainConfig(batch_size=2))


@pytest.mark.parametrize("job", against_torch.JOBS)
@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.slow
def test_both_sides_compute_the_same_in_every_step(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    computed: list[list[np.ndarray]] = []
    compare_sides = against_torch.take_turns

    def observed(sides: dict[str, measuring.Run], rounds: int, check: Callable[[Mapping[str, Any]], None]) -> dict[str, measuring.Turns]:
        return compare_sides(sides, rounds, lambda results: (computed.append(results["PyTorch"]), check(results))[1])

    monkeypatch.setattr(against_torch, "take_turns", observed)
    monkeypatch.setattr(against_torch, "peak_alone", lambda *_: 1.0)
    turns, _ = against_torch.compare_job(job, TINY, 2)
    assert {side: len(cost.clock) for side, cost in turns.items()} == {"JAX": 2, "PyTorch": 2, "matrix product": 2}
    assert len(computed) == 3
    assert all(np.array_equal(first, last) for first, last in zip(computed[0], computed[2], strict=True)) == (job == "features")


@pytest.mark.parametrize("job", against_torch.JOBS)
def test_the_product_has_sizes_of_the_model(job: str) -> None:
    config = Config(model=ModelConfig(size="base"), train=TrainConfig(batch_size=4))
    product = against_torch.Product.of(job, config)
    tuned = dataclasses.replace(config.model, kind="cavmae" if job == "pretraining" else "cavmae_classifier")
    kernels = {leaf.shape for leaf in jax.tree.leaves(nnx.state(described(tuned, 3), nnx.Param))}
    assert (product.shared, product.columns) in kernels
    assert product.rows in {4 * length for length in (512, 196, 708)}  # audio, image, both in the decoder
    assert 0.05 <= product.flops / against_torch.job_flops(job, config) < 0.07


def test_shares_are_those_of_the_product_in_the_same_turn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load = np.array([1.0, 3.0, 2.0])  # by which everything else on the machine slows a turn down
    for job in against_torch.JOBS:
        flops, own = against_torch.job_flops(job, TINY), against_torch.Product.of(job, TINY).flops
        costs = {"JAX": flops / 5e10, "PyTorch": flops / 2.5e10, "matrix product": own / 1e11}
        turns = {side: measuring.Turns(seconds * load, seconds * load) for side, seconds in costs.items()}
        monkeypatch.setattr(against_torch, "compare_job", lambda *_, turns=turns: (turns, {"JAX": 1.25, "PyTorch": 2.5}))
        monkeypatch.setattr(against_torch, "JOBS", {job: job})
        against_torch.show_comparison([TINY], 3)
        shown = capsys.readouterr().out
        assert "1.25 / 2.50" in shown
        assert "0.50 (0.50 to 0.50)" in shown
        assert all(text in shown for text in (str(against_torch.Product.of(job, TINY)), "50%", "25%")), job
        monkeypatch.undo()


@pytest.mark.slow
def test_different_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch_side.initial_weights
    monkeypatch.setattr(torch_side, "initial_weights", lambda *given: {name: 2 * array for name, array in weights(*given).items()})
    monkeypatch.setattr(against_torch, "peak_alone", lambda *_: 1.0)
    with pytest.raises(ValueError, match=r"features, mini.*1e-04"):
        against_torch.compare_job("features", TINY, 1)
    with pytest.raises(ValueError, match=r"model\.compute_dtype is bfloat16"):
        against_torch.compare_job("features", dataclasses.replace(TINY, model=dataclasses.replace(MODEL, compute_dtype="bfloat16")), 1)


@pytest.mark.slow
def test_peak_memory_is_that_of_one_process_with_one_framework() -> None:
    ballast = np.ones(2**27)  # 1 GiB that a process started from here must not count
    for module in against_torch.SIDES.values():
        peak = measuring.peak_alone(module, "features", TINY, against_torch.random_batch(TINY))
        assert 2**-4 < peak < ballast.nbytes / 2**30, module


@pytest.mark.parametrize(("module", "other"), [("launch.benchmarks.against_torch", "torch"), ("parity.torch_side", "jax")])
@pytest.mark.process
def test_a_side_does_not_import_the_other(module: str, other: str) -> None:
    code = f"import sys, launch.benchmarks.measuring, {module}; sys.exit({other!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("index", [0, 1])
def test_both_loaders_make_the_same_example(index: int) -> None:
    config = Config(model=ModelConfig(audio_frames=64, image_size=32))
    clips = [make_clip("train", number, seed=1, seconds=0.5 if number else 0.8, image_size=48) for number in range(2)]  # cut, padded
    theirs = [tensor.numpy() for tensor in torch_side.Examples(clips, config).make(index, 7)]
    batch = example(clips[index], 7, samples=(64 - 1) * 160 + 400, image_size=32)
    ours = model_inputs({name: jax.numpy.asarray(batch[name])[None] for name in ("waveform", "samples", "image")}, config)
    np.testing.assert_allclose(theirs[0], ours["audio"][0], atol=1e-3)
    np.testing.assert_allclose(theirs[1].transpose(1, 2, 0), ours["image"][0], atol=1e-6)


@pytest.mark.slow
def test_loaders_read_the_same_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, set[str]] = {}
    turns = data.take_turns

    def observed(sides: dict[str, measuring.Run], rounds: int) -> dict[str, measuring.Turns]:
        seen["ours"] = {clip_id for batch in sides["ours"]() for clip_id in batch["id"]}
        return turns(sides, rounds)

    class Noted(torch_side.Examples):
        def __init__(self, clips: list, config: Config) -> None:
            seen["PyTorch"] = {clip.id for clip in clips}
            super().__init__(clips, config)

    monkeypatch.setattr(data, "_CLIPS", 6)
    monkeypatch.setattr(data, "take_turns", observed)
    monkeypatch.setattr(torch_side, "Examples", Noted)
    clips = DataConfig(cache_dir=str(tmp_path), builtin_seconds=0.8, builtin_image_size=48)
    data.show_loaders(dataclasses.replace(TINY, data=clips, train=TrainConfig(batch_size=3)), rounds=1)
    assert len(seen["PyTorch"]) == 6
    assert seen["ours"] <= seen["PyTorch"]
    assert "ours/PyTorch per CPU second" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"model\.modality is audio"):
        data.show_loaders(Config(model=ModelConfig(modality="audio")), rounds=1)


@pytest.mark.process
def test_the_reference_is_timed_in_bfloat16() -> None:
    options = {"batch": 2, "compiled": False, "steps": 2, "turn": str(ROOT)}
    found = part.run(Part("PyTorch", "pytorch", options), TINY, time_limit(100))
    assert found.ended == "done", found.ended
    (row,) = found.rows
    assert row["ms a step"] > 0
    assert row["pairs/s"] == pytest.approx(2e3 / row["ms a step"])
    assert 0 < row["loss"] < 20
