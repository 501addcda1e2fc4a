"""Puts the next batch on the devices while the step before it is computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from avmae_jax.data.batches import Batch, TrainBatches


class Feed:
    """Reads one batch ahead in a thread; `state` is the position after the batches that were taken, for a checkpoint."""

    def __init__(self, batches: TrainBatches, place: Callable[[Batch], Any]):
        """Reads nothing yet.

        Args:
          batches: what to read; nobody else may read them.
          place: puts a batch on the devices.
        """
        self._batches, self._place = batches, place
        self._thread = ThreadPoolExecutor(1, "next batch")  # starts with the first batch
        self._coming: Future[tuple[Any, Any]] | None = None
        self._position: dict[str, Any] = {}  # before the batch that is coming

    @property
    def state(self) -> dict[str, Any]:
        """Returns the reader's position after the batches that were taken."""
        return self._batches.state if self._coming is None else self._position

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._batches.state = state

    @property
    def ready(self) -> bool:
        """Returns whether the next batch can be taken without waiting."""
        return self._coming is not None and self._coming.done()

    def read_ahead(self) -> Future[tuple[Any, Any]]:
        """Starts to read the next batch unless it is coming already; what goes wrong with it is raised where it is taken."""
        if self._coming is None:
            self._position = self._batches.state
            self._coming = self._thread.submit(self._read)
        return self._coming

    def take(self) -> tuple[Any, Any]:
        """Returns the ids of the next batch's clips and the batch on the devices; waits until it is there, which a profile shows."""
        with jax.profiler.TraceAnnotation("wait for data"):
            found = self.read_ahead().result()
        self._coming = None
        return found

    def close(self) -> None:
        """Ends the thread, and the reader's threads and processes."""
        self._thread.shutdown()
        self._batches.close()

    def _read(self) -> tuple[Any, Any]:
        batch = next(self._batches)
        return batch["id"], self._place(batch)
