"""Runs one part of the GPU report in a process of its own, so that a crash, a hang or a full memory costs that part alone."""

import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from avmae_jax.config import Config

Row = dict[str, Any]  # figures by name, as JSON takes them
# The project's clone, in which parity/ lies, from whatever folder this is started; None: the package is installed without one.
CLONE = next((folder for folder in [Path(__file__).parents[3]] if (folder / "parity").is_dir()), None)
_WORDS = 400  # last letters of what a failed process printed


class Part(NamedTuple):
    """Names what a process measures."""

    title: str
    module: str  # in this folder; its measure(config, **options) yields rows
    options: Mapping[str, Any] = {}
    environment: Mapping[str, str] = {}
    timed: bool = False  # whether measure gets a `turn`, and waits for it by await_turn before it times anything


class Measured(NamedTuple):
    """Holds what a part found."""

    title: str
    rows: list[Row]
    ended: str  # "done", or why there are no more rows
    seconds: float


def run(part: Part, config: Config, seconds: float) -> Measured:
    """Measures a part; never raises for what happens in its process, and keeps the rows that were there before it failed.

    Args:
      part: what to measure.
      config: of the model and the data.
      seconds: after which the process is ended.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "rows.jsonl"
        found.touch()
        command = [sys.executable, "-m", f"{__package__}.part", str(found)]
        given = pickle.dumps((part.module, config, dict(part.options)))
        paths = os.pathsep.join(filter(None, [str(CLONE or ""), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": paths, **part.environment}
        with subprocess.Popen(command, stdin=-1, stderr=-1, env=environment, start_new_session=True) as process:  # noqa: S603
            try:
                _, words = process.communicate(given, timeout=seconds)
                ended = "done" if process.returncode == 0 else _why(process.returncode, words.decode(errors="replace"))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started, which would go on using the GPU
                ended = f"ended after {seconds:.0f} s"
        rows = [json.loads(line) for line in found.read_text().splitlines()]
    return Measured(part.title, rows, ended, round(time.monotonic() - begin, 1))


def await_turn(turn: str) -> None:
    """Waits for the file that says that the parts before this one have ended; ends if the report was killed meanwhile."""
    parent = os.getppid()
    while not Path(turn).exists():
        if os.getppid() != parent:
            raise SystemExit(1)
        time.sleep(0.1)


def _why(code: int, words: str) -> str:
    """Returns the last line that a process wrote, which is the error's."""
    if code == -9:
        return "killed, perhaps for its memory"
    lines = [line for line in words.strip().splitlines() if line.strip()]
    return f"failed: {lines[-1].strip()[-_WORDS:] if lines else f'exit status {code}'}"


def _write(rows: Iterator[Row], path: Path) -> None:
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    name, its_config, its_options = pickle.load(sys.stdin.buffer)  # noqa: S301, written by run
    _write(importlib.import_module(f"{__package__}.{name}").measure(its_config, **its_options), Path(sys.argv[1]))
