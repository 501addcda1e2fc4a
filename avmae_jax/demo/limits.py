"""Decides which files the page takes, how much of them, and in which words it refuses one."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import av
from av.stream import Disposition

from avmae_jax.config import Modality
from avmae_jax.data.decode.headers import promised_seconds
from avmae_jax.data.decode.media import IMAGE_SUFFIXES, opened
from avmae_jax.errors import ClipError
from avmae_jax.files import as_text, printable

Kind = Literal["video", "audio", "image"]

MEGABYTE = 1 << 20
_OVER = 1.01  # a file may be so much longer than the limit, without a word
_LONGEST_NAME = 80


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits the work that one file of a stranger may cause."""

    megabytes: int = 200
    media_seconds: float = 600.0  # handled of each file, from its beginning
    computing_seconds: float = 60.0  # of the clock, for all that is said of a file, decoding included


@dataclasses.dataclass(frozen=True)
class Media:
    """Describes a file by its header alone."""

    path: Path
    kind: Kind
    seconds: float  # 0: an image, or the header doesn't say
    note: str = ""  # one sentence, if not all of it is handled
    silent: bool = False  # whether it is a video without audio

    @property
    def name(self) -> str:
        """Returns the file's name as it is shown."""
        return shown_name(self.path)

    @property
    def has(self) -> Modality:
        """Returns what the file has."""
        if self.kind == "video":
            return "image" if self.silent else "both"
        return self.kind


def shown_name(path: str | Path) -> str:
    """Returns the name of a file in printable letters, not too many; it is still to be escaped for HTML."""
    name = printable(as_text(Path(path).name))
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 16]}...{name[-12:]}"


def look_at(path: str | Path, limits: Limits) -> Media:
    """Reads the header of a file.

    Raises:
      ClipError: if it is too large or no media.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size > limits.megabytes * MEGABYTE:
        raise ClipError(str(path), "open", f"has {path.stat().st_size / MEGABYTE:.0f} MB; at most {limits.megabytes} MB are taken here")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Media(path, "image", 0.0)
    with opened(path) as container:
        moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        promised = promised_seconds(path, container.format.name)
        seconds = max((container.duration or 0) / av.time_base, promised if math.isfinite(promised) else 0.0)
        kind: Kind = "video" if moving else "audio"
        silent = not container.streams.audio
    note = ""
    if seconds > limits.media_seconds * _OVER:
        note = f"It lasts {clock(seconds)}; only the first {clock(limits.media_seconds)} are handled here."
    return Media(path, kind, seconds, note, silent)


def clock(seconds: float) -> str:
    """Writes a length or a moment as on a player: 0:07, 10:00, 3:00:00."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def sentence(error: Exception, path: str | Path) -> str:
    """Says in one sentence why a file can't be used, with its name in place of its path."""
    text = str(error).replace(str(path), shown_name(path)).replace(str(Path(path).absolute()), shown_name(path))
    line = printable(" ".join(text.split()))
    return line if line.endswith((".", "!", "?")) else f"{line}."
