"""Reads what data/store/writer.py wrote, clips by index, and skips damaged records up to a limit."""

import functools
import hashlib
import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_data_source import ArrayRecordDataSource

from avmae_jax.data.clip import SAMPLE_RATE, Clip, ClipSource
from avmae_jax.data.store.plan import PROGRESS, READABLE, SUMMARY, is_complete, read_plan
from avmae_jax.data.store.records import Needs, deserialise, index_file, read_index, weights_file
from avmae_jax.errors import CorruptRecordError, DatasetError, EmptySplitError, first_line, some
from avmae_jax.files import OnProgress

Split = Literal["train", "test"]

_WITH: dict[Needs, str] = {"both": "audio and images", "audio": "audio", "image": "images", "any": "audio or images"}
_ROUNDED = 1e-3  # s; the index rounds lengths
_OTHER_FILES = 256  # that a process may have open besides shards


class PreparedSource:
    """Reads one split of a prepared data set, reduced to the clips that have what is needed."""

    def __init__(self, path: str | Path, split: Split, needs: Needs = "both") -> None:
        """Opens a split; no record is read.

        Args:
          path: the folder.
          split: "train" or "test".
          needs: clips that lack audio or images are left out, and counted in the log, if these are needed.

        Raises:
          DatasetError: if the folder isn't a finished data set with such clips, or some of it is missing.
        """
        self._path, self._split = Path(path).expanduser(), split
        info = _open(self._path, split)
        self.label_names: Sequence[str] = label_names_of(self._path, info)
        found = info.splits[split]
        try:
            self.index = read_index(self._path / index_file(split), len(self.label_names))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self._path}: {index_file(split)} can't be read ({error}); prepare the data set again") from error
        if len(self.index.id) != found.num_examples:
            counts = f"{len(self.index.id)} clips, but the shards {found.num_examples}"
            raise DatasetError(f"{self._path}: {index_file(split)} has {counts}; prepare the data set again")
        self._rows = self.index.having(needs)
        if not len(self._rows):
            raise EmptySplitError(f"{self._path}: none of the {len(self.index.id)} clips in the split {split!r} has {_WITH[needs]}")
        if left_out := len(self.index.id) - len(self._rows):
            logging.info("%s: %d of %d %s clips are left out for want of %s", self._path, left_out, len(self.index.id), split, _WITH[needs])
        self._files, self._lengths = [os.fspath(file) for file in found.filepaths], found.shard_lengths
        plan = read_plan(self._path)
        seconds, frames = plan.get("clip_seconds"), plan.get("frames")
        self.frames = frames if isinstance(frames, int) and frames > 0 else int(self.index.frames.max())  # of a clip that isn't too short
        self._seconds = float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None  # for records without frame times
        _allow_open_files(len(self._files))
        # TFDS knows the lengths, so that no shard need be opened for them.
        self._records = ArrayRecordDataSource(found.file_instructions)  # pyright: ignore[reportArgumentType] - same fields

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Clip:
        """Returns the clip at an index in [0, len).

        Raises:
          CorruptRecordError: naming clip, shard and record, if it can't be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self} has no clip {index}")
        row = int(self._rows[index])
        try:
            clip = deserialise(self._records[row], self._seconds)
            self._check(clip, row)
            return clip
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            ends = np.cumsum(self._lengths)
            shard = int(np.searchsorted(ends, row, side="right"))
            where = f"record {row - int(ends[shard] - self._lengths[shard])} of {self._files[shard]}"
            raise CorruptRecordError(f"the clip {self.index.id[row].decode()!r} can't be read: {where} is damaged ({error})") from error

    def _check(self, clip: Clip, row: int) -> None:
        """Raises ValueError unless a clip is what the index says."""
        index = self.index
        known = {
            "id": (clip.id, index.id[row].decode()),
            "video": (clip.video, index.video[row].decode()),
            "start": (np.float32(clip.start), index.start[row]),
            "frames": (len(clip.frames), index.frames[row]),
            "labels": (list(clip.labels), index.labels_of(row).tolist()),
        }
        if wrong := [name for name, (stored, indexed) in known.items() if stored != indexed]:
            raise ValueError(f"its {wrong[0]} is {known[wrong[0]][0]}, but the index says {known[wrong[0]][1]}")
        if abs(len(clip.waveform) / SAMPLE_RATE - float(index.seconds[row])) > _ROUNDED:
            raise ValueError(f"it has {len(clip.waveform) / SAMPLE_RATE} s of audio, but the index says {index.seconds[row]}")

    @property
    def ids(self) -> list[str]:
        """Returns the ids of all clips; no record is read for them."""
        return [name.decode() for name in self.index.id[self._rows]]

    @property
    def videos(self) -> list[str]:
        """Returns what each clip was cut from, or its id; no record is read for them."""
        videos, ids = (column[self._rows].tolist() for column in (self.index.video, self.index.id))
        return [(video or own).decode() for video, own in zip(videos, ids, strict=True)]

    def labels_of(self, index: int) -> tuple[int, ...]:
        """Returns the labels of the clip at an index; its record isn't read."""
        return tuple(self.index.labels_of(int(self._rows[index])).tolist())

    @property
    def weights(self) -> np.ndarray | None:
        """Returns float64[len], how often each clip is to be drawn, as launch.data_statistics stored it; None if it didn't.

        Raises:
          DatasetError: if the file is damaged, or of another data set.
        """
        file = self._path / weights_file(self._split)
        if not file.exists():
            return None
        try:
            found = np.load(file, allow_pickle=False)
            if found.shape != self.index.id.shape or not np.isfinite(found).all() or (found < 0).any() or not found.any():
                raise ValueError(f"it must hold {len(self.index.id)} numbers of 0 or more")
        except Exception as error:  # NumPy lets pass whatever a damaged header makes it raise
            raise DatasetError(f"{file} can't be used ({error}); run launch.data_statistics again") from error
        return found[self._rows]

    def __repr__(self) -> str:
        return f"PreparedSource({str(self._path)!r}, {self._split!r}, {len(self)} clips)"


def frames_of(source: ClipSource) -> int | None:
    """Returns the number of frames that a source's clips were prepared with; None where it doesn't know."""
    return getattr(source, "frames", None)


def ids_of(source: ClipSource) -> list[str]:
    """Returns the ids of all clips; those of a source that doesn't know them are read."""
    own = getattr(source, "ids", None)
    return [source[index].id for index in range(len(source))] if own is None else own


def videos_of(source: ClipSource) -> list[str]:
    """Returns what each clip was cut from; of clips that no others share a video with, that is the id."""
    own = getattr(source, "videos", None)
    return ids_of(source) if own is None else own


def clips_by_id(source: ClipSource, ids: Sequence[str], split: str) -> list[Callable[[], Clip]]:
    """Returns a function for each id that reads its clip, or raises CorruptRecordError if the clip is damaged.

    Raises:
      DatasetError: if the source, the clips of `split`, has none with one of the ids.
    """
    there = ids_of(source)
    places = {name: index for index, name in enumerate(there)}
    if missing := [name for name in ids if name not in places]:
        raise DatasetError(f"no clip of the split {split} has the id {missing[0]!r}; ids are such as {there[0]!r}")

    def read(name: str) -> Clip:
        clip = source[places[name]]
        if clip.id != name:  # a tolerant source lets the next one stand in for a damaged one
            raise CorruptRecordError(f"the clip {name!r} is damaged")
        return clip

    return [functools.partial(read, name) for name in ids]


def open_splits(folder: Path) -> dict[str, PreparedSource]:
    """Opens all clips of every split of a prepared data set; raises DatasetError if the folder is none, or has no clips."""
    splits = dataset_info(folder).splits
    sources = {split: PreparedSource(folder, split, "any") for split in get_args(Split) if split in splits and splits[split].num_examples}
    if not sources:
        raise DatasetError(f"{folder} has no clips; the reasons are in its failures.jsonl")
    return sources


def damaged_shards(folder: Path, on_progress: OnProgress) -> list[Path]:
    """Reads every shard of a prepared data set and returns those whose bytes aren't those that were written."""
    checksums = (dataset_info(folder).metadata or {}).get("sha256")
    if not isinstance(checksums, dict) or not all((folder / name).parent == folder for name in checksums):
        raise DatasetError(f"{folder}: metadata.json is damaged, it has no checksums; prepare the data set again")
    damaged = []
    for number, (name, expected) in enumerate(checksums.items(), start=1):
        if _checksum(folder / name) != expected:
            damaged.append(folder / name)
        on_progress(number, len(damaged), len(checksums))
    return damaged


def _checksum(file: Path) -> str | None:
    """Returns the SHA-256 of a file; None if it can't be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None


def labels_of(source: ClipSource, index: int) -> tuple[int, ...]:
    """Returns the labels of the clip at an index; a source that doesn't know them is read."""
    own = getattr(source, "labels_of", None)
    return source[index].labels if own is None else own(index)


def dataset_info(path: Path) -> tfds.core.DatasetInfo:
    """Returns what TFDS knows of a data set; raises DatasetError unless it is finished and its description is whole."""
    if not path.is_dir():
        raise DatasetError(f"{path}: there is no such folder; write it with launch.prepare")
    if not is_complete(path):
        unfinished = (path / PROGRESS).exists()
        raise DatasetError(
            f"{path} {'is unfinished; run the command that began it again' if unfinished else 'is no data set of launch.prepare'}"
        )
    try:
        info = tfds.builder_from_directory(path).info
        counts = {name: int(found.num_examples) for name, found in info.splits.items()}
        named = [file for found in info.splits.values() for file in found.filepaths]
        _ = info.metadata  # read when it is first used
    except Exception as error:  # whatever its readers of JSON and protocol buffers raise
        raise DatasetError(
            f"{path}: dataset_info.json, features.json or metadata.json is damaged ({first_line(error)}); prepare the data set again"
        ) from error
    if any(count < 0 for count in counts.values()) or any(Path(file).parent != path for file in named):
        raise DatasetError(f"{path}: dataset_info.json is damaged; prepare the data set again")
    return info


def label_names_of(path: Path, info: tfds.core.DatasetInfo) -> tuple[str, ...]:
    """Returns the names of a data set's classes; raises DatasetError if its metadata are damaged."""
    names = (info.metadata or {}).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or names != read_plan(path).get("label_names"):
        raise DatasetError(f"{path}: metadata.json or {SUMMARY} is damaged, they don't agree on label_names; prepare the data set again")
    return tuple(names)


def _open(path: Path, split: Split) -> tfds.core.DatasetInfo:
    """Returns what TFDS knows of a data set; raises DatasetError unless it is finished and all files of the split are there."""
    info = dataset_info(path)
    counts = {name: found.num_examples for name, found in info.splits.items()}
    held = some(f"{count} in {name!r}" for name, count in counts.items())
    if not counts.get(split):
        remedy = "prepare it again with a greater --test_percent, or use the other split" if split == "test" else "prepare it again"
        raise EmptySplitError(f"{path} has no clips in the split {split!r} ({held}); {remedy}")
    if (version := info.full_name.rsplit("/", 1)[-1]) not in READABLE:
        raise DatasetError(f"{path} has version {version}, but only {', '.join(READABLE)} can be read here; prepare the data set again")
    missing = [os.fspath(file) for file in info.splits[split].filepaths if not os.path.isfile(file)]  # noqa: PTH113 - TFDS's own path type
    if missing:
        raise DatasetError(f"{path}: {len(missing)} shards are missing, such as {some(missing)}; prepare the data set again")
    return info


def _allow_open_files(shards: int) -> None:
    """Raises this process's limit of open files: each shard that was read from stays open, and a large set has more than the usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = shards + _OTHER_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
