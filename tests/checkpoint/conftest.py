"""Makes what tests of this folder share: a run of two steps."""

import pathlib
import shutil

import pytest

from avmae_jax.checkpoint.manager import Checkpoints
from tests.checkpoint.tiny_run import save


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Makes a run's folder with the steps 1 and 2, which tests must not change."""
    folder = tmp_path_factory.mktemp("pristine")
    with Checkpoints(folder) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    return folder


@pytest.fixture
def folder(pristine: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Makes a copy of `pristine` that tests may damage."""
    return pathlib.Path(shutil.copytree(pristine, tmp_path / "checkpoints"))
