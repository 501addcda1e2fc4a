"""Turns SIGTERM, which schedulers send some time before they kill a job, into a request that a loop checks between steps."""

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns True once SIGTERM has arrived; the handler from before comes back after the block."""
    requested = False

    def handler(*_: object) -> None:
        nonlocal requested
        requested = True

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGTERM, previous)
