"""Says what a data set is to hold, whether a folder may be written, and what became of it.

`progress/plan.json` in the folder says what it was begun with: a folder is never continued with other clips or settings. Once the data set
is finished the plan is in summary.json, and the failures are in failures.jsonl.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from avmae_jax.data import text_files
from avmae_jax.data.store.job import Failure, Job
from avmae_jax.data.store.jobs import Made, Make
from avmae_jax.data.text_files import read_text
from avmae_jax.errors import DatasetError, first_line
from avmae_jax.files import LOCK, write_errors, write_json

VERSION = "2.1.0"
READABLE = ("2.0.0", VERSION)  # 2.0.0 has no frame times
SUMMARY = "summary.json"
FAILURES = "failures.jsonl"
PROGRESS = "progress"  # folder in an unfinished data set
SPOOL = "spool"  # folder in PROGRESS
_OURS = (PROGRESS, FAILURES, "dataset_info.json")  # what data sets have, and other folders with a lock and a summary don't


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Says what a data set is to hold. Two runs with the same spec write the same bytes."""

    name: str  # TFDS name: lower case, digits, underscores
    jobs: Mapping[str, Sequence[Job]]  # the files of each split, in the order in which their clips are stored
    # Job -> its clips, one at a time, raising ClipError where the file is of no use, which discards all of its clips; picklable, as it runs
    # in other processes.
    make: Make
    label_names: Sequence[str] = ()  # what the clips' labels index
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # all else that `make` depends on, of JSON's types
    missing: Sequence[Failure] = ()  # what is known not to be there; counted and reported with the failures
    shard_size: int = 256  # jobs a shard


@dataclasses.dataclass(frozen=True)
class Notes:
    """Counts what users should know of files that gave clips."""

    other_channel: int = 0  # files whose first audio channel is silent, so that another one was taken
    longer: int = 0  # files that go on behind their only clip ...
    beyond: float = 0.0  # ... by so many seconds at most

    @classmethod
    def of(cls, made: Made) -> "Notes":
        """Counts one file."""
        return cls(int(made.channel > 0), int(made.beyond > 0), made.beyond)

    def __add__(self, other: "Notes") -> "Notes":
        return Notes(self.other_channel + other.other_channel, self.longer + other.longer, max(self.beyond, other.beyond))


class Summary(NamedTuple):
    """Holds what became of all jobs."""

    written: dict[str, int]  # jobs of each split that gave clips
    clips: dict[str, int]  # of each split
    failures: list[Failure]
    notes: Notes = Notes()


class Shard(NamedTuple):
    """Describes one file of the data set."""

    split: str
    path: Path  # where it ends up
    record: Path  # its length, bytes and failures; written before `path` appears
    jobs: Sequence[Job]


def plan_of(spec: DatasetSpec) -> dict[str, Any]:
    """Returns what must be the same for a run to continue, as JSON reads it back; raises DatasetError if an id occurs twice."""
    plan: dict[str, Any] = {
        "name": spec.name,
        "version": VERSION,
        "shard_size": spec.shard_size,
        "label_names": list(spec.label_names),
        **spec.settings,
    }
    seen: set[str] = set()
    for split, jobs in spec.jobs.items():
        digest = hashlib.sha256()
        for job in jobs:
            if job.id in seen:
                raise DatasetError(f"the clip id {job.id!r} occurs twice; ids must be unique")
            seen.add(job.id)
            digest.update(json.dumps([job.id, job.args]).encode())
        plan[f"{split} clips"] = f"{len(jobs)}, sha256 {digest.hexdigest()[:16]}"
    return json.loads(json.dumps(plan))


def shards_of(out: Path, spec: DatasetSpec) -> Iterator[Shard]:
    """Yields the shards of a data set in order."""
    for split, jobs in spec.jobs.items():
        count = math.ceil(len(jobs) / spec.shard_size)
        for index in range(count):
            file = f"{spec.name}-{split}.array_record-{index:05d}-of-{count:05d}"
            part = jobs[index * spec.shard_size : (index + 1) * spec.shard_size]
            yield Shard(split, out / file, out / PROGRESS / f"{file}.json", part)


def check_folder(out: Path) -> None:
    """Raises DatasetError if a folder has files, but none of a data set that was begun here."""
    with write_errors(out):
        present = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    others = [name for name in present if name != LOCK]  # a run that was killed at once leaves nothing but its lock
    if others and not (LOCK in present and {*_OURS} & {*others}):
        raise DatasetError(f"{out} isn't empty (it holds {others[0]!r}) and isn't a data set begun here; give a new or empty folder")


def claim(out: Path, plan: dict[str, Any]) -> bool:
    """Records a plan in a new folder, or compares it with that of a begun one.

    Returns:
      Whether the data set is finished already.

    Raises:
      DatasetError: naming the field, if the folder was begun with another plan.
    """
    plan_file = out / PROGRESS / "plan.json"
    complete = is_complete(out)
    if not complete and not plan_file.is_file():
        write_json(plan_file, plan, ascii_only=False)
        return False
    begun = read_plan(out) if complete else read_json(plan_file)
    for key in sorted({*plan, *begun}):
        if plan.get(key) != begun.get(key):
            raise DatasetError(
                f"{out} holds {'a finished' if complete else 'an unfinished'} data set with {key} = {begun.get(key)}, but this run has "
                f"{key} = {plan.get(key)}; run it as it was begun, or give another folder, or delete this one"
            )
    logging.info("%s is %s", out, "complete already" if complete else "unfinished; continuing")
    return complete


def is_complete(out: Path) -> bool:
    """Returns whether `out` is a finished data set: its summary is written last."""
    return (out / SUMMARY).is_file()


def read_summary(out: Path) -> Summary:
    """Reads the summary of a finished data set; raises DatasetError if it is damaged."""
    content = read_json(out / SUMMARY)
    try:
        failures = [Failure(**json.loads(line)) for line in read_text(out / FAILURES).split("\n") if line]
        notes = Notes(**content.get("notes", {}))  # data sets of before version 0.2 have none
        written, clips = ({str(split): int(count) for split, count in content[key].items()} for key in ("written", "clips"))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise DatasetError(f"{out}: {SUMMARY} or {FAILURES} is damaged ({first_line(error)}); prepare the data set again") from error
    return Summary(written, clips, failures, notes)


def read_plan(out: Path) -> dict[str, Any]:
    """Reads the plan of a finished data set; raises DatasetError if it is damaged."""
    plan = read_json(out / SUMMARY).get("plan")
    if not isinstance(plan, dict):
        raise DatasetError(f"{out / SUMMARY} has no plan: it is of no data set, or damaged; give another folder, or prepare again")
    return plan


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object that the writer wrote; raises DatasetError if it is damaged."""
    try:
        content = text_files.read_json(path)
    except DatasetError as error:
        raise DatasetError(f"{error}; prepare the data set again") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} is damaged: it is no JSON object; prepare the data set again")
    return content
