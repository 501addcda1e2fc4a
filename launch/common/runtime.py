"""Sets up what every program needs: logging and progress bars."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import WARNING, Formatter, LogRecord, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from absl import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from avmae_jax.files import OnProgress


_BACKENDS = "jax._src.xla_bridge"  # the logger of what JAX loads for its devices
_MEASURABLE = 1.0  # seconds; a speed over less says nothing


def start() -> None:
    """Logs progress to standard error, and prepares the allocator for the large buffers of a step and the collector for its trace."""
    from avmae_jax.train.allocator import keep_freed_memory

    keep_freed_memory()
    collect_rarely()
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_ours_or_serious)
    getLogger(_BACKENDS).addFilter(_in_a_line)


def collect_rarely() -> None:
    """Lets Python's collector look at new objects less often: tracing makes many, few of them garbage, and that took a tenth of a start."""
    gc.set_threshold(50_000)


def console(file: TextIO | None = None) -> Console:
    """Returns a console on a file, the standard output by default; one that is no terminal gets lines of 160 letters."""
    out = file or sys.stdout
    return Console(file=out, width=None if out.isatty() else 160)


def _ours_or_serious(record: LogRecord) -> bool:
    """Drops the log lines of other libraries that are not at least warnings."""
    return record.levelno >= WARNING or bool({"avmae_jax", "launch"} & set(Path(record.pathname).parts))


def _in_a_line(record: LogRecord) -> bool:
    """Names a GPU's libraries that are installed and can't be used in a line, in place of the traceback that JAX logs."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, Exception):
        from avmae_jax.errors import first_line

        reason = first_line(error)
        cuda = "cuda" in f"{record.args} {reason}".lower()
        what = "CUDA wheels are installed, but no GPU could be used" if cuda else "a plugin of JAX is installed that can't be used"
        record.msg, record.args, record.exc_info, record.exc_text = f"{what}: {reason}", (), None, None
    return True


class TrainingBar:
    """Shows training as a bar on a terminal; elsewhere logs the first step, the last, and one in `every`. Implements train.Reporter."""

    def __init__(self, every: int, *, shown: bool = True):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[numbers]}"),
            console=Console(file=sys.stderr),
            disable=not (shown and sys.stderr.isatty()),
        )
        self._every, self._first, self._total = every, 0, 0
        self._generation: TaskID | None = None
        self._task = self._progress.add_task("training", total=None, numbers="compiling ...")

    def generating(self, done: int, failed: int, total: int) -> None:
        """Follows the generation of the built-in set, before training begins."""
        if self._generation is None:
            logging.info("generating %d clips of the built-in set", total)
            self._generation = self._progress.add_task("generating", total=total, numbers="")
        self._progress.update(self._generation, completed=done, numbers=f"{failed} failed" if failed else "")

    def start(self, first: int, total: int) -> None:
        """Sets the steps that are done already and those in all."""
        self._first, self._total = first, total
        self._progress.update(self._task, total=total, completed=first)

    def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
        """Shows the loss, the speed and the share of time spent waiting for data after a step."""
        numbers = f"loss {loss:.4f}  {pairs_per_second:.1f} pairs/s  waiting for data {waiting:.0%}"
        self._progress.update(self._task, completed=step, numbers=numbers, description="training")
        if self._progress.disable and (step % self._every == 0 or step in (self._first + 1, self._total)):
            logging.info("step %d of %d: %s", step, self._total, numbers)

    def doing(self, what: str) -> None:
        """Shows what happens between two steps in place of "training"."""
        self._progress.update(self._task, description=what or "training")

    @contextmanager
    def shown(self) -> Iterator[TrainingBar]:
        """Shows the bar inside the block, and what is logged above it."""
        handler = logging.get_absl_handler().python_handler
        with self._progress:
            before = handler.setStream(sys.stderr)  # which the bar has replaced, if it is shown
            try:
                yield self
            finally:
                if before is not None:
                    handler.setStream(before)


def print_warning(summary: Mapping[str, Any]) -> None:
    """Prints what a run's summary warns of, if it does."""
    if summary.get("warning"):
        print(f"warning: {summary['warning']}")


@contextmanager
def progress_bar(title: str) -> Iterator[OnProgress]:
    """Shows clips done, clips a second, and failures so far, on standard error."""
    counts = TextColumn("{task.fields[rate]} clips/s, {task.fields[failed]} failed")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), counts)
    progress = Progress(*columns, console=Console(file=sys.stderr))
    task = progress.add_task(title, total=None, failed=0, rate="-", visible=False)
    first, begin = 0, None

    def advance(done: int, failed: int, total: int) -> None:
        progress.start()  # not before, since an empty bar leaves an empty line
        nonlocal first, begin
        if begin is None:
            first, begin = done, time.monotonic()  # those of an earlier run aren't counted
        seconds = time.monotonic() - begin
        rate = f"{(done - first) / seconds:.1f}" if seconds >= _MEASURABLE else "-"
        progress.update(task, visible=True, completed=done, total=total, failed=failed, rate=rate)

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()
