"""Tests how a run starts: what its folder must be, and which micro-batch it takes."""

import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import logging as absl_logging

from avmae_jax.config import Config
from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import LockedError
from avmae_jax.files import LOCK
from avmae_jax.train import hosts, run, run_notes
from tests.support import ROOT, TINY, Clips, apply

HOLD = """
import sys, time
from avmae_jax.config import Config, TrainConfig
from avmae_jax.train import run
with run.claimed(Config(train=TrainConfig(workdir=sys.argv[1]))):
    print("held", flush=True)
    time.sleep(600)
"""


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


@pytest.mark.process
def test_a_second_process_is_refused_with_the_first_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    wanted = config(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        before = (tmp_path / "run" / run.CONFIG_FILE).read_bytes()
        with pytest.raises(LockedError, match=f"process {first.pid} on {socket.gethostname()}"), run.claimed(wanted):
            pass
        assert (tmp_path / "run" / run.CONFIG_FILE).read_bytes() == before
        first.kill()
    with run.claimed(wanted):
        assert json.loads((tmp_path / "run" / LOCK).read_text()) == {"host": socket.gethostname(), "process": os.getpid()}


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
    with pytest.raises(ValueError, match=r"model\.kind.*cavmae_classifier.*cavmae or .*mae"):
        run.pretrain(config(tmp_path / "run", model__kind="cavmae_classifier"))
    with pytest.raises(ValueError, match=r"model\.width"):
        run.pretrain(config(tmp_path / "run", model__width=33))
    with pytest.raises(ValueError, match=r"contrast_order.*'cavmae'.*no class token"):
        run.pretrain(config(tmp_path / "run", loss__contrast_pass=True, loss__contrast_order="attention"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["{}", "", "[" * 100_000, '{"model": {}}', "null"])
def test_a_config_json_that_is_no_config_makes_no_run(tmp_path: Path, content: str) -> None:
    (tmp_path / run.CONFIG_FILE).write_text(content)
    with pytest.raises(ValueError, match=rf"train\.workdir {tmp_path}.*{run.CONFIG_FILE}"), run.claimed(config(tmp_path)):
        pass
    assert (tmp_path / run.CONFIG_FILE).read_text() == content
    (tmp_path / "checkpoints/3").mkdir(parents=True)  # then its config counts
    with run.claimed(config(tmp_path)):
        assert (tmp_path / run.CONFIG_FILE).read_text() == content


def test_a_run_whose_config_json_is_gone_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints/3").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"train\.workdir {tmp_path}.*no run"), run.claimed(config(tmp_path)):
        pass  # what lies in the folder is no checkpoint of ours
    monkeypatch.setattr(run, "newest_meta", lambda folder: {"config": {}})
    with run.claimed(config(tmp_path)):
        pass


def test_a_config_json_that_was_edited_by_hand_is_named_and_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, own = tmp_path / run.CONFIG_FILE, config(tmp_path)
    run_notes.note_config(tmp_path, own)
    right = path.read_bytes()
    with caplog.at_level(logging.WARNING, logger="absl"):
        run_notes.note_config(tmp_path, own)
        caplog.clear()
        path.write_text(right.decode().replace(f'"batch_size": {own.train.batch_size}', '"batch_size": 999'))
        run_notes.note_config(tmp_path, own)
    assert "train.batch_size = 999" in caplog.text
    assert f"{own.train.batch_size}," in caplog.text
    assert path.read_bytes() == right
    caplog.clear()
    path.write_text("{}")
    with caplog.at_level(logging.WARNING, logger="absl"):
        run_notes.note_config(tmp_path, own)
    assert str(path) in caplog.text
    assert path.read_bytes() == right
    caplog.clear()
    path.write_text(right.decode().replace('"batch_size"', '"batch_sise": 8, "batch_size"'))
    with caplog.at_level(logging.WARNING, logger="absl"):
        run_notes.note_config(tmp_path, own)
    assert "train.batch_sise = 8" in caplog.text
    assert path.read_bytes() == right


def test_a_dtype_that_was_left_open_is_written_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with run.claimed(config(tmp_path)) as folder, caplog.at_level(logging.WARNING, logger="absl"):
        assert json.loads((folder / run.CONFIG_FILE).read_text())["model"]["compute_dtype"] == "auto"
        run_notes.note_config(tmp_path, config(tmp_path, model__compute_dtype="float32"))
    assert not caplog.records
    assert json.loads((tmp_path / run.CONFIG_FILE).read_text())["model"]["compute_dtype"] == "float32"


def test_each_start_is_noted_with_its_command_versions_and_machine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / run_notes.ENVIRONMENT_FILE
    run_notes.note_start(tmp_path, 0)
    run_notes.note_start(tmp_path, 7)
    starts = json.loads(path.read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 7]
    assert starts[0].keys() == {"time", "step", "command", "folder", "versions", "machine"}
    assert starts[0]["versions"]["python"] == sys.version.split()[0]
    assert {"jax", "flax", "numpy"} <= starts[0]["versions"].keys()
    assert starts[0]["machine"]["host"] == socket.gethostname()
    assert Path(sys.executable).name in starts[0]["command"]
    path.write_text("[]")
    run_notes.note_start(tmp_path, 8)
    assert str(path) in caplog.text
    assert len(json.loads(path.read_text())["starts"]) == 1


def test_the_log_is_kept_with_the_error_that_ended_it(tmp_path: Path) -> None:
    def log(number: int) -> None:
        with run_notes.log_file(tmp_path):
            absl_logging.warning("message %d", number)
            raise LockedError("folder", "somebody")

    handlers = [*logging.getLogger().handlers]
    for number in (1, 2):
        with pytest.raises(LockedError):
            log(number)
    lines = (tmp_path / run_notes.LOG_FILE).read_text().splitlines()
    parts = [part for number in (1, 2) for part in ("started: ", f"message {number}", "LockedError: folder")]
    for part, line in zip(parts, lines, strict=True):
        assert part in line
    assert logging.getLogger().handlers == handlers


def test_only_the_first_process_writes_beside_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.distributed.global_state, "process_id", 1)
    with run.claimed(config(tmp_path)):
        run_notes.note_config(tmp_path, config(tmp_path))
        run_notes.note_start(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def clips_of(job: Job) -> Iterator[Clip]:
    yield Clips(10)[job.args[0]]._replace(id=job.id, labels=(0,))


@pytest.mark.parametrize(("held_out", "part"), [(0, "--test_percent"), (2, "harp (2)"), (5, "")])
def test_a_run_without_held_out_clips_or_with_few_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, held_out: int, part: str
) -> None:
    jobs = {split: [Job(f"{split}{number}", (number,)) for number in range(count)] for split, count in (("train", 6), ("test", held_out))}
    write_dataset(tmp_path / "clips", DatasetSpec("clips", jobs, clips_of, ["harp"]))
    with caplog.at_level(logging.WARNING, logger="absl"):
        train, test = run.open_sources(config(tmp_path / "run", data__source="prepared", data__path=str(tmp_path / "clips")))
    assert (len(train), test and len(test)) == (6, held_out or None)
    assert (part in caplog.text) if part else not caplog.records
