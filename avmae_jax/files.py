# pyright: strict
"""Writes files atomically: to a temporary name first, which is then renamed. Also: folder locks, and names.

Every writer goes through `replacing` or one of the functions on top of it. A reader therefore finds the old content or the new one, never a
part, and a full disk or a folder without permission is one clear error.
"""

import errno
import fcntl
import json
import math
import os
import re
import socket
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from avmae_jax.errors import AvmaeError, LockedError, RemotePathError, WriteError

OnProgress = Callable[[int, int, int], None]  # (files done, failures among them, files in all)

LOCK = ".lock"  # file that `locked` keeps in the folder
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # pathlib makes one slash of two
# Control characters, marks and overrides of the reading direction, line separators, and halves of characters, which can't be written.
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NAME = 80  # letters of a file's name
_SYSTEM_CALL = re.compile(r"\b(?:open|write|flush|fsync|close)\(\) failed: ([^;\n]+)")  # ArrayRecord's words
# What a system reports about a write without naming a file: no space, quota used up, file size limit, disk turned read-only.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def is_remote(path: str | Path) -> bool:
    """Returns whether a path is one of another machine, such as gs://bucket/run, for which pathlib would name a local folder "gs:"."""
    return _SCHEME.match(os.fspath(path)) is not None


def require_local(path: str | Path) -> None:
    """Raises RemotePathError for a path of another machine; everything that opens or creates a path given by a user calls this."""
    if is_remote(path):
        shown = re.sub(r":/+", "://", os.fspath(path), count=1)
        raise RemotePathError(f"{shown} is not on this machine; copy it here or mount it, and give a local path")


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yields a temporary path beside a file; after the block the temporary file replaces it.

    The folder is created if it doesn't exist. The content is on the disk before the file gets its name, so that a power failure leaves no
    empty file under it. After an error nothing is left behind.

    Raises:
      WriteError: if the disk is full or the folder can't be written.
    """
    require_local(path)
    temporary = path.with_name(f".{path.name[:_NAME]}.{uuid.uuid4().hex[:8]}.tmp")
    with write_errors(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
        finally:
            with suppress(OSError):  # the block's own error says more than that of the removal
                temporary.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path, *parts: Path) -> Generator[None]:
    """Turns an error of the block into a WriteError that names `path`, where writing it is what failed.

    An OSError that names another file belongs to something that the block reads, and passes unchanged, as do errors of ours. Libraries
    raise other errors with the system's words.

    Args:
      path: the file or folder that the block writes.
      parts: other files that it writes for this purpose.
    """
    try:
        yield
    except AvmaeError:
        raise
    except Exception as error:
        reason = _failed_write(error, (path, *parts))
        if reason is None:
            raise
        raise WriteError(*reason, os.fspath(path)) from error


def full_disk(error: BaseException | None) -> tuple[int, str] | None:
    """Returns the system's number and words if an error, or one that it came from, says that a disk is full or can't be written."""
    while error is not None:
        for code in _FULL:
            if (isinstance(error, OSError) and error.errno == code) or os.strerror(code) in str(error):
                return code, os.strerror(code)
        error = error.__cause__ or error.__context__
    return None


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically; raises WriteError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Writes a text file in UTF-8 atomically; raises WriteError."""
    write_bytes(path, content.encode())


def plain(value: Any) -> Any:
    """Converts a value to what JSON can hold: None for numbers that aren't finite, lists for tuples."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Mapping[str, Any], *, indent: int | None = 1, ascii_only: bool = True) -> None:
    """Writes a JSON file atomically.

    Args:
      path: the file.
      content: an object of JSON's types.
      indent: spaces a level; None puts everything into one line.
      ascii_only: escape all other characters; without it text must be valid Unicode.

    Raises:
      ValueError: if a number isn't finite, which many readers of JSON refuse.
      WriteError: if the disk is full or the folder can't be written.
    """
    write_text(path, json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=ascii_only) + "\n")


@contextmanager
def locked(folder: Path, *, wait: bool = False, on_wait: Callable[[str], None] = lambda holder: None) -> Generator[None]:
    """Holds a folder for this process, so that no second one writes it at the same time.

    The lock is an exclusive flock on a file in the folder, which the system frees when the process ends, however it ends. While it is held,
    the file names the host and process of its holder.

    Args:
      folder: created if it doesn't exist.
      wait: wait for another holder instead of raising.
      on_wait: called with the holder's description before waiting.

    Raises:
      LockedError: if another process holds the folder; it names host and process.
      WriteError: if the folder can't be written.
    """
    require_local(folder)
    path = folder / LOCK
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(file)
            if not wait:
                raise LockedError(os.fspath(folder), holder) from error
            on_wait(holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        with write_errors(folder):
            _rewrite(file, json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        try:
            yield
        finally:
            with suppress(OSError):  # a full disk, say; the lock is free all the same
                _rewrite(file, "")


def as_text(path: str) -> str:
    """Returns a path as valid Unicode on one line, whatever bytes its name has; what a terminal would act on becomes an escape."""
    return _ACTING.sub(_escaped, os.fsencode(path).decode("utf-8", "backslashreplace"))


def printable(text: str) -> str:
    """Escapes what a terminal or a page would act on: controls, but tabs and line ends, and overrides of the reading direction."""
    return _ACTING.sub(lambda found: found[0] if found[0] in "\n\t" else _escaped(found), text)


def file_names(names: Sequence[str]) -> list[str]:
    """Returns a file name for each of `names` (paths or ids of clips), no two alike even where case doesn't count.

    Characters that some file systems refuse become "_". A name that is taken gets the next free number: x, x_2, x_3.
    """
    taken: set[str] = set()
    made: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:_NAME].lstrip(".") or "clip"
        chosen, number = plain, 1
        while chosen.lower() in taken:
            number += 1
            chosen = f"{plain}_{number}"
        taken.add(chosen.lower())
        made.append(chosen)
    return made


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def _flush(file: Path) -> None:
    """Waits until a file's content is on the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed_write(error: Exception, written: Sequence[Path]) -> tuple[int, str] | None:
    """Returns the system's number and words if writing some files is what failed."""
    if isinstance(error, OSError) and error.errno is not None:
        return (error.errno, error.strerror or "unknown error") if _is_about(error, written) else None
    said = _SYSTEM_CALL.search(str(error))
    return full_disk(error) or ((errno.EIO, said[1].strip()) if said else None)


def _is_about(error: OSError, written: Sequence[Path]) -> bool:
    """Returns whether an error is about one of the written files.

    It names the file, a folder above it or a file in it; on a full disk it names nothing.
    """
    named: Any = error.filename
    if not isinstance(named, str | bytes | os.PathLike):
        return error.errno in _FULL
    file = Path(os.fsdecode(named))  # pyright: ignore[reportUnknownArgumentType] - a PathLike of str or bytes
    return any(file == path or file in path.parents or path in file.parents for path in written)


def _holder(file: TextIO) -> str:
    """Describes who wrote a lock file; a process that has just taken the lock may not have written it yet."""
    file.seek(0)
    try:
        content = json.loads(file.read())
        return f"process {content['process']} on {content['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _rewrite(file: TextIO, content: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(content)
    file.flush()
