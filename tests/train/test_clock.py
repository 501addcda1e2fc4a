"""Tests what counts as waiting for data, with a clock that is set by hand."""

import threading
import time

import pytest

from avmae_jax.train.clock import Clock


class Step:
    """Stands for the results of a step that runs until it is told to end."""

    def __init__(self) -> None:
        self._ended, self._watched = threading.Event(), threading.Event()

    def block_until_ready(self) -> "Step":
        self._watcher = threading.current_thread()
        self._watched.set()
        self._ended.wait(10)
        return self

    def end(self) -> None:
        """Returns once the clock has noticed."""
        assert self._watched.wait(10)
        self._ended.set()
        self._watcher.join(10)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Returns the time in its first place, and takes another."""
    seconds = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    return seconds


def test_a_batch_that_comes_while_the_step_runs_was_not_waited_for(now: list[float]) -> None:
    clock, step = Clock(8), Step()
    with clock.wait([step]):
        now[0] = 30.0
    now[0] = 40.0
    step.end()
    clock.done()
    assert clock.waiting == 0
    assert clock.pairs_per_second == 8 / 40


def test_waiting_begins_when_the_devices_have_nothing_left_to_do(now: list[float]) -> None:
    clock, step = Clock(8), Step()
    with clock.wait([step]):
        now[0] = 40.0
        step.end()
        now[0] = 50.0
    clock.done()
    assert clock.waiting == pytest.approx(0.2)


def test_without_a_step_under_way_all_time_is_waiting(now: list[float]) -> None:
    clock = Clock(8)
    now[0] = 10.0
    with clock.wait({}):
        now[0] = 40.0
    clock.done()
    assert clock.waiting == pytest.approx(0.75)
