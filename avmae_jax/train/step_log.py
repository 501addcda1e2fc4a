"""Logs training steps without making the device wait: a step's metrics are read while the next step is computed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import jax

from avmae_jax.checkpoint.manager import Checkpoints
from avmae_jax.errors import NonFiniteLossError
from avmae_jax.train import hosts
from avmae_jax.train.clock import Clock
from avmae_jax.train.logbook import Logbook
from avmae_jax.train.memory import peak_memory
from avmae_jax.train.run_notes import RUN_LOG
from avmae_jax.train.step import Metrics

MEASURED = ("seconds", "pairs_per_second", "peak_device_gib", "peak_host_gib")  # what a line has of the machine, different in every run


class Reporter(Protocol):
    """Shows the progress of a run; launch/common/runtime.py draws a bar."""

    def start(self, first: int, total: int) -> None:
        """Begins a run at step `first` (0: a new run) that ends at step `total`."""
        ...

    def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
        """Reports a finished step; `waiting` is the share of time spent waiting for data."""
        ...

    def doing(self, what: str) -> None:
        """Says what the run does between two steps, such as "evaluating"; "" when it goes on."""
        ...


class _Pending(NamedTuple):
    step: int
    ids: Any  # of the batch's clips
    metrics: Metrics  # still being computed


class StepLog:
    """Writes the metrics of each step to the logbook, and stops the run at the first loss that is not finite."""

    def __init__(
        self, logbook: Logbook, clock: Clock, checkpoints: Checkpoints, reporter: Reporter | None, steps_per_epoch: float, every: int
    ):
        """Keeps where steps are reported: all in the logbook and to the reporter, the first and one in `every` in log.txt."""
        self._logbook, self._clock, self._checkpoints, self._reporter = logbook, clock, checkpoints, reporter
        self._steps_per_epoch, self._every = steps_per_epoch, every
        self._noted = False
        self._pending: _Pending | None = None

    def submit(self, step: int, ids: Any, metrics: Metrics) -> None:
        """Accepts a step that has just been dispatched to the device, and logs the one before it; raises as settle."""
        self.settle()
        self._pending = _Pending(step, ids, metrics)

    def settle(self) -> None:
        """Waits for the step that was submitted last and logs it.

        Raises:
          NonFiniteLossError: if its loss or gradient is not finite.
        """
        if self._pending is None:
            return
        (step, ids, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._require_finite(step, values, ids)
        self._clock.done()
        speed = {"pairs_per_second": self._clock.pairs_per_second, **peak_memory()}
        self._logbook.write(step, "train", values | self.progress(step) | speed)
        if not self._noted or step % self._every == 0:
            words = "step %d, epoch %.2f: loss %.4f, %.1f pairs/s"
            RUN_LOG.info(words, step, step / self._steps_per_epoch, values["loss"], self._clock.pairs_per_second)
            self._noted = True
        if self._reporter:
            self._reporter.step(step, values["loss"], self._clock.pairs_per_second, self._clock.waiting)

    def progress(self, step: int) -> dict[str, float]:
        """Returns how far the run is: "epoch", with a fraction, and "seconds" of training."""
        return {"epoch": step / self._steps_per_epoch, "seconds": round(self._logbook.seconds, 3)}

    def _require_finite(self, step: int, values: dict[str, float], ids: Any) -> None:
        bad = next((name for name in ("loss", "gradient_norm") if not math.isfinite(values[name])), None)
        if bad is None:
            return
        ids = [name for part in hosts.gather([str(name) for name in ids]) for name in part]  # all have the same loss and come here
        self._checkpoints.wait()
        good = self._checkpoints.newest()
        where = f"{self._checkpoints.directory / str(good)}" if good is not None else "none yet"
        parts = ", ".join(f"{name} {value}" for name, value in values.items() if name != bad)
        raise NonFiniteLossError(
            f"the {bad.replace('_', ' ')} of step {step} is {values[bad]} ({parts})\n"
            f"clips of that batch: {', '.join(ids)}\nlast good checkpoint: {where}\n"
            "check these clips, or lower optim.learning_rate, and start again"
        )


@contextmanager
def shown(reporter: Reporter | None, what: str) -> Iterator[None]:
    """Shows what the run does in the block."""
    if reporter:
        reporter.doing(what)
    try:
        yield
    finally:
        if reporter:
            reporter.doing("")
