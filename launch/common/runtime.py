"""What every launch program does first and last: logging, devices, progress."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging import WARNING, Formatter, LogRecord
from pathlib import Path

import jax
from absl import app, logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from avmae_jax.files import OnProgress
from avmae_jax.train.allocator import keep_freed_memory


def start() -> None:
    """Logs to the standard error, at the level of a person's interest, and sets up the process for a step's large buffers."""
    keep_freed_memory()
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_ours_or_serious)


def cache_programs() -> None:
    """Keeps compiled programs in ~/.cache/avmae_jax/programs, or in $JAX_COMPILATION_CACHE_DIR, so that a second call needn't compile."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/avmae_jax/programs").expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _ours_or_serious(record: LogRecord) -> bool:
    """Keeps the libraries' small talk off the screen; their warnings stay."""
    return record.levelno >= WARNING or bool({"avmae_jax", "launch"} & set(Path(record.pathname).parts))


def parse_flags(argv: list[str]) -> list[str]:
    """app.run's parser, with a line where it has a traceback: a field that the config doesn't have, or a value in place of a group."""
    try:
        return app.parse_flags_with_usage(argv)
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"--config: {error.args[0]}; the fields are in avmae_jax/config.py")


def device_line() -> str:
    """What the run runs on, in words."""
    device = jax.devices()[0]
    kind = f"{jax.device_count()} x {device.device_kind}" if device.platform != "cpu" else f"CPU, {jax.device_count()} device(s)"
    return f"{kind}; jax {jax.__version__}, process {jax.process_index() + 1} of {jax.process_count()}"


class TrainingBar:
    """train.Reporter as a bar on a terminal, or lines where there is none: of the first step, the last, and every so many."""

    def __init__(self, every: int):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[numbers]}"),
            console=Console(file=sys.stderr),
            disable=not sys.stderr.isatty(),
        )
        self._every, self._first, self._total = every, 0, 0
        self._task = self._progress.add_task("training", total=None, numbers="compiling ...")

    def start(self, first: int, total: int) -> None:
        """See train.Reporter."""
        self._first, self._total = first, total
        self._progress.update(self._task, total=total, completed=first)

    def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
        """See train.Reporter."""
        numbers = f"loss {loss:.4f}  {pairs_per_second:.1f} pairs/s  waiting for data {waiting:.0%}"
        self._progress.update(self._task, completed=step, numbers=numbers)
        if self._progress.disable and (step % self._every == 0 or step in (self._first + 1, self._total)):
            logging.info("step %d of %d: %s", step, self._total, numbers)

    @contextmanager
    def shown(self) -> Iterator["TrainingBar"]:
        """The bar is on the screen inside the block."""
        with self._progress:
            yield self


@contextmanager
def progress_bar(title: str) -> Iterator[OnProgress]:
    """Shows clips done, clips a second, and failures so far, on standard error."""
    counts = TextColumn("{task.fields[rate]} clips/s, {task.fields[failed]} failed")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), counts)
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        task = progress.add_task(title, total=None, failed=0, rate="-", visible=False)

        def advance(done: int, failed: int, total: int) -> None:
            speed = progress.tasks[task].speed
            progress.update(task, visible=True, completed=done, total=total, failed=failed, rate="-" if speed is None else f"{speed:.1f}")

        yield advance
