# pyright: strict
"""Defines every error that a user can cause or must act on. The message names the file, the field and the remedy.

`AvmaeError` is their parent, so that a program can catch one class and print one line.
"""

import errno as codes
from collections.abc import Iterable, Sequence
from typing import Any


class AvmaeError(Exception):
    """Says that a file, a setting or a run can't be used as requested."""


class WriteError(AvmaeError, OSError):
    """Says that a file can't be written: the disk is full, or the folder can't be created or written.

    Attributes:
      errno, strerror, filename: the system's error and the file, as in OSError.
    """

    def __str__(self) -> str:
        full = self.errno in (codes.ENOSPC, codes.EDQUOT)
        remedy = "free some space there, or write to another disk" if full else "give a folder that can"
        return f"{self.filename} can't be written ({self.strerror}); {remedy}"


class RemotePathError(AvmaeError, ValueError):
    """Says that a path lies on another machine, such as gs://bucket/run; names it."""


class LockedError(AvmaeError):
    """Says that another process is writing a folder.

    Attributes:
      folder: the folder.
      holder: describes the process: its id and its host.
    """

    def __init__(self, folder: str, holder: str) -> None:
        super().__init__(folder, holder)  # both, so that the error survives pickling
        self.folder, self.holder = folder, holder

    def __str__(self) -> str:
        return f"{self.folder} is being written by {self.holder}; wait for it, or give another folder"


class HostsError(AvmaeError):
    """Says that the processes of a run can't train together, or that one of them is gone."""


class ConfigError(AvmaeError, ValueError):
    """Names a setting of a wrong name, type or value, or a config file that can't be read, with its file and line where known."""


class ClipError(AvmaeError):
    """Says that a media file can't become a clip.

    Attributes:
      path: the file.
      stage: what failed: "open" | "audio" | "video" | "length" (audio and video differ in it); writers of data sets add "crash" and
        "missing".
      reason: what is wrong; `path` and `reason` together make a sentence.
    """

    def __init__(self, path: str, stage: str, reason: str) -> None:
        super().__init__(path, stage, reason)  # all three, so that the error survives pickling
        self.path, self.stage, self.reason = path, stage, reason

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class DatasetError(AvmaeError):
    """Says that a data set can't be written or read as requested."""


class EmptySplitError(DatasetError):
    """Says that a split of a data set has no clip, or none with what is needed."""


class CorruptRecordError(AvmaeError):
    """Says that a stored clip can't be read."""


class CheckpointError(AvmaeError):
    """Says that a run can't be saved or restored."""


class DamagedCheckpointError(CheckpointError):
    """Says that a step is incomplete, unreadable or not what was written."""


class CheckpointMismatchError(CheckpointError):
    """Says that an intact checkpoint belongs to another model, optimizer or config than the one it was requested for."""


class WeightsError(AvmaeError, ValueError):
    """Says that a file of weights can't be read or written, or lists every tensor that doesn't fit the model."""


class ExportError(AvmaeError, ValueError):
    """Says that a model can't be exported as requested."""


class NonFiniteLossError(AvmaeError, RuntimeError):
    """Says that the loss or its gradient is NaN or infinite; names the step, the clips and the last good checkpoint."""


def first_line(error: Exception) -> str:
    """Shortens an error to its type and first line; TensorStore's messages run over pages."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def some(names: Iterable[Any]) -> str:
    """Returns the first three of some names, each cut where a damaged file makes it endless, and how many more there are."""
    listed = [str(name)[:300] for name in names]
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "") if listed else "none"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Writes a number of things: "1 clip", "2,000 clips"."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def require_none(problems: Sequence[str]) -> None:
    """Raises WeightsError that lists all problems, if there are any."""
    if problems:
        raise WeightsError(f"{len(problems)} tensors don't fit the model:\n  " + "\n  ".join(problems))
