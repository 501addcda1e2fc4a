"""Records some steps of a run with JAX's profiler, for TensorBoard and Perfetto."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from absl import logging

from avmae_jax.errors import ConfigError, first_line

PROFILE_FOLDER = "profile"  # in the run's folder
_SKIPPED = 3  # the first steps of a start: they compile, fill the reader's buffers and grow the allocator's


class StepProfile:
    """Records a few whole steps; a process that trains together with others records its own devices in a folder of its own."""

    def __init__(self, workdir: Path, count: int, step: int, total: int):
        """Chooses the steps.

        Args:
          workdir: folder of the run.
          count: number of steps; 0: none.
          step: of which the run starts.
          total: steps of the run.

        Raises:
          ConfigError: if the run has too few steps left.
        """
        if count < 0 or (count and step + _SKIPPED + count > total):
            raise ConfigError(
                f"a profile of {count} steps can't be recorded: {total - step} of the run's {total} steps are left, and the first "
                f"{_SKIPPED} after a start are left out; give another number, or more train.steps"
            )
        parts = [f"process_{jax.process_index()}"] if jax.process_count() > 1 else []
        self._folder = workdir.joinpath(PROFILE_FOLDER, *parts)
        self._first = self._last = step + _SKIPPED
        self._end, self._running = self._first + count, False

    @contextmanager
    def step(self, number: int, state: Callable[[], Any]) -> Iterator[None]:
        """Records the block if it is one of the steps, with everything that the devices do for it.

        Args:
          number: steps done before.
          state: returns what the last dispatched step computes; it is waited for before the first recorded step and after the last.
        """
        if not self._first <= number < self._end:
            yield
            return
        if not self._running:
            jax.block_until_ready(state())
            self._start()
        with jax.profiler.StepTraceAnnotation("train", step_num=number + 1):
            yield
            self._last = number + 1
            if self._last == self._end:
                jax.block_until_ready(state())
        if self._last == self._end:
            self.close()

    def close(self) -> None:
        """Writes what was recorded, if anything was and isn't written yet."""
        if not self._running:
            return
        self._running = False
        try:
            jax.profiler.stop_trace()
        except (RuntimeError, OSError) as error:  # of a full disk, say: the run goes on
            logging.warning("the profile can't be written to %s: %s", self._folder, first_line(error))
            return
        logging.info("the profile of steps %d to %d is in %s", self._first + 1, self._last, self._folder)

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # calls of Python functions would slow the steps down and fill the trace
        jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
        self._running = True
