"""The numbers of a run, on disk: one JSON line a step in metrics.jsonl, and the same in TensorBoard."""

import json
import os
import time
from pathlib import Path

from absl import logging
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue] - generated
from tensorboardX.summary import scalar

METRICS_FILE = "metrics.jsonl"


class Logbook:
    """Appends to the metrics of a run.

    A resumed run takes up its own file: lines behind the restored step are dropped, since those steps are run again and give the same.
    """

    def __init__(self, folder: Path, last_step: int):
        """Opens the files of a run that has been restored at `last_step` (0: a new run).

        Raises:
          ValueError: if the file holds a line that no run has written; names it.
        """
        self._path = folder / METRICS_FILE
        lines = _complete_lines(self._path)
        kept = [line for number, line in enumerate(lines, start=1) if _step(self._path, number, line) <= last_step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        board = folder / "tensorboard"
        board.mkdir(exist_ok=True)
        # Not SummaryWriter: it writes from a thread of its own and its flush doesn't wait for what is still in the queue.
        self._board = EventsWriter(str(board / "events"), f".{last_step}")
        # TensorBoard hides what earlier files say of this step and later ones.
        self._to_board(last_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """One line of metrics.jsonl; a number that isn't finite is written as JSON's NaN or Infinity, as Python reads it."""
        self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self._to_board(step, summary=scalar(f"{split}/{name}", value))

    def flush(self) -> None:
        """To the disk, so that a kill loses nothing written so far."""
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
    """The lines of an earlier session; a last one that a kill cut short is named and left out."""
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
        raise ValueError(f"{path}: line {number} is no row of metrics; take it out or move the file away: {line[:80]!r}") from error
