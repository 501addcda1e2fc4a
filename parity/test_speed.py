"""JAX against PyTorch in time and memory: that the same is done on both sides, never how fast."""

# pyright: reportMissingImports=false

import dataclasses
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("timm", reason='the reference needs PyTorch and timm: pip install -e ".[parity]"')

import jax
import numpy as np

from avmae_jax.config import Config, OptimConfig, TrainConfig
from parity import speed, speed_jax, speed_torch
from parity.side_by_side import small

TINY = Config(name="mini", model=small(depth=2, decoder_depth=1), optim=OptimConfig(learning_rate=1e-3), train=TrainConfig(batch_size=2))
MEMORY = speed.Memory(imported=2.0**29, peak=2.0**30)


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """Promotion as optax's Adam needs it, and programs compiled fast."""
    with jax.numpy_dtype_promotion("standard"):
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("job", speed.JOBS)
def test_both_sides_compute_the_same_in_turns(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    require_same = speed._require_same
    monkeypatch.setattr(speed, "measure_memory", lambda *_: MEMORY)
    monkeypatch.setattr(speed, "_require_same", lambda computed, where: compared.append(computed) or require_same(computed, where))
    result = speed.measure(TINY, job, steps=2)
    assert (result.job, result.name, result.batch) == (job, "mini", 2)
    assert min(result.seconds.values()) > 0
    assert result.ratio == result.seconds["jax"] / result.seconds["torch"]
    assert len(compared) == 3  # one step that isn't timed
    first, last = compared[0]["jax"], compared[-1]["jax"]
    assert len(first) == (2 if job == "features" else 1)
    assert all(np.array_equal(one, other) for one, other in zip(first, last, strict=True)) == (job == "features")  # training goes on


def test_different_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    features = speed_torch.features
    monkeypatch.setattr(speed, "measure_memory", lambda *_: MEMORY)
    monkeypatch.setattr(speed_torch, "features", lambda config, batch, _: features(config, batch))  # other weights
    with pytest.raises(speed.ComparisonError, match=r"features, mini, step 0: JAX and PyTorch differ by .* not the same work"):
        speed.measure(TINY, "features", steps=1)


def test_memory_is_that_of_one_process_with_one_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    ballast = np.ones(2**27)  # 1 GiB that a process started from here must not count
    for framework in speed.FRAMEWORKS:
        memory = speed.measure_memory(TINY, "features", framework)
        assert 2**26 < memory.imported < memory.peak < ballast.nbytes, framework


@pytest.mark.parametrize(("side", "other"), [("jax", "torch"), ("torch", "jax")])
def test_a_side_does_not_import_the_other(side: str, other: str) -> None:
    code = f"import sys, parity.speed, parity.speed_{side}; sys.exit({other!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_process_that_fails_is_quoted() -> None:
    config = dataclasses.replace(TINY, model=small(patch=7))
    with pytest.raises(speed.ComparisonError, match=r"(?s)JAX's feature extraction, mini, failed.*model\.patch = 7"):
        speed.measure_memory(config, "features", "jax")


def test_the_table_has_a_line_for_each_job() -> None:
    results = [speed.Result(job, "base", 4, {"jax": 1.0, "torch": 2.0}, {"jax": MEMORY, "torch": MEMORY}) for job in speed.JOBS]
    table = speed.table(results)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells.pop("job") == ["pretraining step", "fine-tuning step", "feature extraction"]
    assert {name: values[0] for name, values in cells.items()} == {
        "model": "base", "JAX s": "1", "PyTorch s": "2", "JAX/PyTorch": "0.50", "JAX pairs/s": "4", "PyTorch pairs/s": "2",
        "JAX peak GiB": "1.00", "PyTorch peak GiB": "1.00",
    }  # fmt: skip
    first, second = speed.notes(results, steps=5)
    assert first.startswith("medians of 5 steps of 4 pairs")
    assert "threads" in first
    assert "0.50 GiB are there once PyTorch is imported" in second


def test_what_cannot_be_compared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(speed.ComparisonError, match=r"set model\.compute_dtype to it, not bfloat16"):
        speed.measure(dataclasses.replace(TINY, model=small(compute_dtype="bfloat16")), "features", steps=1)
    monkeypatch.setattr(speed_jax, "on_cpu", lambda: False)
    with pytest.raises(speed.ComparisonError, match="set JAX_PLATFORMS=cpu"):
        speed.measure(TINY, "features", steps=1)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(speed.ComparisonError, match=r'^not installed: torch, for .* pip install -e "\.\[parity\]"$'):
        speed.measure(TINY, "features", steps=1)
