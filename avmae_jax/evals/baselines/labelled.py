"""Reads labelled clips as arrays that a classifier outside the neural network can be fitted to.

Axis letters: N clips, C classes.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from absl import logging

from avmae_jax.data.catalog.labels import alike_names
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.errors import DatasetError, some
from avmae_jax.evals.few_clips import few_clips
from avmae_jax.files import OnProgress


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """Holds what is known of N clips."""

    ids: list[str]
    videos: list[str]  # what each clip was cut from; clips of one video are never in two folds
    targets: np.ndarray  # bool[N, C]
    features: dict[str, np.ndarray]  # by name, an array with a row for each clip

    def keep(self, rows: np.ndarray) -> "Labelled":
        """Keeps some of the clips, int64[K] of them."""
        features = {name: values[rows] for name, values in self.features.items()}
        return Labelled([self.ids[row] for row in rows], [self.videos[row] for row in rows], self.targets[rows], features)


class Row(NamedTuple):
    """Holds what is known of one clip."""

    id: str
    video: str
    labels: tuple[int, ...]
    features: Mapping[str, np.ndarray]


def read_labelled(source: ClipSource, describe: Callable[[Clip], Mapping[str, np.ndarray]], on_progress: OnProgress) -> Labelled:
    """Reads every clip of a source once, in threads; only its features are kept.

    Args:
      source: labelled clips.
      describe: computes a clip's features, by name; all clips have the same names and shapes.
      on_progress: is called with the number of clips that are read, 0, and the number of clips.

    Raises:
      DatasetError: if the source has no classes.
      ValueError: naming the clip, if it can't be described.
    """
    require_classes(source)

    def read(index: int) -> Row:
        clip = source[index]
        try:
            return Row(clip.id, clip.video or clip.id, clip.labels, describe(clip))
        except ValueError as error:
            raise ValueError(f"clip {clip.id}: {error}") from error

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        rows: dict[str, Row] = {}
        for number, row in enumerate(threads.map(read, range(len(source))), start=1):
            rows.setdefault(row.id, row)  # a source that skips a damaged clip returns another one twice
            on_progress(number, 0, len(source))
    return gathered(rows.values(), len(source.label_names))


def gathered(rows: Iterable[Row], classes: int) -> Labelled:
    """Gathers the rows of clips into arrays."""
    rows = [*rows]
    features = {name: np.stack([row.features[name] for row in rows]) for name in rows[0].features}
    return Labelled([row.id for row in rows], [row.video for row in rows], indicator([row.labels for row in rows], classes), features)


def require_classes(source: ClipSource) -> None:
    """Raises DatasetError if the clips of a source have no classes."""
    if not len(source.label_names):
        raise DatasetError("the clips have no classes; prepare videos that lie in class folders, or give launch.prepare --labels")


def indicator(labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Returns bool[N, C], True where a clip has a class."""
    targets = np.zeros((len(labels), classes), bool)
    for row, own in zip(targets, labels, strict=True):
        row[list(own)] = True
    return targets


def is_exclusive(train: Labelled, held_out: Labelled) -> bool:
    """Returns whether no clip has two classes: then one classifier chooses among all, else each class has one of its own."""
    return all(part.targets.sum(axis=1).max() <= 1 for part in (train, held_out))


def for_fitting(train: Labelled, exclusive: bool) -> Labelled:
    """Returns the clips that a classifier can be fitted to: where classes exclude each other, those that have one.

    Raises:
      DatasetError: unless there are two classes and two videos among them.
    """
    having = np.flatnonzero(train.targets.any(axis=1))
    if exclusive and len(having) < len(train.ids):
        logging.warning("%d of %d training clips have no class and are left out", len(train.ids) - len(having), len(train.ids))
        train = train.keep(having)
    classes, videos = int(train.targets.any(axis=0).sum()), len(set(train.videos))
    if classes < 2 or videos < 2:
        found = f"{len(train.ids)} training clips of {classes} classes and {videos} videos"
        raise DatasetError(f"there are {found}; a classifier needs two classes and two videos at least")
    return train


def warning_of(train: Labelled, held_out: Labelled, label_names: Sequence[str]) -> str:
    """Describes what makes figures of these clips rough or doubtful, in one line; "" if nothing does."""
    labels = [np.flatnonzero(row).tolist() for row in held_out.targets]
    unseen = [name for name, here, there in zip(label_names, train.targets.T, held_out.targets.T, strict=True) if there.any() > here.any()]
    single = [name for name, here in zip(label_names, train.targets.T, strict=True) if here.sum() == 1]
    shared = set(train.ids) & set(held_out.ids)
    found = [
        few_clips(labels, label_names),
        f"classes without a training clip can't be learned: {some(unseen)}" if unseen else "",
        f"classes with a single training clip: {some(single)}" if single else "",
        *alike_names(label_names),
        f"{len(shared)} of the held-out clips are training clips too: {some(sorted(shared))}" if shared else "",
    ]
    return "; ".join(filter(None, found))
