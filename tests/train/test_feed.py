"""Checks that the loop reads ahead, that a checkpoint doesn't notice, and that nothing but the step runs between two steps."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring

from avmae_jax.data.batches import TrainBatches
from avmae_jax.train.clock import Clock
from avmae_jax.train.feed import Feed
from tests.train.colours import STEPS, Watcher, make_trainer


class Numbers:
    """Counts batches from 0, as TrainBatches; reads none before `free` is set, and fails at number `bad`."""

    def __init__(self, bad: int | None = None):
        self.state, self.free, self._bad = {"next": 0}, threading.Event(), bad
        self.closed = False
        self.free.set()

    def __next__(self) -> dict[str, Any]:
        assert self.free.wait(10)
        number = self.state["next"]
        if number == self._bad:
            raise OSError(f"batch {number}")
        self.state = {"next": number + 1}
        return {"id": [number], "image": number}

    def close(self) -> None:
        self.closed = True


def feed_of(numbers: Any) -> Feed:
    return Feed(numbers, lambda batch: -batch["image"])


def wait_for(feed: Feed) -> None:
    for _ in range(1000):
        if feed.ready:
            return
        time.sleep(0.01)
    raise AssertionError("the batch never came")


def test_the_state_is_that_of_the_batches_taken() -> None:
    numbers = Numbers()
    feed = feed_of(numbers)
    assert (feed.take(), feed.state) == (([0], 0), {"next": 1})
    feed.read_ahead()
    wait_for(feed)
    assert (numbers.state, feed.state) == ({"next": 2}, {"next": 1})
    assert (feed.take(), feed.state) == (([1], -1), {"next": 2})
    feed.close()
    assert numbers.closed


def test_a_batch_is_ready_when_it_has_been_read() -> None:
    numbers = Numbers()
    feed = feed_of(numbers)
    numbers.free.clear()
    feed.read_ahead()
    feed.read_ahead()  # one is coming already
    assert not feed.ready
    numbers.free.set()
    wait_for(feed)
    assert feed.take() == ([0], 0)
    assert not feed.ready
    feed.close()
    assert numbers.state == {"next": 1}


def test_what_goes_wrong_is_raised_where_the_batch_is_taken() -> None:
    feed = feed_of(Numbers(bad=1))
    feed.take()
    feed.read_ahead()
    wait_for(feed)
    assert feed.state == {"next": 1}
    with pytest.raises(OSError, match="batch 1"):
        feed.take()
    assert feed.state == {"next": 1}
    feed.close()


class Programs(Watcher):
    """Forgets all compiled programs after each step, and notes the names of those that are compiled again."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        monitoring.register_event_duration_secs_listener(self.note)

    def note(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.names.append(str(kwargs.get("fun_name")))

    def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
        super().step(step, loss, pairs_per_second, waiting)
        jax.clear_caches()
        if step == 1:
            self.names.clear()
        if step == STEPS - 1:  # what comes now is the end of the run
            monitoring.unregister_event_duration_listener(self.note)


def programs(folder: Path) -> set[str]:
    """Runs ordinary steps alone and returns the names of the programs between them."""
    watcher = Programs()
    never: dict[str, Any] = {f"train__{name}_every": 100 for name in ("eval", "picture", "checkpoint", "log")}
    trainer = make_trainer(folder, test=None, **never)
    trainer.run(watcher)
    return set(watcher.names)


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.slow
def test_no_program_but_the_step_runs_between_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not programs(tmp_path / "ours")  # the step was compiled before the first one, once and for all
    done = Clock.done

    def with_a_program(self: Clock) -> None:
        jnp.sin(1.0)
        done(self)

    monkeypatch.setattr(Clock, "done", with_a_program)
    assert any("sin" in name for name in programs(tmp_path / "other"))


@pytest.mark.usefixtures("optax_promotion")
def test_the_loop_reads_no_batch_after_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, following = [], TrainBatches.__next__
    monkeypatch.setattr(TrainBatches, "__next__", lambda self: read.append(1) or following(self))
    assert make_trainer(tmp_path, test=None).run()
    assert len(read) == STEPS


class Running:
    """Stands for results that aren't computed before the loop has dispatched the next step."""

    def __init__(self, value: Any):
        self.computed, self._value = threading.Event(), value

    def block_until_ready(self) -> Any:
        assert self.computed.wait(10), "the loop waits for a step before it dispatches the next one"
        return self

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return np.asarray(self.block_until_ready()._value)


@pytest.mark.usefixtures("optax_promotion")
def test_a_late_batch_is_trained_on_as_soon_as_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains on a batch while the step before it still runs; the devices have work then, so no time counts as waiting for data."""
    never: dict[str, Any] = {f"train__{name}_every": 100 for name in ("eval", "picture", "checkpoint")}
    trainer, following = make_trainer(tmp_path, test=None, train=4 * STEPS, **never), TrainBatches.__next__
    wanted, wait, take_step, dispatched = threading.Event(), Clock.wait, trainer._take_step, list[Running]()

    def late(self: TrainBatches) -> Any:
        assert wanted.wait(10)
        wanted.clear()
        return following(self)

    @contextmanager
    def wait_noted(self: Clock, computed: Any) -> Iterator[None]:
        with wait(self, computed):
            wanted.set()
            yield

    def step(*given: Any) -> Any:
        leaves, metrics = take_step(*given)
        dispatched.append(Running(metrics["loss"]))
        for each in dispatched[: None if len(dispatched) == STEPS else -1]:
            each.computed.set()
        return leaves, metrics | {"loss": dispatched[-1]}

    monkeypatch.setattr(TrainBatches, "__next__", late)
    monkeypatch.setattr(Clock, "wait", wait_noted)
    monkeypatch.setattr(trainer, "_take_step", step)
    watcher = Watcher()
    assert trainer.run(watcher)
    assert watcher.steps == list(range(1, STEPS + 1))
