"""Tests the profile of a run: which steps it records, where, and that the run itself stays the same."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from avmae_jax.checkpoint.manager import restore_params
from avmae_jax.errors import ConfigError
from avmae_jax.train.profiling import PROFILE_FOLDER, StepProfile
from launch.common import training_flags
from tests.train.colours import STEPS, Watcher, computed, make_trainer, rows

pytestmark = pytest.mark.usefixtures("optax_promotion")


def recorded(folder: Path) -> list[int]:
    """Lists the steps of the newest trace that Perfetto reads."""
    newest = max(folder.glob("plugins/profile/*/perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime_ns)
    events = json.loads(gzip.decompress(newest.read_bytes()))["traceEvents"]
    assert any(event.get("name") == "wait for data" for event in events)
    return [int(event["args"]["step_num"]) for event in events if event.get("name") == "train"]


def test_steps_after_the_first_three_are_recorded_and_the_run_is_the_same(tmp_path: Path, undisturbed: Path) -> None:
    assert make_trainer(tmp_path).run(profile=2)
    assert recorded(tmp_path / PROFILE_FOLDER) == [4, 5]
    assert list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))  # which TensorBoard reads
    assert computed(tmp_path) == computed(undisturbed)
    got, want = (restore_params(folder / "checkpoints").params for folder in (tmp_path, undisturbed))
    assert {path: np.asarray(leaf).tobytes() for path, leaf in got.items()} == {
        path: np.asarray(leaf).tobytes() for path, leaf in want.items()
    }


def test_a_resumed_run_and_one_that_is_stopped_are_recorded_too(tmp_path: Path) -> None:
    assert not make_trainer(tmp_path).run(Watcher(1))
    done = rows(tmp_path)[-1]["step"]
    assert not make_trainer(tmp_path).run(Watcher(done + 4), profile=4)
    assert recorded(tmp_path / PROFILE_FOLDER)[0] == done + 4
    assert len(recorded(tmp_path / PROFILE_FOLDER)) < 4


@pytest.mark.parametrize("count", [-1, STEPS - 2, 10**6])
def test_more_steps_than_are_left_are_refused_before_the_first(tmp_path: Path, count: int) -> None:
    with pytest.raises(ConfigError, match=rf"{count} steps.* {STEPS} of the run's {STEPS} steps"):
        make_trainer(tmp_path).run(profile=count)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert make_trainer(tmp_path).run(profile=STEPS - 3)


def test_each_process_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for index in range(2):
        monkeypatch.setattr("jax.process_count", lambda: 2)
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        profiler = StepProfile(tmp_path, 1, 0, STEPS)
        monkeypatch.undo()
        for number in range(STEPS):
            with profiler.step(number, lambda: None):
                pass
        profiler.close()
        folders = {path.name for path in (tmp_path / PROFILE_FOLDER).iterdir()}
        assert len(folders) == index + 1
    assert folders == {"process_0", "process_1"}


@pytest.mark.parametrize("given", ["0", "-3", "few", "1.5"])
def test_a_wrong_number_is_refused_on_the_command_line(given: str) -> None:
    values = flags.FlagValues()
    training_flags.define(values, ["program"])
    values(["program"])
    assert training_flags.profile(values) == 0
    with pytest.raises(flags.IllegalFlagValueError, match=f"profile={given}"):
        values(["program", f"--profile={given}"])
