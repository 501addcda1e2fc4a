"""Lets Orbax's threads wait for those of other processes, but not after a failure."""

import sys
import threading
from collections.abc import Callable

import jax
import orbax.checkpoint as ocp


def barrier(on_failure: Callable[[], None]) -> Callable[..., None] | None:
    """Returns how Orbax's threads wait for the other processes; None where there are none.

    A thread that has failed doesn't wait: the others, which wait for what it should have written, would come after Orbax's 20 minutes, and
    the error would be that it was waited for.

    Args:
      on_failure: is called in the thread that has failed.
    """
    if jax.process_count() == 1:
        return None
    wait = ocp.multihost.get_barrier_sync_fn()

    def wait_unless_failed(*, key: str, timeout_ms: int) -> None:
        error = sys.exception()  # of the thread, which comes here while it passes its error on
        if error and threading.current_thread() is not threading.main_thread():
            on_failure()
            raise error
        wait(key=key, timeout_ms=timeout_ms)

    return wait_unless_failed
