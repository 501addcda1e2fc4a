"""The one writer of stored data sets: jobs in, a TFDS folder of ArrayRecord shards out.

The folder reads back with `tfds.builder_from_directory` and holds, for each clip, `id`, `waveform` (int16 bytes), `frames` (encoded JPEGs)
and `labels`; TensorFlow is needed neither to write nor to read it. Its content depends on the list of jobs alone, not on the number of
workers.

A long run can be killed at any time. Each shard is written under a temporary name in `progress/` and renamed when complete, after a record
of its length and failures; the same call then goes on at the first missing shard. `progress/plan.json` says which call that is: a folder is
never continued with other clips or settings. A lock, freed by the system when its process dies, keeps a second writer out.

A clip that can't be made is no reason to stop: it becomes a line of `summary.json`, and written + failed = in.
"""

import fcntl
import functools
import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from avmae_jax.data.clip import Clip
from avmae_jax.data.video import ClipError
from avmae_jax.data.workers import run_ordered

SUMMARY = "summary.json"
PROGRESS = "progress"  # folder in an unfinished data set
_LOCK = ".lock"
_VERSION = "1.0.0"
_CRASH = ("crash", "killed the process that worked on it, twice: a codec crashed or memory ran out")  # stage and reason

FEATURES = tfds.features.FeaturesDict(
    {
        "id": tfds.features.Text(),
        "waveform": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
        "frames": tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")),
        "labels": tfds.features.Sequence(np.int64),
    }
)


class DatasetError(Exception):
    """A data set that can't be written or read as asked; the message says what to do."""


class Job(NamedTuple):
    """One clip to make."""

    id: str  # unique; failures are reported under it
    args: tuple = ()  # what `make` needs besides; becomes part of the plan, therefore of JSON's types


class Failure(NamedTuple):
    """A job that gave no clip."""

    file: str  # the job's id
    stage: str  # ClipError.stage, or "crash" where the process that worked on it died
    reason: str


class Summary(NamedTuple):
    """What became of all jobs."""

    written: dict[str, int]  # clips of each split
    failures: list[Failure]


Make = Callable[[Job], Clip]
OnProgress = Callable[[int, int, int], None]  # (clips done, failures among them, clips in all)


def write_dataset(
    out: str | Path,
    *,
    name: str,
    jobs: Mapping[str, Sequence[Job]],
    make: Make,
    label_names: Sequence[str],
    settings: Mapping[str, Any],
    workers: int,
    shard_size: int = 256,
    on_progress: OnProgress | None = None,
    wait_for_lock: bool = False,
) -> Summary:
    """Makes every clip and writes the data set, or goes on where a killed run of the same call stopped.

    Args:
      out: a new or empty folder, or one that the same call began. One that the same call finished is left as it is.
      name: TFDS name of the data set: lower case, digits, underscores.
      jobs: the clips of each split, in the order in which they are stored.
      make: job -> clip, raising ClipError where there is none; picklable, as it runs in other processes.
      label_names: what the clips' labels index.
      settings: everything else that `make` depends on, of JSON's types; a run goes on only with the same settings.
      workers: processes; 0 makes the clips in this one. Programs that ask for workers need an `if __name__ == "__main__":`.
      shard_size: jobs a shard.
      on_progress: called at the start and after every clip.
      wait_for_lock: wait while another process writes `out`, instead of raising.

    Returns:
      How many clips each split has, and every failure in order.

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
            _write_missing(shards, functools.partial(_make_record, make=make), workers, on_progress or (lambda *_: None))
            _finish(out, plan, shards)
        shutil.rmtree(out / PROGRESS, ignore_errors=True)  # after the summary, which is what makes the data set complete
    return read_summary(out)


def is_complete(out: Path) -> bool:
    """Whether `out` is a data set that write_dataset has finished."""
    return (out / SUMMARY).is_file()


def read_summary(out: Path) -> Summary:
    """The summary of a finished data set."""
    content = _read_json(out / SUMMARY)
    return Summary(content["written"], [Failure(**failure) for failure in content["failures"]])


class _Shard(NamedTuple):
    split: str
    path: Path  # where it ends up
    record: Path  # its length, bytes and failures; written before `path` appears
    jobs: Sequence[Job]


def _shards(out: Path, name: str, jobs: Mapping[str, Sequence[Job]], shard_size: int) -> Iterator[_Shard]:
    for split, split_jobs in jobs.items():
        count = math.ceil(len(split_jobs) / shard_size)
        for index in range(count):
            file = f"{name}-{split}.array_record-{index:05d}-of-{count:05d}"
            part = split_jobs[index * shard_size : (index + 1) * shard_size]
            yield _Shard(split, out / file, out / PROGRESS / f"{file}.json", part)


def _write_missing(shards: list[_Shard], work: Callable[[Job], bytes | Failure], workers: int, on_progress: OnProgress) -> None:
    missing = [shard for shard in shards if not shard.path.exists()]
    present = [_read_json(shard.record) for shard in shards if shard.path.exists()]
    failed = sum(len(record["failures"]) for record in present)
    done = failed + sum(record["clips"] for record in present)
    total = sum(len(shard.jobs) for shard in shards)
    on_progress(done, failed, total)

    def counted(results: Iterable[bytes | Failure]) -> Iterator[bytes | Failure]:
        nonlocal done, failed
        for result in results:
            done, failed = done + 1, failed + isinstance(result, Failure)
            on_progress(done, failed, total)
            yield result

    all_jobs = (job for shard in missing for job in shard.jobs)
    with closing(run_ordered(all_jobs, work, workers=workers, on_death=lambda job: Failure(job.id, *_CRASH))) as results:
        for shard in missing:
            _write_shard(shard, counted(itertools.islice(results, len(shard.jobs))))


def _write_shard(shard: _Shard, results: Iterable[bytes | Failure]) -> None:
    """Writes the clips, then the record of the shard, then gives the shard its name."""
    partial = shard.record.with_suffix(".partial")
    lengths, failures = [], []
    writer = ArrayRecordWriter(str(partial), "group_size:1")
    try:
        for result in results:
            if isinstance(result, Failure):
                failures.append(result._asdict())
            else:
                writer.write(result)
                lengths.append(len(result))
    finally:
        writer.close()
    _write_json(shard.record, {"clips": len(lengths), "bytes": sum(lengths), "failures": failures})
    partial.rename(shard.path)


def _finish(out: Path, plan: Mapping[str, Any], shards: list[_Shard]) -> None:
    """Writes what makes the shards a TFDS data set, and the summary."""
    records: dict[str, list[dict[str, Any]]] = {}
    for shard in shards:
        records.setdefault(shard.split, []).append(_read_json(shard.record))
    template = tfds.core.ShardedFileTemplate(dataset_name=plan["name"], data_dir=epath.Path(out), filetype_suffix="array_record")
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=FEATURES,
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[record["clips"] for record in split_records],
                num_bytes=sum(record["bytes"] for record in split_records),
                filename_template=template.replace(split=split),
            )
            for split, split_records in records.items()
        ],
        version=_VERSION,
        check_data=False,  # needs TensorFlow
        metadata=tfds.core.MetadataDict(label_names=plan["label_names"]),
    )
    written = {split: sum(record["clips"] for record in split_records) for split, split_records in records.items()}
    failures = [failure for split_records in records.values() for record in split_records for failure in record["failures"]]
    counts = {"in": sum(len(shard.jobs) for shard in shards), "written": written, "failed": len(failures)}
    _write_json(out / SUMMARY, {**counts, "failures": failures, "plan": plan})


def _make_record(job: Job, *, make: Make) -> bytes | Failure:
    """The clip as a serialised tf.train.Example; runs in a worker."""
    try:
        with ExitStack() as stack:
            stack.push(lambda kind, error, trace: error.add_note(f"while making the clip {job.id}") if error else None)
            clip = make(job)
    except ClipError as error:
        return Failure(job.id, error.stage, error.reason)
    example = FEATURES.serialize_example({**clip._asdict(), "frames": list(clip.frames), "labels": list(clip.labels)})
    # TFDS writes the fields in an order that differs from process to process.
    message = tf_example_pb2.Example.FromString(example)  # pyright: ignore[reportAttributeAccessIssue] - made when protobuf is loaded
    return message.SerializeToString(deterministic=True)


def _plan(name: str, jobs: Mapping[str, Sequence[Job]], label_names: Sequence[str], settings: Mapping[str, Any], shard_size: int) -> dict:
    """What must be the same for a run to go on, as JSON reads it back."""
    plan: dict[str, Any] = {"name": name, "version": _VERSION, "shard_size": shard_size, "label_names": list(label_names), **settings}
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


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
