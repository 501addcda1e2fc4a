"""Tests that a traced function is taken from its folder, and only where it is the same function."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.inference import kept_traces


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


class Model(nnx.Module):
    def __init__(self, width: int, seed: int = 0):
        self.linear = nnx.Linear(3, width, rngs=nnx.Rngs(seed))


BATCH = {"x": jnp.arange(6.0).reshape(2, 3)}


def result(model: Model, traced: list[str], identity: str) -> np.ndarray:
    def function(model: Any, batch: Any) -> dict[str, jax.Array]:
        traced.append(identity)
        return {"y": model.linear(batch["x"])}

    return np.asarray(kept_traces.compiled(function, model, BATCH, identity)(model, BATCH)["y"])


def test_a_kept_trace_computes_the_same_with_other_weights(folder: Path) -> None:
    traced: list[str] = []
    one, other = Model(4, seed=0), Model(4, seed=1)
    first = result(one, traced, "f")
    assert traced == ["f"]
    np.testing.assert_array_equal(result(one, traced, "f"), first)
    np.testing.assert_allclose(result(other, traced, "f"), other.linear(BATCH["x"]), rtol=1e-6)
    assert traced == ["f"]
    assert len([*folder.glob("trace-*")]) == 1


def test_another_function_structure_or_setting_is_traced_anew(folder: Path) -> None:
    traced: list[str] = []
    for model, identity in ((Model(4), "f"), (Model(4), "g"), (Model(5), "f")):
        result(model, traced, identity)
    with jax.default_matmul_precision("highest"):
        result(Model(4), traced, "f")
    assert traced == ["f", "g", "f", "f"]
    result(Model(4), traced, "")
    result(Model(4), traced, "")
    assert len(traced) == 6
    assert len([*folder.glob("trace-*")]) == 4


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda _: b""])
def test_a_damaged_trace_is_replaced(folder: Path, damage: Any) -> None:
    traced: list[str] = []
    want = result(Model(4), traced, "f")
    (file,) = folder.glob("trace-*")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    np.testing.assert_array_equal(result(Model(4), traced, "f"), want)
    assert traced == ["f", "f"]
    result(Model(4), traced, "f")
    assert traced == ["f", "f"]


def test_a_folder_that_cannot_be_written_is_no_error(folder: Path) -> None:
    traced: list[str] = []
    jax.config.update("jax_compilation_cache_dir", str(folder / "none"))
    np.testing.assert_allclose(result(Model(4), traced, "f"), Model(4).linear(BATCH["x"]), rtol=1e-6)
