"""Tests that python -m launch.pretrain goes on to the last bit after a kill, a stop or a full disk."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avmae_jax.checkpoint.manager import restore_params
from avmae_jax.train.step_log import MEASURED
from tests.launch.pretraining import STEPS, Command, assert_one_message, steps


def computed(workdir: Path) -> list[dict[str, Any]]:
    """Lists the rows of metrics.jsonl without what they say of the machine."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def assert_same_run(workdir: Path, undisturbed: Path) -> None:
    """Asserts that every line of metrics.jsonl, the final parameters and the summary are equal to the last bit."""
    assert computed(workdir) == computed(undisturbed)
    got, want = (restore_params(folder / "checkpoints") for folder in (workdir, undisturbed))
    assert got.step == want.step == STEPS
    assert {path: np.asarray(x).tobytes() for path, x in got.params.items()} == {
        path: np.asarray(x).tobytes() for path, x in want.params.items()
    }
    summaries = [json.loads((folder / "summary.json").read_text()) | {"seconds": 0} for folder in (workdir, undisturbed)]
    assert summaries[0] == summaries[1]


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_and_stopped_is_the_same_to_the_last_bit(
    command: Command, undisturbed: Path, tmp_path: Path
) -> None:
    assert command.disturbed(tmp_path, "SIGKILL", 2).returncode == -9
    assert steps(tmp_path) == []
    when = int(np.random.default_rng(20).integers(3, 9))
    assert command.disturbed(tmp_path, "SIGKILL", when).returncode == -9
    assert steps(tmp_path) in ([3, 6], [3], [])
    assert command.disturbed(tmp_path, "kill saving", 9).returncode == -9
    assert 6 in steps(tmp_path)
    stopped = command.disturbed(tmp_path, "SIGTERM", 10)
    assert stopped.returncode == 0, stopped.stderr
    assert "from step" in stopped.stderr
    assert steps(tmp_path)[-1] in (10, 11)
    assert re.search(rf"SIGTERM.*step {steps(tmp_path)[-1]}\b", stopped.stderr)
    assert not (tmp_path / "summary.json").exists()
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "from step" in done.stderr
    assert_same_run(tmp_path, undisturbed)
    assert steps(tmp_path) in ([9, 10, 12], [9, 11, 12])
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if not path.name.isdecimal()]


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_costs_one_checkpoint(command: Command, undisturbed: Path, tmp_path: Path) -> None:
    full = command.disturbed(tmp_path, "fill disk", 6)
    assert_one_message(full, f"{tmp_path}/checkpoints", "step 6", "step 3")
    assert len(full.stderr.splitlines()) < 30  # Orbax has pages to say
    assert steps(tmp_path) == [3]
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "from step 3" in done.stderr
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_finished_run_is_reported_again_and_takes_no_other_config(command: Command, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    done = command(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "step 1 of" not in done.stderr
    assert_same_run(tmp_path / "run", undisturbed)
    files = {path: path.read_bytes() for name in ("metrics.jsonl", "config.json") for path in [tmp_path / "run" / name]}
    refused = command(tmp_path / "run", optim__learning_rate=1e-3, model__depth=3)
    assert_one_message(refused, "model.depth: 2 ", "train.workdir")
    assert all(path.read_bytes() == content for path, content in files.items())


@pytest.mark.slow
def test_a_run_goes_on_on_several_devices_with_pictures_and_retrieval(command: Command, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/12")
    (tmp_path / "run/pictures/reconstructions_0000012.png").unlink()
    done = command(tmp_path / "run", devices=4, mesh__data=-1, mesh__fsdp=2)
    assert done.returncode == 0, done.stderr
    assert "from step 9" in done.stderr
    assert (tmp_path / "run/pictures/reconstructions_0000012.png").exists()
    rows, expected = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (tmp_path / "run", undisturbed)
    )
    assert [(row["step"], row["split"]) for row in rows] == [(row["step"], row["split"]) for row in expected]
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-5)
    summaries = [json.loads((folder / "summary.json").read_text())["retrieval"] for folder in (tmp_path / "run", undisturbed)]
    assert summaries[0].keys() == summaries[1].keys()
    assert summaries[0]["clips"] == 16


@pytest.mark.slow
def test_ctrl_c_saves_and_a_second_one_stops_at_once(command: Command, undisturbed: Path, tmp_path: Path) -> None:
    twice = command.disturbed(tmp_path, "Ctrl-C twice", 2)
    assert twice.returncode == -signal.SIGINT, twice.stderr
    assert steps(tmp_path) == []
    once = command.disturbed(tmp_path, "Ctrl-C", 4)
    assert once.returncode == 0, once.stderr
    stopped = steps(tmp_path)[-1]
    assert stopped in (4, 5)
    assert f"stopped by Ctrl-C after step {stopped}" in once.stderr
    done = command(tmp_path, train__checkpoint_minutes=1e-9)  # from within an epoch, and saving after every step
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in twice.stderr + once.stderr + done.stderr
    assert_same_run(tmp_path, undisturbed)
    assert steps(tmp_path) == [10, 11, 12]
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 0, stopped]
    log = (tmp_path / "log.txt").read_text()
    assert log.count("started: ") == 3
    assert log.count("stopped by Ctrl-C") == 1


@pytest.mark.slow
def test_ctrl_c_does_not_reach_the_reader_processes(command: Command, tmp_path: Path) -> None:
    stopped = command.disturbed(tmp_path, "Ctrl-C", 2, data__workers=1)
    assert stopped.returncode == 0, stopped.stderr
    assert "KeyboardInterrupt" not in stopped.stderr
    assert steps(tmp_path)[-1] in (2, 3)
