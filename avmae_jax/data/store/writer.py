"""The one writer of stored data sets: jobs in, a TFDS folder of ArrayRecord shards out.

The folder reads back with `tfds.builder_from_directory`; data/store/records.py says what it holds of each clip. Its content depends on the
list of jobs alone, not on the number of workers, nor on the engine: what writes the shards that are missing, `write_shards` unless given.

A job is a media file, which gives one clip or many. Workers put each clip into a file of its own in `progress/spool/`, from where it goes
into its shard: however long a film is, memory holds one clip of it.

A long run can be killed at any time. Each shard is written under a temporary name in `progress/` and renamed when complete, after a record
of its clips and failures; the same call then goes on at the first missing shard. `progress/plan.json` says which call that is: a folder is
never continued with other clips or settings. A lock, freed by the system when its process dies, keeps a second writer out.

A file that gives no clip is no reason to stop: it becomes a line of `failures.jsonl`, and written + failed = in.
"""

import fcntl
import functools
import hashlib
import itertools
import json
import math
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from avmae_jax.data.store.jobs import Failure, Job, Made, Make, make_records
from avmae_jax.data.store.records import FEATURES, Facts, index_file, write_index
from avmae_jax.data.store.workers import run_ordered
from avmae_jax.errors import DatasetError

SUMMARY = "summary.json"
FAILURES = "failures.jsonl"
PROGRESS = "progress"  # folder in an unfinished data set
_LOCK = ".lock"
_SPOOL = "spool"  # folder in PROGRESS
VERSION = "2.0.0"
_CRASH = ("crash", "killed the process that worked on it, twice: a codec crashed or memory ran out")  # stage and reason


class Summary(NamedTuple):
    """What became of all jobs."""

    written: dict[str, int]  # jobs of each split that gave clips
    clips: dict[str, int]  # of each split
    failures: list[Failure]


class Shard(NamedTuple):
    """One file of the data set."""

    split: str
    path: Path  # where it ends up
    record: Path  # its length, bytes and failures; written before `path` appears
    jobs: Sequence[Job]


OnProgress = Callable[[int, int, int], None]  # (jobs done, failures among them, jobs in all)
Engine = Callable[[Sequence[Shard], Make, OnProgress], None]  # writes those of the shards that aren't there


def write_dataset(
    out: str | Path,
    *,
    name: str,
    jobs: Mapping[str, Sequence[Job]],
    make: Make,
    label_names: Sequence[str],
    settings: Mapping[str, Any],
    workers: int,
    engine: Engine | None = None,
    shard_size: int = 256,
    missing: Sequence[Failure] = (),
    on_progress: OnProgress | None = None,
    wait_for_lock: bool = False,
) -> Summary:
    """Makes every clip and writes the data set, or goes on where a killed run of the same call stopped.

    Args:
      out: a new or empty folder, or one that the same call began. One that the same call finished is left as it is.
      name: TFDS name of the data set: lower case, digits, underscores.
      jobs: the files of each split, in the order in which their clips are stored.
      make: job -> its clips, one at a time, raising ClipError where the file is of no use, which discards all of its clips; picklable, as
        it runs in other processes.
      label_names: what the clips' labels index.
      settings: everything else that `make` depends on, of JSON's types; a run goes on only with the same settings.
      workers: processes; 0 makes the clips in this one. Programs that ask for workers need an `if __name__ == "__main__":`.
      engine: works elsewhere than in processes of this machine; `workers` then says nothing.
      shard_size: jobs a shard.
      missing: what is known not to be there; counted and reported with the failures.
      on_progress: called at the start and after every job.
      wait_for_lock: wait while another process writes `out`, instead of raising.

    Returns:
      How many jobs gave clips, how many clips each split has, and every failure in order.

    Raises:
      DatasetError: nothing to do, a folder that can't be used, another writer.
    """
    out = Path(out)
    if not any(jobs.values()):
        raise DatasetError(f"{out}: there are no clips to write")
    plan = _plan(name, jobs, label_names, settings, shard_size)
    with _locked(out, wait_for_lock):
        if not _claim(out, plan):
            shards = list(_shards(out, name, jobs, shard_size))
            spool = out / PROGRESS / _SPOOL
            shutil.rmtree(spool, ignore_errors=True)  # of a run that was killed
            spool.mkdir()
            (engine or functools.partial(write_shards, workers=workers))(shards, make, on_progress or (lambda *_: None))
            _finish(out, plan, shards, missing)
        shutil.rmtree(out / PROGRESS, ignore_errors=True)  # after the summary, which is what makes the data set complete
    return read_summary(out)


def is_complete(out: Path) -> bool:
    """Whether `out` is a data set that write_dataset has finished."""
    return (out / SUMMARY).is_file()


def read_summary(out: Path) -> Summary:
    """The summary of a finished data set."""
    content = _read_json(out / SUMMARY)
    lines = (out / FAILURES).read_text(encoding="utf-8").splitlines()
    return Summary(content["written"], content["clips"], [Failure(**json.loads(line)) for line in lines])


def _shards(out: Path, name: str, jobs: Mapping[str, Sequence[Job]], shard_size: int) -> Iterator[Shard]:
    for split, split_jobs in jobs.items():
        count = math.ceil(len(split_jobs) / shard_size)
        for index in range(count):
            file = f"{name}-{split}.array_record-{index:05d}-of-{count:05d}"
            part = split_jobs[index * shard_size : (index + 1) * shard_size]
            yield Shard(split, out / file, out / PROGRESS / f"{file}.json", part)


def write_shards(shards: Sequence[Shard], make: Make, on_progress: OnProgress, *, workers: int, spool: str | None = None) -> None:
    """Writes those of the shards that aren't there. Where two processes write one, the later one replaces it by the same bytes.

    Args:
      shards: in order.
      make: see write_dataset.
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
    work = functools.partial(make_records, make=make, spool=spool or str(shards[0].record.parent / _SPOOL))
    with closing(run_ordered(all_jobs, work, workers=workers, on_death=lambda job: Failure(job.id, *_CRASH))) as results:
        for shard in missing:
            _write_shard(shard, counted(itertools.islice(results, len(shard.jobs))))


def count_done(shards: Sequence[Shard]) -> tuple[int, int, int]:
    """What OnProgress is told: jobs of the shards that are there, failures among them, jobs of all shards."""
    present = [_read_json(shard.record) for shard in shards if shard.path.exists()]
    failed = sum(len(record["failures"]) for record in present)
    return failed + sum(record["written"] for record in present), failed, sum(len(shard.jobs) for shard in shards)


def _write_shard(shard: Shard, results: Iterable[Made | Failure]) -> None:
    """Writes the clips, then the record of the shard, then gives the shard its name."""
    partial = shard.record.parent / _SPOOL / uuid.uuid4().hex  # its own, should another process be at the same shard
    facts: list[Facts] = []
    failures, written, size = [], 0, 0
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
    finally:
        writer.close()
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = partial.with_suffix(".json")
    _write_json(record, {"written": written, "bytes": size, "sha256": digest, "failures": failures, "clips": facts}, indent=None)
    record.replace(shard.record)
    partial.replace(shard.path)


def _finish(out: Path, plan: Mapping[str, Any], shards: list[Shard], missing: Sequence[Failure]) -> None:
    """Writes what makes the shards a TFDS data set, the index, the failures, and the summary."""
    records: dict[str, list[dict[str, Any]]] = {}
    checksums = {}
    for shard in shards:
        record = _read_json(shard.record)
        records.setdefault(shard.split, []).append(record)
        checksums[shard.path.name] = record["sha256"]
    template = tfds.core.ShardedFileTemplate(dataset_name=plan["name"], data_dir=epath.Path(out), filetype_suffix="array_record")
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
    with (out / FAILURES).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
    written = {split: sum(record["written"] for record in split_records) for split, split_records in records.items()}
    clips = {split: sum(len(record["clips"]) for record in split_records) for split, split_records in records.items()}
    counts = {"in": sum(len(shard.jobs) for shard in shards) + len(missing), "written": written, "failed": len(failures), "clips": clips}
    _write_json(out / SUMMARY, {**counts, "plan": plan})


def _plan(name: str, jobs: Mapping[str, Sequence[Job]], label_names: Sequence[str], settings: Mapping[str, Any], shard_size: int) -> dict:
    """What must be the same for a run to go on, as JSON reads it back."""
    plan: dict[str, Any] = {"name": name, "version": VERSION, "shard_size": shard_size, "label_names": list(label_names), **settings}
    seen: set[str] = set()
    for split, split_jobs in jobs.items():
        digest = hashlib.sha256()
        for job in split_jobs:
            if job.id in seen:
                raise DatasetError(f"the clip id {job.id!r} occurs twice; ids must be unique")
            seen.add(job.id)
            digest.update(json.dumps([job.id, job.args]).encode())
        plan[f"{split} clips"] = f"{len(split_jobs)}, sha256 {digest.hexdigest()[:16]}"
    return json.loads(json.dumps(plan))


def _claim(out: Path, plan: dict[str, Any]) -> bool:
    """Makes sure that `out` is ours to write; true if it is finished already."""
    plan_file = out / PROGRESS / "plan.json"
    complete = is_complete(out)
    if not complete and not plan_file.is_file():
        plan_file.parent.mkdir(exist_ok=True)
        _write_json(plan_file, plan)
        return False
    begun = _read_json(out / SUMMARY)["plan"] if complete else _read_json(plan_file)
    for key in sorted({*plan, *begun}):
        if plan.get(key) != begun.get(key):
            raise DatasetError(
                f"{out} holds {'a finished' if complete else 'an unfinished'} data set with {key} = {begun.get(key)}, but this run has "
                f"{key} = {plan.get(key)}; run it as it was begun, or give another folder, or delete this one"
            )
    logging.info("%s is %s", out, "complete already" if complete else "unfinished; going on with it")
    return complete


@contextmanager
def _locked(out: Path, wait: bool) -> Iterator[None]:
    """Holds `out` for this process; the system frees it when the process ends, however it ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        present = sorted({entry.name for entry in out.iterdir()})
        if present and _LOCK not in present:
            raise DatasetError(f"{out} isn't empty (it holds {present[0]!r}) and isn't a data set begun here; give a new or empty folder")
        lock = (out / _LOCK).open("a")
    except OSError as error:
        raise DatasetError(f"{out} can't be written ({error.strerror}); give a folder that can") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                raise DatasetError(f"another process is writing {out}; wait for it, or give another folder") from error
            logging.info("another process is writing %s; waiting for it", out)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, content: Mapping[str, Any], indent: int | None = 1) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
