"""Tests how a batch that doesn't fit is computed."""

import dataclasses
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import Config, TrainConfig
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.train import fitting, memory, sharding
from avmae_jax.train.fitting import Fit, Way, choose, fit_batch, parts_of
from avmae_jax.train.loop import Trainer
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.program import peak_bytes, trace_step
from tests.support import TINY, Clips, apply


class Bytes(NamedTuple):
    """Holds the memory of a made-up step."""

    peak: float
    temporaries: float


class Compiler:
    """Compiles made-up steps: 10 bytes of state, and a pair takes 4, or 1 with recomputed blocks, and gradients of a split batch take 5."""

    def __init__(self, batch: int, groups: int = 1):
        self.batch, self.groups, self.calls = batch, groups, list[Way]()

    def __call__(self, remat: bool, micro_batch: int) -> Bytes:
        self.calls.append(Way(remat, micro_batch))
        each = micro_batch / self.groups * (1 if remat else 4) + 5 * (micro_batch < self.batch)
        return Bytes(10 + each, each)


@pytest.mark.parametrize(
    ("limit", "remat", "way", "compilations"),
    [
        (500, False, Way(False, 96), 1),
        (500, True, Way(True, 96), 1),
        (200, False, Way(True, 96), 2),  # the negatives stay whole, though halves would fit without
        (70, False, Way(True, 48), 3),
        (60, False, Way(True, 32), 4),  # the first estimate is too low by what sums of gradients take
        (16, True, Way(True, 1), 6),
        (10, False, None, 3),
    ],
)
def test_recomputing_comes_before_splitting(limit: float, remat: bool, way: Way | None, compilations: int) -> None:
    compiler = Compiler(96)
    assert choose(compiler, parts_of(96, 1), limit, (True,) if remat else (False, True)) == way
    assert len(compiler.calls) == compilations
    assert not remat or all(call.remat for call in compiler.calls)


def test_parts_can_be_shared_by_the_devices() -> None:
    assert parts_of(96, 8) == [96, 48, 32, 24, 16, 8]
    compiler = Compiler(96, groups=8)
    assert choose(compiler, parts_of(96, 8), 20) == Way(True, 32)


def fitted(config: Config, before: int = 0) -> Fit:
    meta = {"micro_batch": before, "config": dataclasses.asdict(config)} if before else None
    return fit_batch(config, PretrainingTask(config, None, Path("unused")), clips=100, before=meta)


@pytest.mark.parametrize(("batch", "micro", "mesh"), [(7, 0, 2), (8, 3, 1), (8, 16, 1), (8, 1, 2), (0, 0, 1), (8, -2, 1)])
def test_a_batch_that_does_not_divide_names_the_fields(monkeypatch: pytest.MonkeyPatch, batch: int, micro: int, mesh: int) -> None:
    monkeypatch.setattr(
        "avmae_jax.train.loop.sharding.make_mesh", lambda config: jax.sharding.AbstractMesh((mesh, 1, 1), ("data", "fsdp", "tensor"))
    )
    config = apply(Config(), TINY | {"train.batch_size": batch, "train.micro_batch": micro})
    with pytest.raises(ValueError, match=rf"train\.batch_size.* {batch}\b.*mesh"):
        fitted(config)


def test_a_step_that_has_to_be_split_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="absl"):
        assert fitted(apply(Config(), TINY | {"train.micro_batch": 2})).micro_batch == 2
    assert re.search(" 8 .* 4 .* 2", caplog.text)
    assert fitted(apply(Config(), TINY)).micro_batch == 8


@pytest.mark.parametrize(("before", "micro", "mesh", "expected"), [(4, 0, 1, 4), (4, 2, 1, 2), (1, 0, 2, 8), (0, 0, 1, 8)])
def test_a_resumed_run_keeps_its_micro_batch_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, before: int, micro: int, mesh: int, expected: int
) -> None:
    monkeypatch.setattr(
        "avmae_jax.train.loop.sharding.make_mesh", lambda config: jax.sharding.AbstractMesh((mesh, 1, 1), ("data", "fsdp", "tensor"))
    )
    assert fitted(apply(Config(), TINY | {"train.micro_batch": micro}), before).micro_batch == expected


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Returns a function that lets fit_batch ask the compiler, on devices of some bytes."""

    def of(memory_bytes: float) -> None:
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(memory, "usable_memory", lambda: memory_bytes)

    return of


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.slow
def test_an_accelerator_trains_with_the_step_that_was_asked(accelerator: Callable[[float], None], tmp_path: Path) -> None:
    config = apply(Config(), TINY | {"train.workdir": str(tmp_path), "train.steps": 2})
    task = PretrainingTask(config, None, tmp_path)
    whole = peak_bytes(trace_step(config, task, sharding.make_mesh(config.mesh), 8, 24).traced.lower().compile())
    states = []
    for limit, way in ((whole, (False, 8)), (whole - 1, (True, 8))):
        accelerator(limit)
        config.model.remat = False
        fit = fit_batch(config, task, 24)
        assert (config.model.remat, fit.micro_batch) == way
        assert fit.step is not None
        for each in (fit, fit._replace(step=None)):
            trainer = Trainer(config, CAVMAE(config.model, rngs=nnx.Rngs(0)), task, Clips(24), None, fit=each)
            assert trainer.run()
            states.append(jax.tree.leaves(trainer.params))
            shutil.rmtree(tmp_path / "checkpoints")
    for asked, plain in (states[:2], states[2:]):
        assert all(map(np.array_equal, asked, plain))


def test_what_is_cut_over_devices_needs_less_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(fsdp: int) -> float:
        mesh = jax.sharding.AbstractMesh((1, fsdp, 1), ("data", "fsdp", "tensor"))
        monkeypatch.setattr("avmae_jax.train.fitting.sharding.make_mesh", lambda config: mesh)
        monkeypatch.setattr(memory, "usable_memory", lambda: 1e6)
        with pytest.raises(ValueError, match=r"about ([\d.]+) GiB") as caught:
            fitted(Config(train=TrainConfig(batch_size=8)))
        return float(re.search(r"about ([\d.]+) GiB", str(caught.value))[1])  # pyright: ignore[reportOptionalSubscript]

    whole, cut = refused(1), refused(8)
    assert cut < 0.4 * whole


def test_what_fits_nowhere_is_refused_with_the_fields_to_change(accelerator: Callable[[float], None]) -> None:
    accelerator(1e6)
    with pytest.raises(ValueError, match=r"GiB.*0\.0 GiB.*model\.size.*mesh\.fsdp"):
        fitted(Config())


def test_recomputed_blocks_are_announced_and_kept_when_the_run_goes_on(
    accelerator: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accelerator(100e9)
    monkeypatch.setattr(fitting, "_compile", lambda *given: Bytes(90e9 if given[4].remat else 110e9, 50e9))
    config = apply(Config(), TINY)
    with caplog.at_level(logging.INFO, logger="absl"):
        fitted(config)
    assert config.model.remat
    assert "recomputed" in caplog.text
    again = apply(Config(), TINY)
    fit_batch(again, PretrainingTask(again, None, Path("unused")), 100, {"micro_batch": 8, "config": dataclasses.asdict(config)})
    assert again.model.remat
