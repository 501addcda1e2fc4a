"""Compares what a step costs, computed before it is run, with the compiled program."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
import pytest
from flax import nnx

from avmae_jax.config import SIZES, Config, LossConfig, ModelConfig, TrainConfig
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.train import memory, sharding
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.program import trace_step


def test_the_base_model_costs_what_was_published() -> None:
    assert memory.step_flops(Config()) == pytest.approx(234e9, rel=0.03)
    assert memory.step_flops(Config(model=ModelConfig(remat=True))) == memory.step_flops(Config())  # useful work only
    tuned = ModelConfig(kind="cavmae_classifier")
    assert memory.step_flops(Config(model=tuned)) == pytest.approx(397e9, rel=0.03)
    assert memory.step_flops(Config(model=tuned), frozen=True) == pytest.approx(132e9, rel=0.03)


def test_a_larger_model_or_input_costs_more() -> None:
    sizes = [memory.step_flops(Config(model=ModelConfig(size=size))) for size in SIZES]
    assert sizes == sorted(sizes)
    assert memory.step_flops(Config(model=ModelConfig(audio_mask_ratio=0.5))) > memory.step_flops(Config())
    assert memory.step_flops(Config(model=ModelConfig(audio_frames=2048))) > 1.5 * memory.step_flops(Config())


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_estimates_are_near_the_compiled_program(remat: bool) -> None:
    config = ModelConfig(
        width=256, heads=8, depth=2, decoder_width=256, decoder_heads=8, decoder_depth=2, audio_frames=256, image_size=96
    )  # wide enough for the blocks to outweigh pixels
    run, batch_size = Config(model=config, train=TrainConfig(batch_size=8)), 8
    task = PretrainingTask(run, None, Path("unused"))
    compiled = trace_step(run, task, sharding.make_mesh(run.mesh), batch_size, 100, remat=remat).traced.lower().compile()
    params = nnx.eval_shape(lambda: nnx.state(CAVMAE(config, rngs=nnx.Rngs(0)), nnx.Param))
    gradients = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    measured = compiled.memory_analysis().temp_size_in_bytes
    estimate = gradients + batch_size * memory.activation_bytes(run, remat=remat)
    assert 0.75 < estimate / measured < 1.5, (estimate, measured)


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.slow
def test_a_teacher_s_pass_is_counted_without_gradients() -> None:
    sizes = {"width": 256, "heads": 8, "depth": 4, "decoder_width": 64, "decoder_heads": 2, "decoder_depth": 1}
    model = ModelConfig(kind="sync", class_token=True, audio_frames=96, clip_frames=128, image_size=96, **sizes)  # pyright: ignore

    def flops(**loss: Any) -> np.ndarray:
        config = Config(model=model, loss=LossConfig(contrast_pass=True, **loss), train=TrainConfig(batch_size=4))
        task = PretrainingTask(config, None, Path("unused"))
        lowered = trace_step(config, task, sharding.make_mesh(config.mesh), 4, 100).traced.lower()
        return np.array([4 * memory.step_flops(config), lowered.cost_analysis()["flops"]])  # pyright: ignore

    without = flops()
    for changes in ({"contrast_order": "attention"}, {"distill_weight": 0.1}):
        estimate, counted = flops(**changes) - without
        assert 0.85 < estimate / counted < 1.05, (changes, estimate, counted)


def test_half_precision_halves_the_activations() -> None:
    half = Config(model=ModelConfig(compute_dtype="bfloat16"))
    assert memory.activation_bytes(half) == memory.activation_bytes(Config()) / 2


def test_remat_saves_memory_where_the_compiler_honours_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig()
    for platform in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=platform: name)
        assert memory.activation_bytes(Config(model=model), remat=True) < memory.activation_bytes(Config(model=model)) / 4
    assert memory.activation_bytes(Config(model=ModelConfig(remat=True))) == memory.activation_bytes(Config(model=model), remat=True)


@pytest.mark.parametrize(("dtype", "mib"), [("bfloat16", 146), ("float32", 291)])
def test_a_pair_of_the_base_model_takes_on_gpus_what_their_compiler_says(monkeypatch: pytest.MonkeyPatch, dtype: str, mib: float) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert memory.activation_bytes(Config(model=ModelConfig(compute_dtype=dtype))) / 2**20 == pytest.approx(mib, rel=0.1)


def test_usable_memory_and_speed_are_those_of_a_machine() -> None:
    assert 0 < memory.usable_memory() < psutil.virtual_memory().total
    assert memory.matmul_speed(size=256) > 0


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path if re.fullmatch("/sys/fs/cgroup", path) else Path(path))
    assert memory.usable_memory() == pytest.approx(0.7 * 2_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.usable_memory() > 2_000_000
