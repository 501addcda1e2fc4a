"""Tests that programs in StableHLO compute what the model computes, and that one file is for every platform."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax import export

from avmae_jax.export import folder
from avmae_jax.trees import flatten
from tests.export.conftest import KINDS_OF_MODELS, expected, windows

pytestmark = pytest.mark.slow  # each compiles a model


@pytest.mark.parametrize("name", ["pretraining", "late, by clip", "ast"])
def test_one_file_for_cpu_cuda_and_tpu_takes_any_batch(tmp_path: Path, name: str) -> None:
    make, what, _ = KINDS_OF_MODELS[name]
    trained = make()
    found = folder.export(trained, tmp_path / "out", what, form="stablehlo")
    weights = flatten(nnx.state(trained.module))
    for given in found:
        program = export.deserialize(bytearray((tmp_path / "out" / f"{given}.stablehlo").read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")
        arrays = windows(trained, 3)
        ours = expected(trained, what, given, arrays)
        inputs = json.loads((tmp_path / "out/config.json").read_text())["entries"][given]["inputs"]
        theirs = jax.jit(program.call)(weights, {each: arrays[each] for each in inputs})
        for each, values in ours.items():
            np.testing.assert_allclose(np.asarray(theirs[each]), values, rtol=1e-5, atol=1e-6)
