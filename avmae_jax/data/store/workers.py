"""Runs many jobs on processes that may die and gives results in the order of the jobs.

A codec that crashes or a system that runs out of memory kills the process it happens in. Python's pool then breaks as a whole and doesn't
say on which job. Here the jobs that were running are run again, each alone in a process of its own: the one that kills its process again is
reported, the others lose nothing.

Processes are spawned, not forked: the parent may hold JAX's threads. They end with their parent, even if it is killed.
"""

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from avmae_jax.errors import DatasetError

J = TypeVar("J")
R = TypeVar("R")

_AHEAD = 2  # jobs a worker has waiting, so that none idles while an early result is awaited


def run_ordered(jobs: Iterable[J], work: Callable[[J], R], *, workers: int, on_death: Callable[[J], R]) -> Generator[R, None, None]:
    """Yields work(job) of each job, in order.

    Args:
      jobs: taken as they are needed; picklable.
      work: picklable; what it raises is raised here.
      workers: processes; 0 works in this one.
      on_death: gives the result of a job whose process died, twice.

    Raises:
      DatasetError: if no worker process can be started at all.
    """
    if workers == 0:
        yield from map(work, jobs)
        return
    pending: collections.deque[tuple[J, Future[R]]] = collections.deque()
    pool = _pool(workers)
    try:
        for job in jobs:
            try:
                pending.append((job, _submit(pool, work, job)))
            except BrokenProcessPool:
                pool = _pool(workers)
                pending.append((job, _submit(pool, work, job)))
            if len(pending) > _AHEAD * workers:
                yield _result(*pending.popleft(), work, on_death)
        while pending:
            yield _result(*pending.popleft(), work, on_death)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(job: J, future: "Future[R]", work: Callable[[J], R], on_death: Callable[[J], R]) -> R:
    try:
        return future.result()
    except BrokenProcessPool:
        with _pool(1) as alone:
            _check_start(alone)
            try:
                return _submit(alone, work, job).result()
            except BrokenProcessPool:
                return on_death(job)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)


def _submit(pool: ProcessPoolExecutor, work: Callable[[J], R], job: J) -> "Future[R]":
    """Submits a job. Workers start here, and inherit that Ctrl-C is blocked: it is left to the parent, while they import too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(work, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_start(pool: ProcessPoolExecutor) -> None:
    """Distinguishes a job that crashes its worker from workers that cannot start at all: raises DatasetError for the latter."""
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise DatasetError(
            "worker processes die before they do anything; a script that starts them must do its work under "
            '`if __name__ == "__main__":`, and the machine must have memory for them. Or give workers=0.'
        ) from error


def _start_worker() -> None:
    """Ends this worker when the parent is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
