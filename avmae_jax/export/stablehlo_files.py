"""Writes a model's programs as StableHLO, each lowered for CPU, CUDA and TPU in one file, with the weights beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import export

from avmae_jax.export.program import Arrays, Entry, specs
from avmae_jax.trees import flatten
from avmae_jax.weights.trained import Trained

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS = "weights.npz"


def write(trained: Trained, entries: Mapping[str, Entry], folder: Path) -> dict[str, Any]:
    """Writes GIVEN.stablehlo for each entry and weights.npz, which they are given first; returns what config.json says of the latter."""
    graph, state = nnx.split(trained.module)
    weights = flatten(state)
    arrays = {name: np.asarray(leaf) for name, leaf in weights.items()}
    with (folder / WEIGHTS).open("wb") as file:
        np.savez(file, **arrays)
    for given, entry in entries.items():

        def function(weights: Arrays, inputs: Arrays, entry: Entry = entry) -> dict[str, jax.Array]:
            return entry.function(nnx.merge(graph, _filled(state, weights)), inputs)

        shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(shapes, specs(entry))
        (folder / f"{given}.stablehlo").write_bytes(exported.serialize())
    return {"file": WEIGHTS, "begins_with": "", "bytes": (folder / WEIGHTS).stat().st_size}
