"""Compares exported programs with the model that they were made of."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from avmae_jax.errors import ExportError
from avmae_jax.export.program import BATCH, HEIGHT, WIDTH, Entry
from avmae_jax.trees import flatten
from avmae_jax.weights.trained import Trained

_SIZES = {BATCH: 2, HEIGHT: 48, WIDTH: 64}  # of what they are compared on
_MOST = 1e-4  # that float32 may differ by, relative to the largest value; a wrong program differs by far more

Program = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


def differences(trained: Trained, entries: Mapping[str, Entry], folder: Path, *, exact: bool) -> dict[str, float]:
    """Applies each program and the model to noise.

    Args:
      trained: the model.
      entries: of the programs.
      folder: that holds them.
      exact: whether they compute in float32 with the same weights.

    Returns:
      By entry, the largest difference of an output divided by the output's largest value.

    Raises:
      ExportError: if an exact program's difference is more than rounding.
    """
    found = {}
    for given, entry in entries.items():
        arrays = _noise(entry)
        ours = jax.jit(lambda arrays, entry=entry: entry.function(trained.module, arrays))(arrays)
        place = folder / f"{given}.onnx"
        theirs = _onnx(place, entry)(arrays) if place.exists() else _stablehlo(folder / f"{given}.stablehlo", trained)(arrays)
        found[given] = max(_relative(np.asarray(ours[name]), theirs[name]) for name in entry.outputs)
        if exact and not found[given] <= _MOST:
            raise ExportError(
                f"the program for {given} differs from the model by {found[given]:.0e} of its largest value; nothing was written"
            )
    return found


def _noise(entry: Entry) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {name: [_SIZES[size] if isinstance(size, str) else size for size in shape] for name, (_, shape) in entry.inputs.items()}
    limits = {name: np.iinfo(dtype) for name, (dtype, _) in entry.inputs.items()}
    return {name: rng.integers(limits[name].min, limits[name].max, shapes[name], dtype) for name, (dtype, _) in entry.inputs.items()}


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def _onnx(place: Path, entry: Entry) -> Program:
    import onnxruntime

    session, names = onnxruntime.InferenceSession(place), list(entry.outputs)
    return lambda arrays: dict(zip(names, map(np.asarray, session.run(names, arrays)), strict=True))


def _stablehlo(place: Path, trained: Trained) -> Program:
    from flax import nnx

    program: Any = jax.jit(export.deserialize(bytearray(place.read_bytes())).call)
    weights = flatten(nnx.state(trained.module))
    return lambda arrays: {name: np.asarray(value) for name, value in program(weights, arrays).items()}
