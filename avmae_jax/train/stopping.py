"""Turns SIGTERM, which schedulers send before they kill a job, and Ctrl-C (SIGINT) into requests that a loop checks between steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], str]]:
    """Yields a function that returns the name of the signal that has arrived, "" if none has.

    After the first signal, Ctrl-C gets the system's own handling: it ends the process at once, whatever code is running, and without a
    traceback. The handlers from before come back after the block. Only a program's main thread can handle signals; in another thread
    nothing is ever requested.
    """
    requested = ""

    def handler(number: int, _: object) -> None:
        nonlocal requested
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not requested:
            requested = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            logging.info("%s: stopping after this step, which is saved; Ctrl-C stops at once", requested)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: ""
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield lambda: requested
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def ctrl_c_held() -> Iterator[None]:
    """Delays Ctrl-C until the end of the block; processes that are started in it never get one, but end with this process."""
    resource_tracker.ensure_running()  # multiprocessing starts it with the first process, and lets Ctrl-C through again when it does
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Agreement:
    """Lets the processes of a run stop and save after the same step without waiting for their devices, which have steps to compute."""

    def __init__(self, mesh: Mesh):
        """Takes the mesh of the devices of all processes."""
        self._rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(lambda flags: flags.any(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._asked: jax.Array | None = None

    def decide(self, stop: bool, save: bool, *, asks: bool) -> tuple[bool, bool]:
        """Returns whether to stop and whether to save after this step; several processes hear the answer a step after they ask.

        Every process must call it after the same steps, with the same `asks`.

        Args:
          stop: whether this process is asked to stop; all do if any is.
          save: whether this process wants to save; all do if the first one wants to.
          asks: whether several processes ask each other now.
        """
        if jax.process_count() == 1:
            return stop, save
        stops, saves = (False, False) if self._asked is None else map(bool, jax.device_get(self._asked))
        self._asked = self._ask(stop, save and not saves) if asks else None
        return stops, saves

    def _ask(self, stop: bool, save: bool) -> jax.Array:
        flags = np.array([[stop, save and jax.process_index() == 0]])
        return self._any(jax.make_array_from_callback((self._rows.mesh.size, 2), self._rows, lambda _: flags))
