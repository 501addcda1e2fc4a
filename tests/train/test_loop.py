"""The loop, on a model of three numbers: what it writes when, how it stops, and that nobody can tell that it did.

The command itself, killed and started again, is in test_pretrain_command.py.
"""

import json
import logging
import math
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from avmae_jax.checkpoint import manager
from avmae_jax.checkpoint.manager import restore_params
from avmae_jax.config import Config
from avmae_jax.errors import CheckpointMismatchError, NonFiniteLossError
from avmae_jax.train.epochs import Epochs
from avmae_jax.train.loop import Trainer
from avmae_jax.train.step import Context
from avmae_jax.train.step_log import MEASURED
from avmae_jax.train.stopping import agreed
from avmae_jax.train.task import Task
from avmae_jax.trees import flatten
from tests.support import TINY, Clips, apply

pytestmark = pytest.mark.usefixtures("optax_promotion")

Arrays = dict[str, jax.Array]
BAD_CLIP = 7
STEPS = 9


class Colours(nnx.Module):
    """Says how green a picture is by its red."""

    def __init__(self) -> None:
        self.w = nnx.Param(jnp.array([0.3, -0.2]))
        self.offset = nnx.Param(jnp.array(0.1))


class ColourTask(Task):
    """A task; `spoil` may change the loss of a batch."""

    def __init__(self, spoil: Callable[[jax.Array, Any, Mapping[str, jax.Array]], jax.Array] = lambda loss, model, batch: loss):
        super().__init__(Config())
        self._spoil = spoil
        self.drawn: list[int] = []

    @property
    def loss_weights(self) -> Mapping[str, float]:
        return {"square": 1.0}

    def losses(self, model: Colours, batch: Mapping[str, jax.Array], context: Context) -> tuple[Arrays, Arrays]:
        pixel = batch["image"][:, 0, 0].astype(jnp.float32) / 255
        noise = jax.random.normal(context.key, (len(pixel),))
        error = model.w[0] * pixel[:, 0] + model.w[1] * noise + model.offset[...] - pixel[:, 1]
        return {"square": self._spoil(jnp.square(error).mean(), model, batch)}, {"noise": noise.mean()}

    def draw(self, model: Colours, step: int) -> None:
        self.drawn.append(step)


class Averaging(ColourTask):
    """Keeps an exponential moving average of the weights."""

    def init_extra(self, params: Any) -> Any:
        return params

    def update_extra(self, extra: Any, params: Any, step: jax.Array) -> Any:
        return jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, extra, params)


class WarmingUp(ColourTask):
    """Has a schedule of its own."""

    def schedule(self, steps_per_epoch: float) -> optax.Schedule:
        return optax.linear_schedule(0.0, 0.02, 2 * round(steps_per_epoch))


class Watcher:
    """Sends this process a signal after a step, as a Reporter."""

    def __init__(self, stop_after: int = 0, number: signal.Signals = signal.SIGTERM):
        self._stop_after, self._signal = stop_after, number
        self.done: list[tuple[int, str]] = []  # the steps before it, and what the run does
        self.started: list[tuple[int, int]] = []
        self.steps: list[int] = []

    def start(self, first: int, total: int) -> None:
        self.started.append((first, total))

    def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
        self.steps.append(step)
        assert math.isfinite(loss)
        assert pairs_per_second > 0
        assert 0 <= waiting <= 1
        if step == self._stop_after:
            os.kill(os.getpid(), self._signal)

    def doing(self, what: str) -> None:
        self.done.append((len(self.steps), what))


def make_trainer(workdir: Path, *, task: ColourTask | None = None, train: int = 20, test: int | None = 10, micro: int = 4, **changes: Any):
    workdir.mkdir(exist_ok=True)
    settings = {"workdir": str(workdir), "batch_size": 4, "steps": STEPS, "log_every": 1, "eval_every": 4, "checkpoint_every": 3}
    config = apply(Config(), TINY | {f"train.{name}": value for name, value in settings.items()})
    apply(config, {"optim.learning_rate": 0.01} | {name.replace("__", "."): value for name, value in changes.items()})
    held_out = Clips(test) if test is not None else None
    task = task or ColourTask()
    task.config = config
    return Trainer(config, Colours(), task, Clips(train), held_out, micro_batch=micro)


def rows(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def computed(workdir: Path) -> list[dict[str, Any]]:
    """Lists the rows without what they say of the machine."""
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows(workdir)]


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with jax.numpy_dtype_promotion("standard"):
        assert make_trainer(folder).run()
    return folder


def test_each_step_and_evaluation_is_written_once(undisturbed: Path) -> None:
    written = [(row["step"], row["split"]) for row in rows(undisturbed)]
    assert written == [(1, "train"), (2, "train"), (3, "train"), (4, "train"), (4, "eval"), (5, "train"), (6, "train"), (7, "train"),
                       (8, "train"), (8, "eval"), (9, "train"), (9, "eval")]  # fmt: skip
    first = rows(undisturbed)[0]
    numbers = {"step", "split", "loss", "square", "noise", "epoch", "seconds"}
    assert first.keys() == numbers | {"gradient_norm", "learning_rate", "pairs_per_second", "peak_host_gib"}
    assert rows(undisturbed)[4].keys() == numbers
    assert [row["epoch"] for row in rows(undisturbed)][-2:] == pytest.approx([1.8, 1.8])  # 20 clips in batches of 4
    assert [row["seconds"] for row in rows(undisturbed)] == sorted(row["seconds"] for row in rows(undisturbed))
    assert first["learning_rate"] == pytest.approx(0.01)
    assert saved(undisturbed) == [3, 6, 9]
    losses = [row["loss"] for row in rows(undisturbed) if row["split"] == "eval"]
    assert losses == sorted(losses, reverse=True)  # it learns


@pytest.mark.parametrize(("changes", "drawn"), [({}, [4, 8, 9]), ({"train__picture_every": 5}, [5, 9]), ({"train__eval_every": 0}, [5, 9])])
def test_pictures_come_when_they_should(tmp_path: Path, changes: dict[str, Any], drawn: list[int]) -> None:
    task = ColourTask()
    make_trainer(tmp_path, task=task, **changes).run()
    assert task.drawn == drawn


def test_zeros_mean_once_an_epoch(tmp_path: Path) -> None:
    """20 clips in batches of 4: an epoch is 5 steps."""
    trainer = make_trainer(tmp_path, train__steps=0, train__epochs=2.4, train__eval_every=0, train__checkpoint_every=0)
    assert trainer.total_steps == 12
    trainer.run()
    assert [row["step"] for row in rows(tmp_path) if row["split"] == "eval"] == [5, 10, 12]
    assert saved(tmp_path) == [5, 10, 12]


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
    """20 clips in batches of 4: steps 1 to 4 lie within the first epoch."""
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


def test_processes_stop_and_save_as_the_first_one_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[bool]] = []

    def gathered(flags: np.ndarray) -> np.ndarray:
        asked.append(flags.tolist())
        return np.array([[False, True], [True, False], flags.tolist()])

    monkeypatch.setattr("jax.process_count", lambda: 3)
    monkeypatch.setattr("avmae_jax.train.stopping.multihost_utils.process_allgather", gathered)
    assert agreed(False, False) == (True, True)
    assert asked == [[False, False]]
    monkeypatch.setattr(
        "avmae_jax.train.stopping.multihost_utils.process_allgather", lambda flags: np.array([[False, False], [False, True]])
    )
    assert agreed(False, True) == (False, False)


def test_an_evaluation_is_shown_and_logged_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watcher = Watcher()
    with caplog.at_level("INFO", logger="absl"):
        assert make_trainer(tmp_path).run(watcher)
    assert watcher.done == [(4, "evaluating"), (4, ""), (8, "evaluating"), (8, ""), (9, "evaluating"), (9, "")]
    found = {row["step"]: row for row in rows(tmp_path) if row["split"] == "eval"}
    lines = [record.getMessage() for record in caplog.records if "held out" in record.getMessage()]
    assert len(lines) == len(found) == 3
    for line, (step, row) in zip(lines, found.items(), strict=True):
        assert f"step {step} of {STEPS}" in line
        assert f"loss {row['loss']:.4g}" in line


def test_a_picture_that_is_drawn_is_on_the_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, Path]] = []
    monkeypatch.setattr("avmae_jax.train.logbook.Logbook.picture", lambda self, step, png: shown.append((step, png)))
    task = ColourTask()
    monkeypatch.setattr(task, "draw", lambda model, step: tmp_path / f"{step}.png")
    assert make_trainer(tmp_path, task=task).run()
    assert shown == [(step, tmp_path / f"{step}.png") for step in (4, 8, 9)]


def test_edited_numbers_are_noticed_when_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert make_trainer(tmp_path).run()
    with caplog.at_level("WARNING", logger="absl"):
        assert make_trainer(tmp_path).run()
    assert not caplog.records
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if '"step": 4,' not in line))
    with caplog.at_level("WARNING", logger="absl"):
        assert make_trainer(tmp_path, train__steps=STEPS + 1).run()
    assert "steps 4 to 4" in caplog.text
    assert [row["step"] for row in rows(tmp_path) if row["split"] == "gap"] == [4]


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
def test_the_logged_rate_is_that_of_the_tasks_own_schedule(tmp_path: Path) -> None:
    make_trainer(tmp_path, task=WarmingUp(), train__eval_every=100).run()
    rates = [row["learning_rate"] for row in rows(tmp_path) if row["split"] == "train"]
    np.testing.assert_allclose(rates, [0.002 * step for step in range(STEPS)], rtol=1e-6)
    assert rows(tmp_path)[0]["loss"] == rows(tmp_path)[0]["square"]


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


def nan_with_bad_clip(loss: jax.Array, model: Colours, batch: Mapping[str, jax.Array]) -> jax.Array:
    return jnp.where((batch["image"][:, 0, 0, 0] == BAD_CLIP).any(), jnp.nan, loss)


def nan_gradient_with_bad_clip(loss: jax.Array, model: Colours, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The loss stays finite: the square root of 0 has an infinite slope."""
    bad = (batch["image"][:, 0, 0, 0] == BAD_CLIP).any().astype(jnp.float32)
    return loss + bad * jnp.sqrt(0 * model.w[0])


@pytest.mark.parametrize(("spoil", "what"), [(nan_with_bad_clip, "loss"), (nan_gradient_with_bad_clip, "gradient norm")])
@pytest.mark.parametrize("checkpoint_every", [1, 100])
@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, spoil: Any, what: str, checkpoint_every: int) -> None:
    messages = []
    for _ in range(2):  # starting again without a change ends the same
        trainer = make_trainer(tmp_path, task=ColourTask(spoil), test=None, train__checkpoint_every=checkpoint_every, train__keep_last=20)
        with pytest.raises(NonFiniteLossError) as error:
            trainer.run()
        messages.append(str(error.value).splitlines())
    step: int = rows(tmp_path)[-1]["step"] + 1
    assert step > 1
    assert messages[0][0].startswith(f"the {what} of step {step} is nan")
    clips = messages[0][1].removeprefix("clips of that batch: ").split(", ")
    assert len(clips) == 4
    assert f"clip{BAD_CLIP}" in clips
    good = f"{tmp_path}/checkpoints/{step - 1}" if checkpoint_every == 1 else "none yet"
    assert messages[0][2] == f"last good checkpoint: {good}"
    assert messages[0] == messages[1]
    assert saved(tmp_path) == (list(range(1, step)) if checkpoint_every == 1 else [])
    assert all(math.isfinite(row["loss"]) for row in rows(tmp_path))
    if checkpoint_every == 1:
        assert all(np.isfinite(tensor).all() for tensor in restore_params(tmp_path / "checkpoints").params.values())


def test_another_config_is_refused_with_its_fields(tmp_path: Path) -> None:
    assert make_trainer(tmp_path).run()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointMismatchError) as error:
        make_trainer(tmp_path, optim__learning_rate=0.02, train__seed=1, loss__norm_pix=False, train__log_every=2).run()
    assert str(error.value).splitlines()[1:] == [
        "  loss.norm_pix: True in the checkpoint, False now",
        "  optim.learning_rate: 0.01 in the checkpoint, 0.02 now",
        "  train.seed: 0 in the checkpoint, 1 now",
    ]
    with pytest.raises(CheckpointMismatchError, match=r"train_clips: 20.*21"):
        make_trainer(tmp_path, train=21).run()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_other_micro_batches_are_allowed_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert make_trainer(tmp_path).run()
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert make_trainer(tmp_path, micro=2, train__steps=STEPS + 1).run()
    assert re.search("micro-batches .*4.* 2", caplog.text)


@pytest.mark.parametrize("micro", [3, 8])
def test_a_batch_that_does_not_divide_is_refused_with_its_fields(tmp_path: Path, micro: int) -> None:
    with pytest.raises(ValueError, match=rf"train\.batch_size 4.*{micro}.*train\.micro_batch"):
        make_trainer(tmp_path, micro=micro)


@pytest.mark.slow
def test_fewer_clips_than_a_batch_are_enough(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, train=3, train__steps=0, train__epochs=6)
    assert trainer.total_steps == 4  # 18 clips in batches of 4
    assert trainer.run()
    assert len([row for row in rows(tmp_path) if row["split"] == "train"]) == 4


def test_evaluations_of_one_model_are_equal(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first == second
    assert first["noise"] != 0


def test_an_evaluation_is_the_mean_over_whole_batches(tmp_path: Path) -> None:
    means = [make_trainer(tmp_path, test=clips).evaluate() for clips in (4, 8, 11)]
    alone = make_trainer(tmp_path, test=11, train__eval_batches=1).evaluate()
    assert alone["noise"] == means[0]["noise"] != means[1]["noise"]  # of the first batch's key alone
    assert means[1] == means[2]  # 3 clips are left over
    assert means[1] != means[0]


def test_held_out_clips_may_be_fewer_than_a_batch_or_none(tmp_path: Path) -> None:
    assert make_trainer(tmp_path, test=3).evaluate().keys() == {"loss", "square", "noise"}
    assert make_trainer(tmp_path, test=None).evaluate() == {}
    assert make_trainer(tmp_path, test=None).run()
    assert {row["split"] for row in rows(tmp_path)} == {"train"}


@pytest.mark.slow
def test_the_rate_falls_in_epochs(tmp_path: Path) -> None:
    """20 clips in batches of 4: an epoch is 5 steps."""
    make_trainer(tmp_path, optim__decay_start=1, train__eval_every=100).run()
    rates = [row["learning_rate"] for row in rows(tmp_path) if row["split"] == "train"]
    np.testing.assert_allclose(rates, [0.01] * 5 + [0.005] * 4, rtol=1e-6)


@given(st.floats(0.2, 50), st.integers(1, 12))
def test_each_epoch_ends_once(steps_per_epoch: float, epochs: int) -> None:
    """At the step nearest to its end; of epochs shorter than a step the last one counts."""
    steps = range(1, round(epochs * steps_per_epoch) + 1)
    ended = [(step, epoch) for step in steps if (epoch := Epochs(steps_per_epoch).ended_at(step))]
    expected = {round(epoch * steps_per_epoch): epoch for epoch in range(1, epochs + 20)}
    assert ended == [(step, epoch) for step, epoch in expected.items() if step in steps]


def test_an_epoch_that_ends_half_way_between_steps_isn_t_missed() -> None:
    """65 clips in batches of 14: seven epochs are 32.5 steps, which floats put a bit below."""
    assert (round(7 * (65 / 14)), Epochs(65 / 14).ended_at(32)) == (32, 7)
