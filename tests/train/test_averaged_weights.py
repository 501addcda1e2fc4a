"""Tests train.ema: the moving average of the weights in a run, after a kill, in its evaluation, and as a model."""

from pathlib import Path

import numpy as np
import pytest

from avmae_jax.checkpoint.manager import restore_params, steps_of
from avmae_jax.errors import CheckpointMismatchError
from avmae_jax.train.snapshots import EMA, Snapshots, set_aside
from tests.train.colours import STEPS, Watcher, computed, make_trainer, rows
from tests.train.test_loop_resumed import Killed, weights
from tests.train.test_snapshots import kept, params

pytestmark = pytest.mark.usefixtures("optax_promotion")


class Kill(Watcher):
    """Kills the run after a step, without saving."""

    def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
        super().step(step, loss, pairs_per_second, waiting)
        if step == 5:
            raise Killed


@pytest.mark.slow
def test_the_average_follows_its_formula_and_is_evaluated_and_saved(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, train__ema=0.75, train__checkpoint_every=1, train__keep_last=STEPS)
    average = weights(trainer.params)
    assert trainer.run()
    for step in range(1, STEPS + 1):
        now = restore_params(tmp_path / "checkpoints" / str(step)).params
        average = {name: 0.75 * value + 0.25 * np.asarray(now[name]) for name, value in average.items()}
    saved = restore_params(tmp_path / EMA)
    assert saved.step == STEPS
    for name, value in weights(saved.params).items():
        np.testing.assert_allclose(value, average[name], rtol=1e-5)
        assert (value != weights(trainer.params)[name]).all()
    last = next(row for row in reversed(rows(tmp_path)) if row["split"] == "eval")
    assert {"ema_loss", "ema_square"} <= last.keys()
    assert last["ema_square"] == pytest.approx(trainer.evaluate_averaged()["square"])
    assert last["ema_square"] != last["square"] == pytest.approx(trainer.evaluate()["square"])


@pytest.mark.slow
def test_it_comes_back_to_the_last_bit_after_a_kill(tmp_path: Path) -> None:
    assert make_trainer(tmp_path / "whole", train__ema=0.9).run()
    with pytest.raises(Killed):
        make_trainer(tmp_path / "killed", train__ema=0.9).run(Kill())
    assert make_trainer(tmp_path / "killed", train__ema=0.9).run()
    whole, killed = (weights(restore_params(tmp_path / name / EMA).params) for name in ("whole", "killed"))
    for name, value in whole.items():
        assert value.tobytes() == killed[name].tobytes()
    assert computed(tmp_path / "whole") == computed(tmp_path / "killed")


def test_without_it_nothing_is_kept(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    assert trainer.run()
    assert trainer.state.extra == {}
    assert trainer.evaluate_averaged() == {}
    assert trainer.averaged_model is None
    assert not steps_of(tmp_path / EMA)
    with pytest.raises(CheckpointMismatchError, match=r"train\.ema: 0\.0 in the checkpoint, 0\.5 now"):
        make_trainer(tmp_path, train__ema=0.5, train__steps=STEPS + 1).run()


@pytest.mark.slow
def test_a_cosine_is_bound_to_the_length_of_its_run(tmp_path: Path) -> None:
    assert make_trainer(tmp_path / "cosine", optim__schedule="cosine").run()
    rates = [row["learning_rate"] for row in rows(tmp_path / "cosine") if row["split"] == "train"]
    np.testing.assert_allclose(rates, 0.005 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS)), rtol=1e-5)
    with pytest.raises(CheckpointMismatchError, match=rf"train\.steps: {STEPS} in the checkpoint, {STEPS + 3} now"):
        make_trainer(tmp_path / "cosine", optim__schedule="cosine", train__steps=STEPS + 3).run()


def test_a_warm_up_longer_than_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"optim\.warmup_steps is 26.* 25 steps"):
        make_trainer(tmp_path, train__steps=0, train__epochs=5.0, optim__warmup_steps=26)


def test_an_average_without_checkpoint_is_set_aside_and_a_repeated_one_replaced(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, dict)
    for step, value in ((10, 1.0), (20, 2.0), (10, 3.0)):  # the run resumed before step 10
        snapshots.ema(step, params(value))
        assert kept(tmp_path, EMA) == (step, value)
    set_aside(tmp_path)
    assert kept(tmp_path, f"{EMA}.before-1") == (10, 3.0)
