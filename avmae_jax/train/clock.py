"""Measures the speed of a run."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


class Clock:
    """Measures pairs per second and the share of time in which the devices wait for data, over the last steps."""

    def __init__(self, batch_size: int, memory: int = 20):
        """Starts the clock; `memory` is the number of latest steps that count."""
        self._batch, self._memory = batch_size, memory
        self._ends = [time.monotonic()]
        self._waits: list[float] = [0.0]

    @contextlib.contextmanager
    def wait(self, computed: Any) -> Iterator[None]:
        """Counts the time of the block as waiting, from when the devices have nothing left to do.

        Args:
          computed: results of the latest step, which may still be computed; {}: there is none.
        """
        begin, ready = time.monotonic(), list[float]()

        def watch() -> None:
            with contextlib.suppress(RuntimeError):  # a step that fails is reported when its metrics are fetched
                jax.block_until_ready(computed)
            ready.append(time.monotonic())

        threading.Thread(target=watch, daemon=True).start()
        yield
        end = time.monotonic()
        self._waits[-1] += end - max(begin, min([end, *ready]))

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
