"""Offers what tests of weights share: bad files and their messages, exact comparison, a file written by hand."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from avmae_jax.errors import WeightsError
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.trees import flatten
from avmae_jax.weights.build import build
from avmae_jax.weights.io import Weights, read

HEADS: dict[str, Any] = {"heads": 2, "decoder_heads": 2, "mel_bins": 16}


def assert_same(got: Weights, want: Weights) -> None:
    assert (got.config, got.classes) == (want.config, want.classes)
    assert {path: (x.shape, x.dtype, x.tobytes()) for path, x in got.params.items()} == {
        path: (x.shape, x.dtype, x.tobytes()) for path, x in want.params.items()
    }


def params_of(model: nnx.Module) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in flatten(nnx.state(model, nnx.Param)).items()}


def message(path: Path | str, how: Callable[..., object] = read, /, **sizes: int) -> str:
    """Returns the error message of a bad file, which must name the file."""
    with pytest.raises(WeightsError) as error:
        how(path, **sizes)
    assert str(path) in str(error.value)
    return str(error.value)


def load(weights: Weights) -> CAVMAE:
    return build(lambda: CAVMAE(weights.config, rngs=nnx.Rngs(0)), weights.params)


def save_bytes(path: Path, tensors: Mapping[str, np.ndarray], **notes: str) -> None:
    """Writes a safetensors file by hand, since the library writes no bfloat16 from NumPy."""
    kinds = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "int64": "I64"}
    header: dict[str, Any] = {"__metadata__": notes}
    end = 0
    for name, x in tensors.items():
        header[name] = {"dtype": kinds[x.dtype.name], "shape": x.shape, "data_offsets": [end, end := end + x.nbytes]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(x.tobytes() for x in tensors.values()))
