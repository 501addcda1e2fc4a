"""Makes what tests of this folder share: random weights in a file."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from avmae_jax.weights import folder
from avmae_jax.weights.io import write
from tests.support import made
from tests.weights.folders import EVERY


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="absl")
    return caplog


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a .safetensors of random weights with the official names, which tests must not change."""
    path = tmp_path_factory.mktemp("official") / "w.safetensors"
    write(made(), path)
    return path


@pytest.fixture(scope="session")
def tensors(official: Path) -> Mapping[str, np.ndarray]:
    return load_file(official)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a folder of a classifier, which tests must not change."""
    path = tmp_path_factory.mktemp("folders") / "model"
    folder.save(EVERY["cavmae_classifier"], path, path)
    return path


@pytest.fixture
def copy(classifier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier, tmp_path / "copy"))
