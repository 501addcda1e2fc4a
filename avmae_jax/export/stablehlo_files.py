"""Writes a model's programs as StableHLO, each lowered for CPU, CUDA and TPU in one file, and the weights that they are given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import export

from avmae_jax.export.program import Arrays, Entry, specs
from avmae_jax.export.store import FILE, Store
from avmae_jax.trees import flatten
from avmae_jax.weights.trained import Trained

PLATFORMS = ("cpu", "cuda", "tpu")


def write(trained: Trained, entries: Mapping[str, Entry], folder: Path) -> dict[str, Any]:
    """Writes GIVEN.stablehlo for each entry and weights.bin, whose arrays are a program's first argument, by name.

    Returns:
      What config.json says of weights.bin, with the place and the shape of each array.
    """
    graph, state = nnx.split(trained.module)
    arrays = {name: np.asarray(leaf, np.float32) for name, leaf in flatten(state).items()}
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
    with Store(folder / FILE) as store:
        places = [[name, store.add(array)[1], list(array.shape)] for name, array in arrays.items()]
        line = store.finish()
    for given, entry in entries.items():

        def function(weights: Arrays, inputs: Arrays, entry: Entry = entry) -> dict[str, jax.Array]:
            leaves = [weights[name] for name in arrays]
            return entry.function(nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), leaves)), inputs)

        exported = export.export(jax.jit(function), platforms=PLATFORMS)(shapes, specs(entry))
        (folder / f"{given}.stablehlo").write_bytes(exported.serialize())
    return {"file": FILE, "begins_with": line, "bytes": (folder / FILE).stat().st_size, "arrays": places}
