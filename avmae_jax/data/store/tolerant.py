"""Skips damaged clips of a source, up to a limit."""

import numpy as np
from absl import logging

from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.store.reader import frames_of, videos_of
from avmae_jax.errors import ClipError, CorruptRecordError


class Tolerant:
    """Skips damaged clips of a source: each is named, counted, and replaced by the next intact one."""

    def __init__(self, source: ClipSource, limit: float) -> None:
        """Allows at most `limit` damaged clips in each reader process, or below 1 that share; one more raises CorruptRecordError."""
        self._source, self._limit = source, min(number_of(limit, len(source)), len(source) - 1)
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
    def frames(self) -> int | None:
        """Returns the number of frames that the source was prepared with; None where it doesn't know."""
        return frames_of(self._source)

    @property
    def ids(self) -> list[str]:
        """Returns the ids of the source; where it has to be read for them, a damaged clip has that of the next intact one."""
        own = getattr(self._source, "ids", None)
        return [self[index].id for index in range(len(self))] if own is None else own

    @property
    def videos(self) -> list[str]:
        """Returns what each clip of the source was cut from."""
        return videos_of(self._source)

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


def number_of(limit: float, total: int) -> int:
    """Returns how many of `total` clips `limit` allows: itself, or below 1 that share of them."""
    return int(limit * total) if limit < 1 else int(limit)
