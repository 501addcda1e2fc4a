"""Tests that a run which was stopped, killed or finished goes on to the same numbers, and what it refuses."""

import logging
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from avmae_jax.checkpoint import manager
from avmae_jax.checkpoint.manager import restore_params
from avmae_jax.config import MeshConfig
from avmae_jax.errors import CheckpointMismatchError
from avmae_jax.train.sharding import make_mesh
from avmae_jax.train.stopping import Agreement
from avmae_jax.trees import flatten
from tests.train.colours import STEPS, ColourTask, Watcher, computed, make_trainer, rows, saved

pytestmark = pytest.mark.usefixtures("optax_promotion")


class Averaging(ColourTask):
    """Keeps an exponential moving average of the weights."""

    def init_extra(self, params: Any) -> Any:
        return params

    def update_extra(self, extra: Any, params: Any, step: jax.Array) -> Any:
        return jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, extra, params)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 6, 8])
@pytest.mark.slow
def test_a_run_stopped_by_sigterm_goes_on_to_the_last_bit(tmp_path: Path, undisturbed: Path, stop_after: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert not make_trainer(tmp_path).run(Watcher(stop_after))
    assert signal.getsignal(signal.SIGTERM) is before
    stopped_at = saved(tmp_path)[-1]
    assert stop_after <= stopped_at <= stop_after + 1  # the step under way is finished
    assert rows(tmp_path)[-1]["step"] == stopped_at
    watcher = Watcher()
    assert make_trainer(tmp_path).run(watcher)
    assert watcher.started == [(stopped_at, STEPS)]
    assert watcher.steps == list(range(stopped_at + 1, STEPS + 1))
    assert computed(tmp_path) == computed(undisturbed)
    for path, tensor in restore_params(tmp_path / "checkpoints").params.items():
        assert np.asarray(tensor).tobytes() == np.asarray(restore_params(undisturbed / "checkpoints").params[path]).tobytes()


def weights(tree: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in flatten(tree).items()}


@pytest.mark.slow
def test_extra_state_is_updated_in_the_step_and_checkpointed(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, task=Averaging(), train__checkpoint_every=1, train__keep_last=STEPS)
    average = weights(trainer.params)
    assert trainer.run()
    assert (tmp_path / "checkpoints" / str(STEPS) / "extra").is_dir()
    for step in range(1, STEPS + 1):
        params = restore_params(tmp_path / "checkpoints" / str(step)).params
        average = {name: 0.9 * value + 0.1 * np.asarray(params[name]) for name, value in average.items()}
    found = weights(trainer.state.extra)
    assert found.keys() == average.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, average[name], rtol=1e-5)
        assert (value != weights(trainer.params)[name]).all()


class Killed(BaseException):
    """Ends a run without giving it a chance to save."""


@pytest.mark.slow
def test_extra_state_comes_back_to_the_last_bit_after_a_kill(tmp_path: Path) -> None:
    class Kill(Watcher):
        def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
            if step == 5:
                raise Killed

    whole = make_trainer(tmp_path / "whole", task=Averaging())
    assert whole.run()
    with pytest.raises(Killed):
        make_trainer(tmp_path / "killed", task=Averaging()).run(Kill())
    assert saved(tmp_path / "killed") == [3]
    resumed, watcher = make_trainer(tmp_path / "killed", task=Averaging()), Watcher()
    assert resumed.run(watcher)
    assert watcher.steps[0] == 4
    for name, value in weights(whole.state.extra).items():
        assert value.tobytes() == weights(resumed.state.extra)[name].tobytes()
    assert computed(tmp_path / "whole") == computed(tmp_path / "killed")


def test_checkpoints_from_before_extra_state_serve_tasks_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = manager.pack

    def older(step: int, trees: dict[str, Any], data: Any, meta: Any) -> Any:
        return pack(step, {item: tree for item, tree in trees.items() if item != "extra"}, data, meta)

    with monkeypatch.context() as patch:
        patch.setattr(manager, "pack", older)
        assert make_trainer(tmp_path).run()
    with pytest.raises(CheckpointMismatchError, match=r"extra.*\n.*offset, w"):
        make_trainer(tmp_path, task=Averaging(), train__steps=STEPS + 1).run()
    watcher = Watcher()
    assert make_trainer(tmp_path, train__steps=STEPS + 1).run(watcher)
    assert watcher.steps == [STEPS + 1]


@pytest.mark.slow
def test_a_finished_run_does_not_train_again(tmp_path: Path) -> None:
    assert make_trainer(tmp_path).run()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    for steps in (STEPS, 2):
        watcher = Watcher()
        assert make_trainer(tmp_path, train__steps=steps).run(watcher)
        assert watcher.steps == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert make_trainer(tmp_path, train__steps=STEPS + 2).run()
    assert saved(tmp_path) == [6, 9, 11]


def test_another_config_is_refused_with_its_fields(tmp_path: Path) -> None:
    assert make_trainer(tmp_path).run()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointMismatchError) as error:
        make_trainer(tmp_path, optim__learning_rate=0.02, train__seed=1, loss__norm_pix=False, train__log_every=2).run()
    expected = [r"loss\.norm_pix.*True.*False", r"optim\.learning_rate.*0\.01.*0\.02", r"train\.seed.* 0 .* 1 "]
    for line, part in zip(str(error.value).splitlines()[1:], expected, strict=True):
        assert re.search(part, line)
    with pytest.raises(CheckpointMismatchError, match=r"train_clips: 20.*21"):
        make_trainer(tmp_path, train=21).run()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


class ComparingSome(ColourTask):
    """Says that it compares the pairs of a micro-batch."""

    def negatives(self, micro_batch: int, groups: int) -> int:
        return micro_batch


@pytest.mark.parametrize(("task", "warns"), [(ColourTask, False), (ComparingSome, True)])
@pytest.mark.slow
def test_other_micro_batches_are_allowed_with_a_warning_if_negatives_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, task: type[ColourTask], warns: bool
) -> None:
    assert make_trainer(tmp_path, task=task()).run()
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert make_trainer(tmp_path, task=task(), micro=2, train__steps=STEPS + 1).run()
    assert bool(re.search("micro-batches .*4.* 2", caplog.text)) == warns


@pytest.mark.slow
def test_ctrl_c_saves_and_stops_like_sigterm(tmp_path: Path, undisturbed: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = signal.getsignal(signal.SIGINT)
    with caplog.at_level("INFO", logger="absl"):
        assert not make_trainer(tmp_path).run(Watcher(4, signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before
    assert saved(tmp_path)[-1] in (4, 5)
    assert f"Ctrl-C after step {saved(tmp_path)[-1]}" in caplog.text
    assert make_trainer(tmp_path).run()
    assert computed(tmp_path) == computed(undisturbed)


def test_a_stop_at_the_last_step_leaves_the_final_evaluation_to_the_next_start(tmp_path: Path) -> None:
    assert not make_trainer(tmp_path).run(Watcher(STEPS))
    assert saved(tmp_path)[-1] == STEPS
    assert make_trainer(tmp_path).run()


def test_checkpoints_come_by_time_too(tmp_path: Path, undisturbed: Path) -> None:
    """Stops within the first epoch, which has 5 steps: 20 clips in batches of 4."""
    often = {"train__checkpoint_every": 100, "train__checkpoint_minutes": 1e-9, "train__keep_last": STEPS}
    assert make_trainer(tmp_path, **often).run()
    assert saved(tmp_path) == list(range(1, STEPS + 1))
    for step in (9, 8, 7, 6, 5, 4, 3):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    watcher = Watcher()
    assert make_trainer(tmp_path, train__checkpoint_every=100).run(watcher)
    assert watcher.steps[0] == 3
    assert saved(tmp_path)[-1] == STEPS
    assert computed(tmp_path) == computed(undisturbed)


def test_no_checkpoint_comes_by_time_if_it_is_off(tmp_path: Path) -> None:
    assert make_trainer(tmp_path, train__checkpoint_every=100, train__checkpoint_minutes=0.0).run()
    assert saved(tmp_path) == [STEPS]


def test_several_processes_hear_what_they_asked_a_step_later(monkeypatch: pytest.MonkeyPatch) -> None:
    agreement = Agreement(make_mesh(MeshConfig()))
    assert agreement.decide(True, True, asks=False) == (True, True)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    assert agreement.decide(True, True, asks=False) == (False, False)
    for asked in ((True, False), (False, True), (True, True)):
        assert agreement.decide(*asked, asks=True) == (False, False)
        assert agreement.decide(False, False, asks=False) == asked
    assert agreement.decide(False, True, asks=True) == (False, False)
    assert agreement.decide(False, True, asks=True) == (False, True)  # which saves now, and needn't be asked for once more
    assert agreement.decide(False, False, asks=False) == (False, False)


def test_edited_numbers_are_noticed_when_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert make_trainer(tmp_path).run()
    with caplog.at_level("WARNING", logger="absl"):
        assert make_trainer(tmp_path).run()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if '"step": 4,' not in line))
    with caplog.at_level("WARNING", logger="absl"):
        assert make_trainer(tmp_path, train__steps=STEPS + 1).run()
    assert "steps 4 to 4" in caplog.text
    assert [row["step"] for row in rows(tmp_path) if row["split"] == "gap"] == [4]
