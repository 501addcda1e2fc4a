"""Times functions in turns, measures memory, and prints tables. This module imports neither JAX nor PyTorch."""

import importlib
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

Run = Callable[[], Any]  # does some work to its end and returns what it computed


class Turns(NamedTuple):
    """The cost of each turn of one side, float[rounds]."""

    clock: np.ndarray  # seconds
    cpu: np.ndarray  # CPU seconds of this process, with all of its threads


def take_turns(
    sides: Mapping[str, Run], rounds: int, check: Callable[[Mapping[str, Any]], None] = lambda results: None
) -> dict[str, Turns]:
    """Runs every side once a round, so that other load on the machine hits all sides alike.

    Args:
      sides: what to time, by name.
      rounds: how many to count, after one that compiles and fills caches.
      check: called after every round with what each side returned; raises if the sides did different work.
    """
    costs: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(rounds + 1):
        results = {}
        for side, run in sides.items():
            clock, cpu = time.perf_counter(), time.process_time()
            results[side] = run()
            costs[side].append((time.perf_counter() - clock, time.process_time() - cpu))
        check(results)
    return {side: Turns(*np.array(turns[1:]).T) for side, turns in costs.items()}


def ratio(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Formats ours / theirs: the median over the rounds and its range."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*np.quantile(ours / theirs, [0.5, 0, 1]))


def show(title: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], note: str) -> None:
    """Prints a table, its floats with four digits, and a note."""
    table = Table(*headings, title=title, caption=note)
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=140).print(table)


def peak_memory() -> float:
    """Returns the most memory that this process has held, in GiB; NaN where there is no /proc.

    ru_maxrss of getrusage would do on more systems, but includes what the parent process held until exec.
    """
    status = Path("/proc/self/status")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    return int(fields["VmHWM"].split()[0]) / 2**20 if fields else float("nan")


def peak_alone(module: str, *arguments: Any) -> float:
    """Returns the peak memory, in GiB, of a new process that calls the module's prepare(*arguments) and runs the result twice.

    The first step allocates the optimizer's moments, and only the second one holds them beside everything else.

    Raises:
      ValueError: if the process fails, with its last words.
    """
    command = [sys.executable, "-m", "launch.benchmarks.measuring"]
    done = subprocess.run(command, input=pickle.dumps((module, arguments)), capture_output=True, check=False)  # noqa: S603, this file
    if done.returncode:
        words = "killed, perhaps for its memory: lower train.batch_size" if done.returncode == -9 else done.stderr.decode().strip()[-500:]
        raise ValueError(f"{module} failed in a process of its own: {words}")
    return float(done.stdout)


if __name__ == "__main__":
    name, given = pickle.load(sys.stdin.buffer)  # noqa: S301, written by peak_alone
    prepared: Run = importlib.import_module(name).prepare(*given)
    prepared()
    prepared()
    print(peak_memory())
