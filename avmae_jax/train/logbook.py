"""Writes the metrics of a run: one JSON line a step to metrics.jsonl, and the same to TensorBoard, with the figures that are drawn.

Each line has "step" and "split": "train", "eval", or what a resumed run found wrong with the lines before its checkpoint: "gap", where
"first" and "last" are the steps without a line, or "edited", where lines differ from those that were written; they stay as they are.
"""

import errno
import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from PIL import Image

from avmae_jax.errors import WriteError
from avmae_jax.files import write_bytes
from avmae_jax.train import hosts
from avmae_jax.train.event_files import Event, EventsWriter, SessionLog, Summary, scalar  # pyright: ignore[reportAttributeAccessIssue]

METRICS_FILE = "metrics.jsonl"
GAP, EDITED = "gap", "edited"  # splits of lines that mark damage
_RGB = 3  # colorspace of TensorBoard's images


class _Line(NamedTuple):
    step: int
    row: Mapping[str, Any]
    text: bytes  # with its line break


class Logbook:
    """Appends to the metrics of a run; of several processes only the first one writes, the others do nothing.

    A resumed run continues its own file. Lines after the restored step are dropped, since those steps are
    computed again, with the same result.
    """

    def __init__(self, folder: Path, last_step: int, written: Mapping[str, Any] | None = None):
        """Opens the files of a run that was restored at `last_step` (0: a new run), and marks what is missing or was edited.

        Args:
          folder: of the run.
          last_step: of the checkpoint.
          written: `fingerprint` when the checkpoint was saved; None: unknown.

        Raises:
          WriteError: if the file can't be written.
        """
        self._begin, self._before = time.monotonic(), 0.0
        self._digest, self._lines = hashlib.sha256(), 0
        self._board: EventsWriter | None = None
        if not hosts.is_first():
            return
        path = folder / METRICS_FILE
        kept = _continued(path, last_step, written)
        write_bytes(path, b"".join(line.text for line in kept))
        for line in kept:
            self._count(line.text)
            self._before = max(self._before, _seconds(line.row))
        self._file = path.open("ab")
        board = folder / "tensorboard"
        board.mkdir(exist_ok=True)
        # Not SummaryWriter, which writes from its own thread: its flush doesn't wait for the events still in the queue.
        self._board = EventsWriter(str(board / "events"), f".{last_step}")
        # Makes TensorBoard hide the values of this step and later ones in earlier files.
        self._to_board(last_step + 1, session_log=SessionLog(status=SessionLog.START))

    @property
    def seconds(self) -> float:
        """Returns how long the run has trained: this session, and the earlier ones up to their last line that is kept."""
        return self._before + time.monotonic() - self._begin

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Returns the number and the SHA-256 of all lines, to be stored with a checkpoint."""
        return {"lines": self._lines, "sha256": self._digest.hexdigest()}

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes one line; a number that isn't finite becomes NaN or Infinity, which Python's json reads."""
        if self._board is None:
            return
        line = _text({"step": step, "split": split, **values})
        self._file.write(line)
        self._count(line)
        for name, value in values.items():
            self._to_board(step, summary=scalar(f"{split}/{name}", value))

    def picture(self, step: int, png: Path) -> None:
        """Shows a PNG in TensorBoard, under the name of its folder."""
        if self._board is None:
            return
        with Image.open(png) as image:
            width, height = image.size
        shown = Summary.Image(height=height, width=width, colorspace=_RGB, encoded_image_string=png.read_bytes())
        self._to_board(step, summary=Summary(value=[Summary.Value(tag=png.parent.name, image=shown)]))

    def flush(self) -> None:
        """Hands everything written so far to the system, so that a kill loses none of it; that takes no time."""
        if self._board is not None:
            self._file.flush()
            self._board.flush()

    def sync(self) -> None:
        """Waits until all of it is on the disk, so that a checkpoint never knows of lines that the crash of a machine loses."""
        self.flush()
        if self._board is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes."""
        if self._board is not None:
            self.sync()
            self._file.close()
            self._board.close()

    def _count(self, line: bytes) -> None:
        self._digest.update(line)
        self._lines += 1

    def _to_board(self, step: int, **what: object) -> None:
        if self._board is not None:
            self._board.write_event(Event(wall_time=time.time(), step=step, **what))


def _continued(path: Path, last_step: int, written: Mapping[str, Any] | None) -> list[_Line]:
    """Returns the lines up to a step, with marks where some are missing or were edited; each is logged."""
    if path.is_dir():
        raise WriteError(errno.EISDIR, "it is a folder", str(path))
    content = path.read_bytes() if last_step and path.exists() else b""
    parts = content.split(b"\n")
    if parts[-1]:
        logging.warning("%s: the last line is incomplete and is dropped: %.80r", path, parts[-1])
    lines: list[_Line] = []
    foreign: list[int] = []
    later: list[int] = []
    for number, text in enumerate(parts[:-1], start=1):
        row = _row(text)
        if row is None:
            foreign.append(number)
        elif row["step"] <= last_step:
            lines.append(_Line(row["step"], row, text + b"\n"))
        else:
            later.append(row["step"])
    if later:
        words = "%s: %d lines of steps %d to %d, behind the checkpoint of step %d, are dropped: these steps are computed again"
        logging.warning(words, path, len(later), min(later), max(later), last_step)
    if foreign:
        copy = next(copy for n in itertools.count(1) if not (copy := path.with_name(f"metrics.before-{n}.jsonl")).exists())
        write_bytes(copy, content)
        shown = ", ".join(map(str, foreign[:10])) + (", ..." if len(foreign) > 10 else "")
        what = "lines that are no rows of metrics are dropped"
        logging.warning("%s: %d %s (line %s); the file as it was is kept as %s", path, len(foreign), what, shown, copy.name)
    if written and written.get("sha256") == hashlib.sha256(b"".join(line.text for line in lines)).hexdigest():
        return lines
    marks = [_mark({"step": last, "split": GAP, "first": first, "last": last}) for first, last in _gaps(lines, last_step)]
    for mark in marks:
        logging.warning("%s: steps %d to %d have no line; the gap is marked in it", path, mark.row["first"], mark.row["last"])
    if written and not marks:
        logging.warning("%s: lines up to step %d differ from those that were written; they are kept, and marked as edited", path, last_step)
        marks = [_mark({"step": last_step, "split": EDITED})]
    return sorted([*lines, *marks], key=lambda line: line.step)


def _gaps(lines: Iterable[_Line], last_step: int) -> Iterator[tuple[int, int]]:
    """Yields the first and the last step of each stretch that has neither a line of training nor a mark."""
    there = {line.step for line in lines if line.row["split"] == "train"}
    for line in lines:
        if line.row["split"] == GAP:
            there.update(range(line.row["first"], min(line.row["last"], last_step) + 1))
    missing = [step for step in range(1, last_step + 1) if step not in there]
    for _, stretch in itertools.groupby(enumerate(missing), key=lambda item: item[1] - item[0]):
        steps = [step for _, step in stretch]
        yield steps[0], steps[-1]


def _row(text: bytes) -> dict[str, Any] | None:
    """Parses a line; returns None if it is no row of metrics."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("split"), str) or not _is_step(row.get("step")):
        return None
    return row if row["split"] != GAP or (_is_step(row.get("first")) and _is_step(row.get("last"))) else None


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _seconds(row: Mapping[str, Any]) -> float:
    value = row.get("seconds")
    return value if isinstance(value, float) and 0 <= value < float("inf") else 0.0


def _text(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _mark(row: Mapping[str, Any]) -> _Line:
    return _Line(row["step"], row, _text(row))
