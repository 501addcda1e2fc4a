"""Writes the metrics of a run: one JSON line a step to metrics.jsonl, and the same to TensorBoard."""

import json
import os
import time
from pathlib import Path

from absl import logging
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue] - generated
from tensorboardX.summary import scalar

from avmae_jax.files import write_text

METRICS_FILE = "metrics.jsonl"


class Logbook:
    """Appends to the metrics of a run.

    A resumed run continues its own file. Lines after the restored step are dropped, since those steps are
    computed again, with the same result.
    """

    def __init__(self, folder: Path, last_step: int):
        """Opens the files of a run that was restored at `last_step` (0: a new run).

        Raises:
          ValueError: if the file holds a line that isn't a row of metrics; names the file and the line.
          WriteError: if the file can't be written.
        """
        self._path = folder / METRICS_FILE
        lines = _complete_lines(self._path)
        kept = [line for number, line in enumerate(lines, start=1) if _step(self._path, number, line) <= last_step]
        write_text(self._path, "".join(kept))
        self._file = self._path.open("a", encoding="utf-8")
        board = folder / "tensorboard"
        board.mkdir(exist_ok=True)
        # Not SummaryWriter, which writes from its own thread: its flush doesn't wait for the events still in the queue.
        self._board = EventsWriter(str(board / "events"), f".{last_step}")
        # Makes TensorBoard hide the values of this step and later ones in earlier files.
        self._to_board(last_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes one line; a number that isn't finite becomes NaN or Infinity, which Python's json reads."""
        self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self._to_board(step, summary=scalar(f"{split}/{name}", value))

    def flush(self) -> None:
        """Flushes to the disk, so that a kill loses nothing written so far."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        self._file.close()
        self._board.close()

    def _to_board(self, step: int, **what: object) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, **what))


def _complete_lines(path: Path) -> list[str]:
    """Reads the lines of an earlier session; a last line that a kill cut short is logged and dropped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        logging.warning("%s: the last line is incomplete and is dropped: %.80s", path, lines[-1])
        lines.pop()
    return lines


def _step(path: Path, number: int, line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: line {number} isn't a row of metrics; remove it or move the file away: {line[:80]!r}") from error
