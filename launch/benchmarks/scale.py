"""Checks that a large data set is read as well as a small one: `--data scale`. Its clips are tiny, so that only their number counts."""

import io
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from avmae_jax.config import DataConfig, ModelConfig
from avmae_jax.data.batches import TrainBatches
from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.reader import PreparedSource

from .data import store
from .measuring import show

_MODEL = ModelConfig(audio_frames=16, image_size=16)
_EXAMPLES, _BATCH, _SAMPLES = 100_000, 500, 400


def write_examples(folder: Path, count: int) -> None:
    """Writes a data set of tiny clips whose ids are their numbers."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(image := io.BytesIO(), "jpeg")
    store(folder, {"train": [Job(str(index)) for index in range(count)]}, partial(_tiny, jpeg=image.getvalue()))


def _tiny(job: Job, *, jpeg: bytes) -> list[Clip]:
    return [Clip(job.id, np.full(_SAMPLES, int(job.id) % 30_000, np.int16), (jpeg,), ())]


def read_epoch(folder: Path, data: DataConfig, batch_size: int = _BATCH) -> tuple[np.ndarray, dict[str, Any]]:
    """Reads what write_examples wrote once, as training would, and resumes in the middle with a second reader.

    Returns:
      The ids in the order in which they were read, and what was found, by name.
    """
    memory, times, order, state, settled = psutil.Process().memory_info, [time.perf_counter()], [], {}, 0
    count = len(source := PreparedSource(folder, "train")) // batch_size
    times.append(time.perf_counter())
    batches = TrainBatches(source, _MODEL, data, batch_size, seed=1)
    for number in range(count):
        state = batches.state if number == count // 2 else state
        order.append(next(batches)["id"].astype(int))
        settled = memory().rss if number == count // 5 else settled
    grown = (memory().rss - settled) / 2**20
    times.append(time.perf_counter())
    batches.close()
    again = TrainBatches(PreparedSource(folder, "train"), _MODEL, data, batch_size, seed=1)
    again.state = state
    resumed = next(again)["id"].astype(int)
    times.append(time.perf_counter())
    again.close()
    return np.concatenate(order), {
        **dict(zip(("opening s", "an epoch s", "resuming in the middle s"), np.diff(times), strict=True)),
        "first batch after resuming": "the same" if np.array_equal(resumed, order[count // 2]) else "ANOTHER ONE",
        "examples read exactly once": int(np.sum(np.bincount(np.concatenate(order)) == 1)),
        "memory from a fifth to the end, MiB": grown,
    }


def show_scale(data: DataConfig, count: int = _EXAMPLES) -> None:
    """Writes examples into a temporary folder and prints how they are read."""
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder), count)
        _, found = read_epoch(Path(folder), data)
    note = f"{data.threads} threads, {data.workers} processes, batches of {_BATCH}"
    show(f"{count:,} examples", ["quantity", "value"], found.items(), note)
