"""Tests the loop on a model of three numbers: what it writes when, how it stops, and that a resumed run is the same.

The command itself, killed and started again, is in tests/launch/test_pretrain_interrupted.py.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avmae_jax.checkpoint.manager import restore_params
from avmae_jax.errors import NonFiniteLossError
from tests.train.colours import STEPS, Colours, ColourTask, Watcher, make_trainer, rows, saved

pytestmark = pytest.mark.usefixtures("optax_promotion")

BAD_CLIP = 7


class WarmingUp(ColourTask):
    """Has a schedule of its own."""

    def schedule(self, steps_per_epoch: float, total_steps: int) -> optax.Schedule:
        return optax.linear_schedule(0.0, 0.02, 2 * round(steps_per_epoch))


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


@pytest.mark.slow
def test_the_logged_rate_is_that_of_the_tasks_own_schedule(tmp_path: Path) -> None:
    make_trainer(tmp_path, task=WarmingUp(), train__eval_every=100).run()
    rates = [row["learning_rate"] for row in rows(tmp_path) if row["split"] == "train"]
    np.testing.assert_allclose(rates, [0.002 * step for step in range(STEPS)], rtol=1e-6)
    assert rows(tmp_path)[0]["loss"] == rows(tmp_path)[0]["square"]


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
    assert re.search(f"{what}.*step {step} .*nan", messages[0][0])
    clips = re.findall(r"\bclip\d+", messages[0][1])
    assert len(clips) == 4
    assert f"clip{BAD_CLIP}" in clips
    assert (f"{tmp_path}/checkpoints/{step - 1}" in messages[0][2]) == (checkpoint_every == 1)
    assert messages[0] == messages[1]
    assert saved(tmp_path) == (list(range(1, step)) if checkpoint_every == 1 else [])
    assert all(math.isfinite(row["loss"]) for row in rows(tmp_path))
    if checkpoint_every == 1:
        assert all(np.isfinite(tensor).all() for tensor in restore_params(tmp_path / "checkpoints").params.values())


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


def test_a_step_is_called_with_arrays_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX goes through nodes of nnx in Python, which takes longer than the rest of a call."""
    trainer = make_trainer(tmp_path, test=None, train__steps=2)
    given, take_step = list[Any](), trainer._take_step
    monkeypatch.setattr(trainer, "_take_step", lambda *args: given.append(args) or take_step(*args))
    before = trainer.state
    assert trainer.run()
    for leaves, *_ in given:
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert jax.tree.structure(trainer.state) == jax.tree.structure(before)
