"""Tests how a run starts: what its folder must be, and which micro-batch it takes."""

import dataclasses
import json
from pathlib import Path

import pytest

from avmae_jax.config import Config
from avmae_jax.errors import LockedError
from avmae_jax.files import LOCK
from avmae_jax.train import run
from tests.support import TINY, apply


def config(folder: Path, **changes: object) -> Config:
    return apply(Config(), TINY | {"train.workdir": str(folder)} | {name.replace("__", "."): value for name, value in changes.items()})


def test_a_folder_belongs_to_one_process_and_is_free_again_afterwards(tmp_path: Path) -> None:
    wanted = config(tmp_path / "run")
    with run.claimed(wanted) as folder:
        assert json.loads((folder / run.CONFIG_FILE).read_text()) == json.loads(json.dumps(dataclasses.asdict(wanted)))
        with pytest.raises(LockedError, match=str(folder)), run.claimed(wanted):
            pass
    with run.claimed(wanted):
        pass


def test_a_folder_that_holds_something_else_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=rf"train\.workdir {tmp_path}"), run.claimed(config(tmp_path)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match=r"train\.workdir .*notes\.txt"), run.claimed(config(tmp_path / "notes.txt")):
        pass


def test_the_config_of_a_run_with_checkpoints_is_kept(tmp_path: Path) -> None:
    with run.claimed(config(tmp_path)) as folder:
        (folder / "checkpoints" / "3").mkdir(parents=True)
        before = (folder / run.CONFIG_FILE).read_bytes()
    with run.claimed(config(tmp_path, optim__learning_rate=0.5)):
        assert (tmp_path / run.CONFIG_FILE).read_bytes() == before
    assert (tmp_path / LOCK).exists()


def test_a_kind_that_the_task_does_not_train_is_refused_before_the_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.kind.*cavmae_classifier.*cavmae or mae"):
        run.pretrain(config(tmp_path / "run", model__kind="cavmae_classifier"))
    with pytest.raises(ValueError, match=r"model\.width"):
        run.pretrain(config(tmp_path / "run", model__width=33))
    assert not (tmp_path / "run").exists()
