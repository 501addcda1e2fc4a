"""Makes what tests of this folder share: an undisturbed run of pretraining."""

from pathlib import Path

import pytest

from tests.launch.pretraining import Command
from tests.support import Program


@pytest.fixture(scope="session")
def command(program: Program, cache_dir: Path) -> Command:
    return Command(program, cache_dir)


@pytest.fixture(scope="session")
def undisturbed(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes the folder of a finished run, which tests must not change."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = command(folder)
    assert done.returncode == 0, done.stderr
    assert str(folder) in done.stdout
    return folder
