"""Whether a large data set is read as well as a small one: the table of `python -m launch.benchmark --data scale`.

The examples are made up and tiny, so that it is the number of them that is measured.
"""

import functools
import io
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from avmae_jax.config import DataConfig, ModelConfig
from avmae_jax.data.batches import TrainBatches
from avmae_jax.data.clip import Clip
from avmae_jax.data.store.jobs import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.data.store.writer import write_dataset

_MODEL = ModelConfig(audio_frames=16, image_size=16)
_SAMPLES = 400  # of a clip
_BATCH = 500
_SEED = 1
_WARM = 5  # one part in so many of an epoch is read before memory counts as settled


class Findings(NamedTuple):
    """What came of an epoch."""

    open_seconds: float
    first_seconds: float  # from there to the first batch
    epoch_seconds: float
    times_seen: np.ndarray  # int[N], how often each clip came
    in_place: int  # clips that came at the place where they are stored; a shuffle leaves about one there
    settled_bytes: int  # memory of this process, once a fifth of the epoch was read
    end_bytes: int  # at its end
    resume_seconds: float  # from the making of a reader that goes on in the middle to its first batch
    resumed_alike: bool  # whether that batch is the one that came there in the epoch


def write_examples(folder: Path, count: int) -> None:
    """Writes a data set of `count` tiny clips whose ids are their numbers."""
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (_MODEL.image_size, _MODEL.image_size, 3), np.uint8)).save(picture, "jpeg")
    jobs = {"train": [Job(str(index)) for index in range(count)]}
    make = functools.partial(_tiny, jpeg=picture.getvalue())
    write_dataset(folder, DatasetSpec("tiny", jobs, make))


def _tiny(job: Job, *, jpeg: bytes) -> list[Clip]:
    return [Clip(job.id, np.full(_SAMPLES, int(job.id) % 30_000, np.int16), (jpeg,), ())]


def read_epoch(folder: Path, data: DataConfig, batch_size: int = _BATCH) -> Findings:
    """Opens the data set, reads every clip once as training would, and goes on in the middle of it with a second reader.

    Args:
      folder: as write_examples leaves it, with a multiple of `batch_size` clips.
      data: threads, processes and batches ahead.
      batch_size: clips a batch.
    """
    begin = time.perf_counter()
    source = PreparedSource(folder, "train")
    opened = time.perf_counter()
    count, middle, settled_bytes = len(source) // batch_size, len(source) // batch_size // 2, 0
    order, state, first = [], {}, opened
    batches = TrainBatches(source, _MODEL, data, batch_size, _SEED)
    try:
        for number in track(range(count), "reading an epoch", transient=True):
            if number == middle:
                state = batches.state
            order.append(next(batches)["id"].astype(int))
            first = time.perf_counter() if number == 0 else first
            if number == count // _WARM:
                settled_bytes = memory()
        epoch, end_bytes = time.perf_counter(), memory()
    finally:
        batches.close()
    again = time.perf_counter()
    resumed = TrainBatches(PreparedSource(folder, "train"), _MODEL, data, batch_size, _SEED)
    try:
        resumed.state = state
        ids = next(resumed)["id"].astype(int)
        resume = time.perf_counter() - again
    finally:
        resumed.close()
    seen = np.concatenate(order)
    return Findings(
        open_seconds=opened - begin,
        first_seconds=first - opened,
        epoch_seconds=epoch - opened,
        times_seen=np.bincount(seen, minlength=len(source)),
        in_place=int(np.sum(seen == np.arange(len(seen)))),
        settled_bytes=settled_bytes,
        end_bytes=end_bytes,
        resume_seconds=resume,
        resumed_alike=np.array_equal(ids, order[middle]),
    )


def memory() -> int:
    """Bytes of memory that this process occupies."""
    return psutil.Process().memory_info().rss


def show(count: int, data: DataConfig) -> None:
    """Writes `count` examples into a temporary folder and prints what reading them finds."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        write_examples(Path(folder, "tiny"), count)
        written = time.perf_counter() - begin
        size = sum(file.stat().st_size for file in Path(folder, "tiny").iterdir())
        shards = len(list(Path(folder, "tiny").glob("*.array_record*")))
        found = read_epoch(Path(folder, "tiny"), data)
    once = int(np.sum(found.times_seen == 1))
    table = Table("quantity", "value", title=f"{count:,} examples, {data.threads} threads, {data.workers} processes, batches of {_BATCH}")
    table.add_row("writing them", f"{written:.0f} s, {size / 2**20:.0f} MiB in {shards} shards")
    table.add_row("opening", f"{found.open_seconds:.2f} s")
    table.add_row("the first batch", f"{found.first_seconds:.2f} s")
    table.add_row("an epoch", f"{found.epoch_seconds:.0f} s")
    table.add_row("came exactly once", f"{once:,} of {count:,}; {found.in_place} at their own place")
    growth = (found.end_bytes - found.settled_bytes) / 2**20
    table.add_row("memory after a fifth, at the end", f"{found.settled_bytes / 2**20:.0f} MiB, {growth:+.1f} MiB")
    how = "the same batch" if found.resumed_alike else "ANOTHER BATCH"
    table.add_row("from opening to the first batch in the middle", f"{found.resume_seconds:.2f} s, {how}")
    Console(width=140).print(table)
