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

from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.store.plan import PROGRESS, READABLE, is_complete, read_plan
from avmae_jax.data.store.records import Needs, deserialise, index_file, read_index, weights_file
from avmae_jax.errors import ClipError, CorruptRecordError, DatasetError
from avmae_jax.files import OnProgress

Split = Literal["train", "test"]

_WITH: dict[Needs, str] = {"both": "audio and images", "audio": "audio", "image": "images", "any": "audio or images"}
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
        try:
            self.index = read_index(self._path / index_file(split))
        except (OSError, ValueError, KeyError) as error:
            raise DatasetError(f"{self._path}: {index_file(split)} can't be read ({error}); prepare the data set again") from error
        self._rows = self.index.having(needs)
        if not len(self._rows):
            raise DatasetError(f"{self._path}: none of the {len(self.index.id)} clips in the split {split!r} has {_WITH[needs]}")
        if left_out := len(self.index.id) - len(self._rows):
            logging.info("%s: %d of %d %s clips are left out for want of %s", self._path, left_out, len(self.index.id), split, _WITH[needs])
        self.label_names: Sequence[str] = tuple((info.metadata or {})["label_names"])
        self._files, self._lengths = [os.fspath(file) for file in info.splits[split].filepaths], info.splits[split].shard_lengths
        self._seconds: float | None = read_plan(self._path).get("clip_seconds")  # for records without frame times
        _allow_open_files(len(self._files))
        # TFDS knows the lengths, so that no shard need be opened for them.
        self._records = ArrayRecordDataSource(info.splits[split].file_instructions)  # pyright: ignore[reportArgumentType] - same fields

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
            return deserialise(self._records[row], self._seconds)
        except (RuntimeError, ValueError, IndexError) as error:
            ends = np.cumsum(self._lengths)
            shard = int(np.searchsorted(ends, row, side="right"))
            where = f"record {row - int(ends[shard] - self._lengths[shard])} of {self._files[shard]}"
            raise CorruptRecordError(f"the clip {self.index.id[row].decode()!r} can't be read: {where} is damaged ({error})") from error

    @property
    def ids(self) -> list[str]:
        """Returns the ids of all clips; no record is read for them."""
        return [name.decode() for name in self.index.id[self._rows]]

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
            return np.load(file, allow_pickle=False)[self._rows]
        except (OSError, ValueError, IndexError, EOFError) as error:
            raise DatasetError(f"{file} can't be used ({error}); run launch.data_statistics again") from error

    def __repr__(self) -> str:
        return f"PreparedSource({str(self._path)!r}, {self._split!r}, {len(self)} clips)"


class Tolerant:
    """Skips damaged clips of a source: each is named, counted, and replaced by the next intact one."""

    def __init__(self, source: ClipSource, limit: int) -> None:
        """Allows at most `limit` damaged clips in each reader process; one more raises CorruptRecordError."""
        self._source, self._limit = source, min(limit, len(source) - 1)
        self._damaged: set[int] = set()
        self.label_names = source.label_names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Clip:
        while True:
            try:
                return self._source[index]
            except (CorruptRecordError, ClipError) as error:
                self._count(index, error)
                index = (index + 1) % len(self)

    @property
    def ids(self) -> list[str]:
        """Returns the ids of the source; where it has to be read for them, a damaged clip has that of the next intact one."""
        own = getattr(self._source, "ids", None)
        return [self[index].id for index in range(len(self))] if own is None else own

    def labels_of(self, index: int) -> tuple[int, ...]:
        """Returns the labels of the clip at an index; where the source has to be read for them, those of the next intact one."""
        own = getattr(self._source, "labels_of", None)
        return self[index].labels if own is None else own(index)

    @property
    def weights(self) -> np.ndarray | None:
        """Returns the sampling weights of the source; None where it has none."""
        return getattr(self._source, "weights", None)

    def __repr__(self) -> str:
        return f"Tolerant({self._source!r}, {self._limit})"

    def _count(self, index: int, error: Exception) -> None:
        if index in self._damaged:
            return
        if len(self._damaged) >= self._limit:
            raise CorruptRecordError(
                f"{error}; it is damaged clip {len(self._damaged) + 1}, and data.max_damaged is {self._limit}: mend the data, or raise it"
            ) from error
        self._damaged.add(index)
        logging.warning("%s; damaged clip %d of at most %d: the next one takes its place", error, len(self._damaged), self._limit)


def ids_of(source: ClipSource) -> list[str]:
    """Returns the ids of all clips; those of a source that doesn't know them are read."""
    own = getattr(source, "ids", None)
    return [source[index].id for index in range(len(source))] if own is None else own


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
    splits = _info(folder).splits
    sources = {split: PreparedSource(folder, split, "any") for split in get_args(Split) if split in splits and splits[split].num_examples}
    if not sources:
        raise DatasetError(f"{folder} has no clips; the reasons are in its failures.jsonl")
    return sources


def damaged_shards(folder: Path, on_progress: OnProgress) -> list[Path]:
    """Reads every shard of a prepared data set and returns those whose bytes aren't those that were written."""
    checksums = (_info(folder).metadata or {})["sha256"]
    damaged = []
    for number, (name, expected) in enumerate(checksums.items(), start=1):
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                damaged.append(folder / name)
        on_progress(number, len(damaged), len(checksums))
    return damaged


def labels_of(source: ClipSource, index: int) -> tuple[int, ...]:
    """Returns the labels of the clip at an index; a source that doesn't know them is read."""
    own = getattr(source, "labels_of", None)
    return source[index].labels if own is None else own(index)


def _info(path: Path) -> tfds.core.DatasetInfo:
    """Returns what TFDS knows of a data set; raises DatasetError unless it is finished."""
    if not path.is_dir():
        raise DatasetError(f"{path}: there is no such folder; write it with launch.prepare")
    if not is_complete(path):
        unfinished = (path / PROGRESS).exists()
        raise DatasetError(
            f"{path} {'is unfinished; run the command that began it again' if unfinished else 'is no data set of launch.prepare'}"
        )
    return tfds.builder_from_directory(path).info


def _open(path: Path, split: Split) -> tfds.core.DatasetInfo:
    """Returns what TFDS knows of a data set; raises DatasetError unless all files of the split are there."""
    info = _info(path)
    counts = {name: found.num_examples for name, found in info.splits.items()}
    if not counts.get(split):
        raise DatasetError(f"{path} has no clips in the split {split!r}; it has {counts}")
    if (version := info.full_name.rsplit("/", 1)[-1]) not in READABLE:
        raise DatasetError(f"{path} has version {version}, but only {', '.join(READABLE)} can be read here; prepare the data set again")
    missing = [os.fspath(file) for file in info.splits[split].filepaths if not os.path.exists(file)]  # noqa: PTH110 - TFDS's own path type
    if missing:
        raise DatasetError(f"{path}: {len(missing)} shards are missing, the first is {missing[0]}; prepare the data set again")
    return info


def _allow_open_files(shards: int) -> None:
    """Raises this process's limit of open files: each shard that was read from stays open, and a large set has more than the usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = shards + _OTHER_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
