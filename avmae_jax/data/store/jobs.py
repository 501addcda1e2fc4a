"""Runs one job of writing a data set: a file becomes clips, each stored in a file of its own until it is in its shard, or a failure."""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from avmae_jax.data.clip import Clip
from avmae_jax.data.store.records import Facts, facts_of, serialise
from avmae_jax.errors import ClipError
from avmae_jax.files import write_errors


class Job(NamedTuple):
    """Names one file to make clips of."""

    id: str  # unique; failures are reported under it, and its clips have it or begin with it
    args: tuple = ()  # what `make` needs besides; becomes part of the plan, therefore of JSON's types


class Failure(NamedTuple):
    """Says why a job gave no clip."""

    file: str  # the job's id
    stage: str  # ClipError.stage, or "crash" where the process that worked on it died, or "missing" where there was no file
    reason: str


class Made(NamedTuple):
    """Holds what a successful job gave."""

    files: list[str]  # each has one record
    facts: list[Facts]


Make = Callable[[Job], Iterable[Clip]]


def make_records(job: Job, *, make: Make, spool: str) -> Made | Failure:
    """Puts each clip of a job into a file in the folder `spool`; runs in a worker.

    Raises:
      WriteError: if the disk is full; what else `make` raises is raised with a note that names the job.
    """
    made = Made([], [])
    name = hashlib.sha256(job.id.encode()).hexdigest()[:32]
    try:
        with ExitStack() as stack:
            stack.push(lambda kind, error, trace: error.add_note(f"while making the clips of {job.id}") if error else None)
            for clip in make(job):
                file = Path(spool) / f"{name}-{len(made.files)}"
                made.files.append(str(file))
                record = serialise(clip)
                with write_errors(file):
                    file.write_bytes(record)
                made.facts.append(facts_of(clip))
            if not made.files:
                return Failure(job.id, "video", "gives no clip")
            return made
    except ClipError as error:
        for file in made.files:
            with suppress(FileNotFoundError):
                Path(file).unlink()
        return Failure(job.id, error.stage, error.reason)
