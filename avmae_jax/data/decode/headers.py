"""Reads from headers how long a file should be.

FFmpeg doesn't hand these promises on: of a file that is shorter, it computes the length from what is there.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_OPEN = 0x7FFFFFFF  # sizes from here on are those of writers that didn't know theirs
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the id of an ASF header's file properties
_BROADCAST = 1  # the flag of ASF files whose length wasn't known
_HAS_FRAMES = 1  # the flag of MP3 headers that say how many frames follow
_MP3_RATES = (44_100, 48_000, 32_000)  # Hz of MPEG 1; those of MPEG 2 are a half, of 2.5 a quarter
_HEAD, _FRAME = 16_384, 256  # bytes in which the headers of ASF and of MP3 are searched


def missing_share(path: str | Path, container: str) -> float:
    """Returns by how much longer a file should be, as a factor: 1 where it is whole, or its header doesn't say.

    Args:
      path: a regular file.
      container: FFmpeg's name of its format.
    """
    declared_in = _DECLARED.get(container)
    if declared_in is None:
        return 1.0
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            return max(1.0, declared_in(file, size) / size)
        except struct.error:  # the header is shorter than that of any writer
            return 1.0


def promised_seconds(path: str | Path, container: str) -> float:
    """Returns the length that the header of an ASF or an MP3 file gives; 0 if it doesn't say."""
    promise = _SECONDS.get(container)
    if promise is None:
        return 0.0
    with Path(path).open("rb") as file:
        try:
            return max(0.0, promise(file))
        except struct.error:  # the header is shorter than that of any writer
            return 0.0


def _read(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _chunk(wanted: bytes, header: int, layout: str) -> Callable[[BinaryIO, int], int]:
    """Returns a function that computes where a chunk should end, of a file whose chunks begin behind a header."""

    def declared(file: BinaryIO, size: int) -> int:
        at = header
        while at < size:
            file.seek(at)
            name, length = file.read(4), _read(file, layout)[0]
            begin = file.tell()
            if name == wanted:
                return begin + length if 0 < length < _OPEN else 0
            at = begin + length + (length & 1 if layout[1] == "I" else 0)
        return 0

    return declared


def _w64(file: BinaryIO, size: int) -> int:
    length = _read(file, "<16xQ")[0]
    return length if length < 1 << 62 else 0


def _asf(file: BinaryIO) -> float:
    head = file.read(_HEAD)
    at = head.find(_ASF_FILE)
    ticks, preroll, flags = struct.unpack_from("<Q8xQI", head, max(0, at) + 64)
    return 0.0 if at < 0 or flags & _BROADCAST else ticks / 1e7 - preroll / 1e3


def _mp3(file: BinaryIO) -> float:
    """Computes the length from the number of frames that encoders write into the first frame, behind an ID3 tag."""
    begin = 0
    if file.read(3) == b"ID3":
        begin = 10 + sum(part << shift for part, shift in zip(_read(file, ">3x4B"), (21, 14, 7, 0), strict=True))
    file.seek(begin)
    head = file.read(_FRAME)
    at = max(head.find(b"Xing"), head.find(b"Info"))
    version, rate = head[1] >> 3 & 3 if at > 0 else 1, head[2] >> 2 & 3 if at > 0 else 3
    if version == 1 or rate == 3:  # reserved
        return 0.0
    flags, frames = struct.unpack_from(">II", head, at + 4)
    samples, hertz = (1152, _MP3_RATES[rate]) if version == 3 else (576, _MP3_RATES[rate] >> (1 if version == 2 else 2))
    return frames * samples / hertz if flags & _HAS_FRAMES else 0.0


_SECONDS: dict[str, Callable[[BinaryIO], float]] = {"asf": _asf, "mp3": _mp3}
_DECLARED: dict[str, Callable[[BinaryIO, int], int]] = {
    "wav": _chunk(b"data", 12, "<I"),
    "caf": _chunk(b"data", 8, ">q"),
    "w64": _w64,
}
