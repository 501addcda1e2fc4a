"""Makes what tests of this folder share: an undisturbed run of the loop."""

from pathlib import Path

import jax
import pytest

from tests.train.colours import make_trainer


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes the folder of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with jax.numpy_dtype_promotion("standard"):
        assert make_trainer(folder).run()
    return folder
