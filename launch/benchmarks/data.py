"""What preparing and reading clips costs: the tables of `python -m launch.benchmark --data loader` and `--data prepare`.

Sides take turns, and what counts is the CPU time of this process with all its threads, which depends less than the clock on what else the
machine does.
"""

import dataclasses
import functools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
from absl import logging
from rich.console import Console
from rich.table import Table

from avmae_jax.config import Config
from avmae_jax.data.batches import TrainBatches
from avmae_jax.data.catalog import listings
from avmae_jax.data.catalog.recipe import Recipe, make_clips, plan_jobs
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.decode.media import encode_jpeg, shrink
from avmae_jax.data.decode.one_clip import ClipForm, decode_audio, decode_clip, frame_indices
from avmae_jax.data.sources import open_source
from avmae_jax.data.store.jobs import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.data.store.writer import write_dataset

_H100_PAIRS = 1700  # pairs a second that pretraining the base model takes on one H100, by its arithmetic
_CLIPS = 96  # read by both loaders, again and again
_PRETENDED = 20_000  # clips of the set that they stand for
_OUR_BATCHES, _THEIR_BATCHES = 20, 2  # of a turn; ours take a tenth of the time
_QUIET = 0.002  # CPU seconds in a tenth of a second at which nobody is at work
_SECONDS = 10.0  # of a prepared clip
_SEEK_BEFORE = 16  # frames that OpenCV aims before the one it wants
_FILES, _WRITING_TURNS = 6, 3  # prepared for each process, that often


class Speed(NamedTuple):
    """Examples a second."""

    clock: float
    cpu: float  # by the CPU time of all threads


class ModuleMissingError(RuntimeError):
    """The other side can't be imported; the message says what to install."""


def compare_loaders(config: Config, rounds: int) -> dict[str, list[Speed]]:
    """Our reader and the PyTorch one on the same clips, one process and one thread each.

    Args:
      config: its data says where clips come from; its model and train.batch_size count, too.
      rounds: turns of each side.

    Returns:
      The speeds of each turn, by side: "ours" and "PyTorch".

    Raises:
      ModuleMissingError: without the `parity` extra.
      ValueError: if the model hasn't both modalities.
      DatasetError: if the clips can't be read.
    """
    if config.model.modality != "both":
        raise ValueError(f"model.modality is {config.model.modality!r}; the loaders are compared at both")
    try:
        from parity import loader_torch  # the only one here that looks into parity/
    except ImportError as error:
        raise ModuleMissingError(f'not installed: {error.name}, for the comparison with PyTorch; pip install -e ".[parity]"') from error
    config.data.builtin_train, config.data.builtin_test = _CLIPS, 1
    source, size = open_source(config.data, "train"), config.train.batch_size
    clips = [source[index % len(source)] for index in range(max(_CLIPS, size * _THEIR_BATCHES))]
    speeds: dict[str, list[Speed]] = {"ours": [], "PyTorch": []}
    with tempfile.TemporaryDirectory() as folder:
        (layout := Path(folder, "layout")).mkdir()
        files = loader_torch.Files(layout, loader_torch.write_files(clips, layout), config.model, config.data)
        theirs = loader_torch.batches(files, size)
        data = dataclasses.replace(config.data, workers=0, threads=1, prefetch=1)
        ours = TrainBatches(_Repeated(_stored(clips, Path(folder, "stored"))), config.model, data, size, seed=0)
        try:
            for _ in range(rounds + 1):  # the first turn fills caches and isn't counted
                speeds["ours"].append(_our_speed(ours, size))
                speeds["PyTorch"].append(_their_speed(theirs, size))
        finally:
            ours.close()
    return {side: turns[1:] for side, turns in speeds.items()}


class _Repeated:
    """A few clips as the many of a real set: a place in a shuffled hundred takes grain 0.3 ms, 8 us from 20,000 on."""

    label_names: Sequence[str] = ()

    def __init__(self, source: ClipSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return _PRETENDED

    def __getitem__(self, index: int) -> Clip:
        return self._source[index % len(self._source)]


def _stored(clips: Sequence[Clip], folder: Path) -> PreparedSource:
    """The clips in a data set of their own, as launch.prepare would write them today."""
    jobs = {"train": [Job(str(index), (index,)) for index in range(len(clips))]}
    make: Callable[[Job], list[Clip]] = lambda job: [clips[job.args[0]]]  # noqa: E731, it has no name
    write_dataset(folder, DatasetSpec("clips", jobs, make))
    return PreparedSource(folder, "train")


def _our_speed(batches: TrainBatches, size: int) -> Speed:
    """From rest to rest: the thread that reads ahead has as much ready at the end as at the beginning."""
    cpu = _cpu_at_rest()
    for _ in range(_OUR_BATCHES // 4):  # what was ready, and more, before the clock starts
        next(batches)
    begin, timed = time.perf_counter(), _OUR_BATCHES - _OUR_BATCHES // 4
    for _ in range(timed):
        next(batches)
    clock = time.perf_counter() - begin
    return Speed(timed * size / clock, _OUR_BATCHES * size / (_cpu_at_rest() - cpu))


def _their_speed(loader: Iterable, size: int) -> Speed:
    begin, cpu = time.perf_counter(), time.process_time()
    count = size * sum(1 for _ in loader)
    return Speed(count / (time.perf_counter() - begin), count / (time.process_time() - cpu))


def _cpu_at_rest() -> float:
    """CPU time of this process, once none of its threads works any more."""
    before = -1.0
    while (now := time.process_time()) - before > _QUIET:
        before = now
        time.sleep(0.1)
    return now


def show_loaders(config: Config, rounds: int) -> None:
    """Prints how the loaders compare; raises as compare_loaders."""
    speeds = compare_loaders(config, rounds)
    table = Table("loader", title=f"{config.name}: {config.model.audio_frames} frames of sound, {config.model.image_size} x "
                  f"{config.model.image_size} pixels, batches of {config.train.batch_size}")  # fmt: skip
    for heading in ("examples/s", "examples per CPU second", f"cores for {_H100_PAIRS} pairs/s"):
        table.add_column(heading, justify="right")
    median = {side: Speed(*map(statistics.median, zip(*turns, strict=True))) for side, turns in speeds.items()}
    for side, speed in median.items():
        table.add_row(side, f"{speed.clock:.0f}", f"{speed.cpu:.0f}", f"{_H100_PAIRS / speed.cpu:.1f}")
    ratios = [ours.cpu / theirs.cpu for ours, theirs in zip(*speeds.values(), strict=True)]
    Console(width=140).print(
        table,
        f"ours/PyTorch per CPU second: {statistics.median(ratios):.1f}, in single turns {min(ratios):.1f} to {max(ratios):.1f}",
        f"medians of {rounds} turns, one process and one thread each; ours leaves log-mel and normalisation to the device",
        sep="\n",
    )


def compare_preparing(path: Path, rounds: int) -> dict[str, list[float]]:
    """CPU seconds for a clip of a media file: ours, and those that search for each frame; raises ClipError or ValueError."""
    sides: dict[str, Callable[[], Clip]] = {
        "ours": functools.partial(decode_clip, path, clip_id=path.stem, form=ClipForm(seconds=_SECONDS)),
        "from the key frame before": functools.partial(extract_by_seeking, path, from_start=False),
        "from the beginning": functools.partial(extract_by_seeking, path, from_start=True),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        made = {}
        for side, make in sides.items():
            begin = time.process_time()
            made[side] = make().frames
            seconds[side].append(time.process_time() - begin)
        if len(set(made.values())) > 1:
            logging.warning("%s: seeking finds other frames than counting does", path)
    return seconds


def extract_by_seeking(path: Path, *, from_start: bool) -> Clip:
    """A clip as the original's tool makes it, which searches for each of the ten frames; scaled and stored as we do it.

    Args:
      path: of a media file with a constant frame rate.
      from_start: decode from the beginning of the file, instead of from the key frame before each frame, as OpenCV seeks.

    Raises:
      ValueError: if the file is shorter than its header says.
    """
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        limit = int(stream.average_rate * _SECONDS)
        wanted = frame_indices(min(stream.frames or limit, limit))
        first, ticks = stream.start_time or 0, 1 / (stream.average_rate * stream.time_base)  # of a frame
        frames = []
        for index in wanted:
            container.seek(first if from_start else first + round(max(0, index - _SEEK_BEFORE) * ticks), stream=stream)
            target = first + (index - 0.5) * ticks
            found = next((frame for frame in container.decode(stream) if frame.pts is not None and frame.pts > target), None)
            if found is None:
                raise ValueError(f"{path} ends before frame {index}, which its header promises; give another file")
            frames.append(encode_jpeg(shrink(found, Recipe.frame_size)))
    return Clip(path.stem, decode_audio(path, seconds=_SECONDS), tuple(frames), ())


class Writing(NamedTuple):
    """How launch.prepare's writer did."""

    clips_a_second: float  # once all of its processes were at work
    own_cpu: float  # CPU seconds a clip in this process, which hands out the work and writes: what doesn't get faster with more processes


def prepare_copies(path: Path, workers: int, files: int) -> Writing:
    """Prepares copies of a file as launch.prepare does."""
    with tempfile.TemporaryDirectory() as folder:
        (root := Path(folder, "media").resolve()).mkdir()
        for index in range(files):
            shutil.copy(path, root / f"{index}{path.suffix}")
        recipe = Recipe(clip_seconds=_SECONDS)
        jobs, _ = plan_jobs(listings.av_folder(root, test_percent=0), root, recipe)
        moments: list[tuple[float, float]] = []  # of the start and of each clip, by the clock and in CPU time
        write_dataset(
            Path(folder, "out"),
            DatasetSpec("copies", jobs, functools.partial(make_clips, root=str(root), recipe=recipe)),
            workers=workers,
            on_progress=lambda *_: moments.append((time.perf_counter(), time.process_time())),
        )
    clock, cpu = (last - first for last, first in zip(moments[-1], moments[workers], strict=True))
    return Writing((files - workers) / clock, cpu / (files - workers))


def show_preparing(path: Path, rounds: int) -> None:
    """Prints what a clip of a file costs, and how many are made with more processes; raises ClipError or ValueError."""
    seconds = {side: statistics.median(turns) for side, turns in compare_preparing(path, rounds).items()}
    table = Table("frames are found", "CPU s a clip", "ours is faster by", title=f"{path.name}: ten frames and {_SECONDS:g} s of sound")
    for side, taken in seconds.items():
        table.add_row(side, f"{taken:.3f}", f"{taken / seconds['ours']:.1f} x")
    cores = len(os.sched_getaffinity(0))
    numbers = [workers for workers in (1, 2, 4, 8, 16, 32) if workers <= cores]
    turns = [{workers: prepare_copies(path, workers, _FILES * workers) for workers in numbers} for _ in range(_WRITING_TURNS)]
    scaling = Table("processes", "clips/s", "of one process", "own CPU ms a clip", title=f"launch.prepare, {cores} cores")
    fastest = {workers: max(turn[workers].clips_a_second for turn in turns) for workers in numbers}
    for workers, speed in fastest.items():
        own = statistics.median(turn[workers].own_cpu for turn in turns)
        scaling.add_row(str(workers), f"{speed:.2f}", f"{speed / fastest[1]:.2f} x", f"{1000 * own:.1f}")
    print_to = Console(width=140).print
    print_to(table, f"medians of {rounds} turns; all sides make the same pictures and sound", sep="\n")
    print_to(scaling, f"fastest of {_WRITING_TURNS} turns; own: of the one process that hands out the work and writes", sep="\n")
