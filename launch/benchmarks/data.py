"""Times reading and preparing clips: `--data loader` and `--data prepare`.

Sides are compared by CPU time of this process with all its threads, which depends less than the clock on other load.
"""

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from absl import logging

from avmae_jax.config import AugmentConfig, Config
from avmae_jax.data.batches import TrainBatches, TrainOptions
from avmae_jax.data.catalog import listings
from avmae_jax.data.catalog.recipe import Recipe, make_clips, plan_jobs
from avmae_jax.data.clip import Clip
from avmae_jax.data.decode.form import ClipForm
from avmae_jax.data.decode.one_clip import decode_audio, decode_clip, frame_indices
from avmae_jax.data.decode.pixels import encode_jpeg, shrink
from avmae_jax.data.sources import open_source
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.writer import write_dataset

from .measuring import ratio, show, take_turns

_H100_PAIRS = 1700  # pairs/s at which one H100 pretrains the base model, by its arithmetic
_CLIPS = 96  # read by both loaders, again and again
_SECONDS = 10.0  # of a prepared clip
_SEEK_BEFORE = 16  # frames between the one that OpenCV seeks and the one it wants
_FILES, _ROUNDS = 6, 3  # prepared by each process, and how often


def show_loaders(config: Config, rounds: int) -> None:
    """Reads the same clips with our reader and with the PyTorch loader, in one process and thread, and prints the speed of both.

    Raises:
      ValueError: if the model takes one modality alone.
      ImportError: if PyTorch is missing.
    """
    from parity import torch_side  # PyTorch is optional

    model, size = config.model, config.train.batch_size
    if model.modality != "both":
        raise ValueError(f"model.modality is {model.modality}; the loaders are compared with both modalities")
    config.data.builtin_train, config.data.builtin_test = _CLIPS, 1
    source, batches = open_source(config.data, "train"), -(-_CLIPS // size)  # of a turn
    # Without threads, a turn's CPU time is its own. Weights keep grain from shuffling, which takes 0.3 ms an example of a hundred.
    data, weights = dataclasses.replace(config.data, workers=0, threads=0, prefetch=0), (np.arange(len(source)) < _CLIPS).astype(float)
    ours = TrainBatches(source, model, data, size, 0, TrainOptions(AugmentConfig(balanced=True), weights=weights))
    clips = [source[index % min(_CLIPS, len(source))] for index in range(batches * size)]
    theirs = torch_side.loader(torch_side.Examples(clips, config), size)
    turns = take_turns({"ours": lambda: [next(ours) for _ in range(batches)], "PyTorch": lambda: list(theirs)}, rounds)
    speeds = {side: [len(clips) / float(np.median(costs)) for costs in cost] for side, cost in turns.items()}
    show(
        f"{config.name}: {model.audio_frames} audio frames, {model.image_size} pixels, batches of {size}",
        ["loader", "examples/s", "examples per CPU second", f"cores for {_H100_PAIRS} pairs/s"],
        [[side, clock, cpu, _H100_PAIRS / cpu] for side, (clock, cpu) in speeds.items()],
        f"ours/PyTorch per CPU second: {ratio(turns['PyTorch'].cpu, turns['ours'].cpu)}; {rounds} turns; ours leaves log-mel to the device",
    )


def extract_by_seeking(path: Path, *, from_start: bool) -> Clip:
    """Makes a clip as the original's tool does, which seeks each of the ten frames; scaled and encoded as ours.

    Args:
      path: a media file with a constant frame rate.
      from_start: decode from the beginning of the file, instead of from the key frame before each frame, as OpenCV seeks.

    Raises:
      ValueError: if the file is shorter than its header promises.
    """
    frames = []
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        limit = int(stream.average_rate * _SECONDS)
        first, ticks = stream.start_time or 0, 1 / (stream.average_rate * stream.time_base)  # of a frame
        for index in frame_indices(min(stream.frames or limit, limit)):
            container.seek(first if from_start else first + round(max(0, index - _SEEK_BEFORE) * ticks), stream=stream)
            target = first + (index - 0.5) * ticks
            found = next((frame for frame in container.decode(stream) if frame.pts is not None and frame.pts > target), None)
            if found is None:
                raise ValueError(f"{path} ends before frame {index}, which its header promises; give another file")
            frames.append(encode_jpeg(shrink(found, Recipe.frame_size)))
    return Clip(path.stem, decode_audio(path, seconds=_SECONDS), tuple(frames), ())


def prepare_copies(path: Path, workers: int, files: int) -> tuple[float, float]:
    """Prepares copies of a file as launch.prepare does.

    Returns:
      (clips/s once all processes work, CPU seconds a clip of this process, which hands out the work and writes).
    """
    moments: list[tuple[float, float]] = []  # of the start and of each clip, by the clock and in CPU time
    with tempfile.TemporaryDirectory() as folder:
        (root := Path(folder, "media").resolve()).mkdir()
        for index in range(files):
            shutil.copy(path, root / f"{index}{path.suffix}")
        recipe = Recipe(clip_seconds=_SECONDS)
        jobs, _ = plan_jobs(listings.av_folder(root, test_percent=0), root, recipe)
        make = partial(make_clips, root=str(root), recipe=recipe)
        store(Path(folder, "out"), jobs, make, workers, lambda *_: moments.append((time.perf_counter(), time.process_time())))
    clock, cpu = (last - first for last, first in zip(moments[-1], moments[workers], strict=True))
    return (files - workers) / clock, cpu / (files - workers)


def store(folder: Path, jobs: Mapping[str, Sequence[Job]], make: Any, workers: int = 0, on_progress: Any = lambda *_: None) -> None:
    """Writes a data set without labels; the arguments are those of DatasetSpec and write_dataset."""
    write_dataset(folder, DatasetSpec("clips", jobs, make), workers=workers, on_progress=on_progress)


def show_preparing(path: Path, rounds: int) -> None:
    """Prints what a clip of a file costs, by seeking frames too, and the gain of more processes; raises ClipError or ValueError."""

    def check(clips: Mapping[str, Clip]) -> None:
        if len({clip.frames for clip in clips.values()}) > 1:
            logging.warning("%s: seeking finds other frames than counting does", path)

    sides: dict[str, Callable[[], Clip]] = {
        "ours": partial(decode_clip, path, clip_id=path.stem, form=ClipForm(seconds=_SECONDS)),
        "from the key frame before": partial(extract_by_seeking, path, from_start=False),
        "from the beginning": partial(extract_by_seeking, path, from_start=True),
    }
    costs = {side: turns.cpu for side, turns in take_turns(sides, rounds, check).items()}
    rows = [[side, float(np.median(cost)), ratio(cost, costs["ours"])] for side, cost in costs.items()]
    show(f"{path.name}: ten frames, {_SECONDS:g} s of audio", ["frames", "CPU s a clip", "of ours"], rows, f"medians of {rounds} turns")
    numbers = [workers for workers in (1, 2, 4, 8, 16, 32) if workers <= len(os.sched_getaffinity(0))]
    turns = np.array([[prepare_copies(path, workers, _FILES * workers) for workers in numbers] for _ in range(_ROUNDS)])
    speeds, own = turns[..., 0].max(axis=0), np.median(turns[..., 1], axis=0)  # [numbers]
    rows = zip(numbers, speeds, speeds / speeds[0], 1e3 * own, strict=True)
    show("launch.prepare", ["processes", "clips/s", "of one", "CPU ms a clip, writing"], rows, f"fastest of {_ROUNDS} turns")
