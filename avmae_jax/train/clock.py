"""Measures the speed of a run."""

import contextlib
import time
from collections.abc import Iterator

import jax
import numpy as np


class Clock:
    """Measures pairs per second and the share of time spent waiting for data, over the last steps."""

    def __init__(self, batch_size: int, memory: int = 20):
        """Starts the clock; `memory` is the number of latest steps that count."""
        self._batch, self._memory = batch_size, memory
        self._ends = [time.monotonic()]
        self._waits: list[float] = [0.0]

    @contextlib.contextmanager
    def wait(self) -> Iterator[None]:
        """Counts the time of the block as waiting, and shows it in a profile."""
        begin = time.monotonic()
        with jax.profiler.TraceAnnotation("wait for data"):
            yield
        self._waits[-1] += time.monotonic() - begin

    def done(self) -> None:
        """Ends a step."""
        self._ends.append(time.monotonic())
        self._waits.append(0.0)
        del self._ends[: -self._memory - 1], self._waits[: -self._memory - 1]

    @property
    def pairs_per_second(self) -> float:
        """Computes the speed over the last steps."""
        return self._batch * (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-9)

    @property
    def waiting(self) -> float:
        """Computes the share of that time spent waiting, in [0, 1]."""
        return float(np.clip(sum(self._waits) / max(self._ends[-1] - self._ends[0], 1e-9), 0, 1))
