"""Writes data sets, the only writer there is: from jobs to a TFDS folder of ArrayRecord shards.

The folder reads back with `tfds.builder_from_directory`; data/store/records.py defines what it holds of each clip. Its content depends on
the list of jobs alone, not on the number of workers, nor on the engine: what writes the missing shards, `write_shards` unless given.

A job is a media file, which gives one clip or many. Workers put each clip into a file of its own in `progress/spool/`, from where it goes
into its shard: however long a film is, memory holds one clip of it.

A long run can be killed at any time. Each shard is written under a temporary name in `progress/` and renamed when complete, after a record
of its clips and failures; the same call then continues at the first missing shard. A lock, freed by the system when its process dies, keeps
a second writer out.

A file that gives no clip is no reason to stop: it becomes a line of `failures.jsonl`, and every input file is accounted for.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from avmae_jax.data.store.job import Failure
from avmae_jax.data.store.jobs import Made, Make, make_records
from avmae_jax.data.store.plan import (
    FAILURES,
    PROGRESS,
    SPOOL,
    SUMMARY,
    VERSION,
    DatasetSpec,
    Notes,
    Shard,
    Summary,
    check_folder,
    claim,
    plan_of,
    read_json,
    read_summary,
    shards_of,
)
from avmae_jax.data.store.records import FEATURES, Facts, index_file, write_index
from avmae_jax.data.store.workers import run_ordered
from avmae_jax.errors import DatasetError
from avmae_jax.files import OnProgress, locked, write_errors, write_json, write_text

_CRASH = ("crash", "killed the process that worked on it, twice: a codec crashed or memory ran out")  # stage and reason

Engine = Callable[[Sequence[Shard], Make, OnProgress], None]  # writes those of the shards that aren't there


def write_dataset(
    out: str | Path,
    spec: DatasetSpec,
    *,
    workers: int = 0,
    engine: Engine | None = None,
    on_progress: OnProgress = lambda *_: None,
    wait_for_lock: bool = False,
) -> Summary:
    """Makes every clip and writes the data set, or continues where a killed run of the same call stopped.

    Args:
      out: a new or empty folder, or one that the same call began. One that the same call finished is left as it is.
      spec: what the data set is to hold; a run continues only with the same one.
      workers: processes; 0 makes the clips in this one. Programs that ask for workers need an `if __name__ == "__main__":`.
      engine: writes the shards elsewhere than in processes of this machine; `workers` is then ignored.
      on_progress: called at the start and after every job.
      wait_for_lock: wait while another process writes `out`, instead of raising.

    Returns:
      How many jobs gave clips, how many clips each split has, and every failure in order.

    Raises:
      DatasetError: if there is nothing to do, or the folder holds something else.
      LockedError: if another process writes it.
      WriteError: if the disk is full or the folder can't be written.
    """
    out = Path(out)
    if not any(spec.jobs.values()):
        raise DatasetError(f"{out}: there are no clips to write")
    plan = plan_of(spec)
    check_folder(out)
    waiting = functools.partial(logging.info, "%s is being written by %s; waiting", out)
    with locked(out, wait=wait_for_lock, on_wait=waiting):
        if not claim(out, plan):
            shards = list(shards_of(out, spec))
            spool = out / PROGRESS / SPOOL
            shutil.rmtree(spool, ignore_errors=True)  # of a run that was killed
            with write_errors(out):
                spool.mkdir()
            (engine or functools.partial(write_shards, workers=workers))(shards, spec.make, on_progress)
            _finish(out, plan, shards, spec.missing)
        shutil.rmtree(out / PROGRESS, ignore_errors=True)  # after the summary, which is what makes the data set complete
    return read_summary(out)


def write_shards(shards: Sequence[Shard], make: Make, on_progress: OnProgress, *, workers: int, spool: str | None = None) -> None:
    """Writes those of the shards that aren't there. Where two processes write one, the later one replaces it by the same bytes.

    Args:
      shards: in order.
      make: job -> its clips, as in DatasetSpec.
      on_progress: called at the start and after every job.
      workers: processes; 0 works in this one.
      spool: folder for clips until they are in their shard; the data set's own if None.
    """
    missing = [shard for shard in shards if not shard.path.exists()]
    done, failed, total = count_done(shards)
    on_progress(done, failed, total)

    def counted(results: Iterable[Made | Failure]) -> Iterator[Made | Failure]:
        nonlocal done, failed
        for result in results:
            done, failed = done + 1, failed + isinstance(result, Failure)
            on_progress(done, failed, total)
            yield result

    all_jobs = (job for shard in missing for job in shard.jobs)
    work = functools.partial(make_records, make=make, spool=spool or str(shards[0].record.parent / SPOOL))
    with closing(run_ordered(all_jobs, work, workers=workers, on_death=lambda job: Failure(job.id, *_CRASH))) as results:
        for shard in missing:
            _write_shard(shard, counted(itertools.islice(results, len(shard.jobs))))


def count_done(shards: Sequence[Shard]) -> tuple[int, int, int]:
    """Returns what OnProgress takes: jobs of the shards that are there, failures among them, jobs of all shards."""
    present = [_read_record(shard) for shard in shards if shard.path.exists()]
    failed = sum(len(record["failures"]) for record in present)
    return failed + sum(record["written"] for record in present), failed, sum(len(shard.jobs) for shard in shards)


def _write_shard(shard: Shard, results: Iterable[Made | Failure]) -> None:
    """Writes the clips, then the record of the shard, then gives the shard its name."""
    partial = shard.record.parent / SPOOL / uuid.uuid4().hex  # its own, should another process be at the same shard
    facts: list[Facts] = []
    failures, written, size, notes = [], 0, 0, Notes()
    with write_errors(shard.path, partial):
        writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")  # zstd would save 3 to 20 %, and treble the time of a read
        try:
            for result in results:
                if isinstance(result, Failure):
                    failures.append(result._asdict())
                    continue
                for file in map(Path, result.files):
                    record = file.read_bytes()
                    writer.write(record)
                    file.unlink()
                    size += len(record)
                written += 1
                facts += result.facts
                notes += Notes.of(result)
        finally:
            writer.close()
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file)  # before the name: after a power failure a shard with a name counts as written
    record = {"written": written, "bytes": size, "sha256": digest, "failures": failures, "clips": facts, "notes": dataclasses.asdict(notes)}
    write_json(shard.record, {**record, "check": _digest(record)}, indent=None, ascii_only=False)
    with write_errors(shard.path, partial):
        partial.replace(shard.path)


def _read_record(shard: Shard) -> dict[str, Any]:
    """Returns what was written beside a shard; raises DatasetError if it is damaged."""
    record = read_json(shard.record)
    if record.pop("check", None) != _digest(record):
        raise DatasetError(f"{shard.record} is damaged; delete it and {shard.path.name}, and the same command writes both again")
    return record


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _finish(out: Path, plan: Mapping[str, Any], shards: list[Shard], missing: Sequence[Failure]) -> None:
    """Writes what makes the shards a TFDS data set, the index, the failures, and the summary."""
    records: dict[str, list[dict[str, Any]]] = {}
    checksums = {}
    for shard in shards:
        record = _read_record(shard)
        records.setdefault(shard.split, []).append(record)
        checksums[shard.path.name] = record["sha256"]
    template = tfds.core.ShardedFileTemplate(dataset_name=plan["name"], data_dir=epath.Path(out), filetype_suffix="array_record")
    with write_errors(out):
        tfds.folder_dataset.write_metadata(
            data_dir=out,
            features=FEATURES,
            split_infos=[
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[len(record["clips"]) for record in split_records],
                    num_bytes=sum(record["bytes"] for record in split_records),
                    filename_template=template.replace(split=split),
                )
                for split, split_records in records.items()
            ],
            version=VERSION,
            check_data=False,  # needs TensorFlow
            metadata=tfds.core.MetadataDict(label_names=plan["label_names"], sha256=checksums),
        )
    for split, split_records in records.items():
        write_index(out / index_file(split), (Facts(*row) for record in split_records for row in record["clips"]))
    failures = [failure for split_records in records.values() for record in split_records for failure in record["failures"]]
    failures += [failure._asdict() for failure in missing]
    write_text(out / FAILURES, "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures))
    written = {split: sum(record["written"] for record in split_records) for split, split_records in records.items()}
    clips = {split: sum(len(record["clips"]) for record in split_records) for split, split_records in records.items()}
    notes = sum((Notes(**record["notes"]) for split_records in records.values() for record in split_records), Notes())
    counts = {"in": sum(len(shard.jobs) for shard in shards) + len(missing), "written": written, "failed": len(failures), "clips": clips}
    write_json(out / SUMMARY, {**counts, "notes": dataclasses.asdict(notes), "plan": plan}, ascii_only=False)
