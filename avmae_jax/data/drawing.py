"""Draws a few labelled clips of each class, to tune on less than there is."""

import hashlib

import numpy as np
from absl import logging

from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.store.reader import frames_of, ids_of, labels_of, videos_of
from avmae_jax.errors import DatasetError, some


class Drawn:
    """Reduces a source to the clips of a few videos of each class.

    Which ones they are follows from the seed and the names of the videos alone. With the same seed, the videos of a smaller draw are among
    those of a larger one. All clips of a drawn video are taken. Clips with several classes are drawn for each, so there may be more of a
    class than asked for.
    """

    def __init__(self, source: ClipSource, per_class: int, seed: int) -> None:
        """Draws; no clip is read where the source knows labels and videos.

        Args:
          source: labelled clips.
          per_class: videos of each class; of a class with fewer all are taken, and a warning names it.
          seed: of the draw.

        Raises:
          DatasetError: if the clips have no labels.
        """
        self.label_names = source.label_names
        videos = videos_by_class(source)
        if short := [f"{name} ({len(own)})" for name, own in zip(source.label_names, videos, strict=True) if len(own) < per_class]:
            logging.warning(
                "of %d classes there are fewer than %d labelled clips, and all are taken: %s", len(short), per_class, some(short)
            )
        chosen = {video for own in videos for video in sorted(own, key=lambda video: _place(video, seed))[:per_class]}
        self.rows = np.array([row for row, video in enumerate(videos_of(source)) if video in chosen])
        self._source = source

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Clip:
        if not 0 <= index < len(self):
            raise IndexError(f"{self} has no clip {index}")
        return self._source[int(self.rows[index])]

    @property
    def frames(self) -> int | None:
        """Returns the number of frames that the source was prepared with; None where it doesn't know."""
        return frames_of(self._source)

    @property
    def ids(self) -> list[str]:
        """Returns the ids of the drawn clips."""
        there = ids_of(self._source)
        return [there[row] for row in self.rows]

    @property
    def videos(self) -> list[str]:
        """Returns what each drawn clip was cut from, or its id."""
        there = videos_of(self._source)
        return [there[row] for row in self.rows]

    def labels_of(self, index: int) -> tuple[int, ...]:
        """Returns the labels of the clip at an index."""
        return labels_of(self._source, int(self.rows[index]))

    @property
    def weights(self) -> np.ndarray | None:
        """Returns the sampling weights of the drawn clips; None where the source has none."""
        found = getattr(self._source, "weights", None)
        return None if found is None else found[self.rows]

    def __repr__(self) -> str:
        return f"Drawn({self._source!r}, {len(self)} clips)"


def videos_by_class(source: ClipSource) -> list[list[str]]:
    """Returns the videos of each class, each once; raises DatasetError if no clip has a class."""
    found: list[dict[str, None]] = [{} for _ in source.label_names]
    for index, video in enumerate(videos_of(source)):
        for label in labels_of(source, index):
            if found:
                found[label][video] = None
    if not any(found):
        raise DatasetError("the training clips have no labels; prepare videos that lie in class folders, or a labelled list")
    return [list(own) for own in found]


def _place(video: str, seed: int) -> bytes:
    """Returns a video's place in the order of a seed, which no other video and no order of the clips changes."""
    return hashlib.sha256(f"{seed} {video}".encode()).digest()
