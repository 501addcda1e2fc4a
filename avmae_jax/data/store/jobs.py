"""Runs one job of writing a data set: a file becomes clips, each stored in a file of its own until it is in its shard, or a failure."""

import errno
import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from absl import logging

from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Failure, Job
from avmae_jax.data.store.records import Facts, facts_of, serialise
from avmae_jax.errors import ClipError, WriteError, first_line
from avmae_jax.files import printable, write_errors

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Made(NamedTuple):
    """Holds what a successful job gave."""

    files: list[str]  # each has one record
    facts: list[Facts]
    channel: int  # the file's audio channel that was taken; above 0 where those before it are silent
    beyond: float  # seconds of the file that lie behind its only clip


Make = Callable[[Job], Iterable[Clip]]


def make_records(job: Job, *, make: Make, spool: str) -> Made | Failure:
    """Puts each clip of a job into a file in the folder `spool`; runs in a worker.

    Whatever a library raises about one file is a failure of that file, so that the others go on.

    Raises:
      WriteError: if the disk is full.
    """
    made = Made([], [], 0, 0.0)
    name = hashlib.sha256(job.id.encode()).hexdigest()[:32]
    try:
        for clip in make(job):
            file = Path(spool) / f"{name}-{len(made.files)}"
            made.files.append(str(file))
            record = serialise(clip)
            with write_errors(file):
                file.write_bytes(record)
            made.facts.append(facts_of(clip))
            made = made._replace(channel=max(made.channel, clip.channel), beyond=max(made.beyond, clip.beyond))
        return made if made.files else Failure(job.id, "video", "gives no clip")
    except WriteError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:  # of a temporary file
            raise WriteError(error.errno, error.strerror or "no space", str(error.filename or spool)) from error
        for file in made.files:
            with suppress(FileNotFoundError):
                Path(file).unlink()
        if isinstance(error, ClipError):
            return Failure(job.id, error.stage, printable(error.reason))
        logging.debug("%s", job.id, exc_info=True)
        return Failure(job.id, "error", printable(f"can't be read ({first_line(error)})"))
