"""Finds the clips of an index that are nearest to a file."""

import threading
from typing import NamedTuple

from absl import logging

from avmae_jax.config import ModelConfig
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.store.reader import Split
from avmae_jax.demo.limits import Media
from avmae_jax.errors import CorruptRecordError, DatasetError
from avmae_jax.evals.gallery_rows import central_audio, class_names
from avmae_jax.evals.retrieval import MODALITIES
from avmae_jax.evals.search import clips_of, open_index, search
from avmae_jax.files import OnProgress
from avmae_jax.inference.embed import DatasetEmbedder
from avmae_jax.inference.windows import decode_beginning
from avmae_jax.plots.gallery import Side
from avmae_jax.weights.trained import Trained

COUNT = 4  # clips that are shown of each search


class Neighbour(NamedTuple):
    """Holds a clip that was found."""

    id: str
    classes: str
    score: float  # cosine
    clip: Clip | None  # None: only its vectors are there


class Neighbours(NamedTuple):
    """Holds what one side of a file found."""

    queried: Side
    found: list[Neighbour]


class Index:
    """Searches an index with one model."""

    def __init__(self, path: str, split: Split, trained: Trained, device: threading.Lock, on_progress: OnProgress):
        """Opens the index, and its clips if they are here; raises what open_index raises."""
        self._model: ModelConfig = trained.config.model
        self._trained, self._device = trained, device
        self._embed = DatasetEmbedder(trained, MODALITIES, 1, "one")
        self._index, source = open_index(path, DatasetEmbedder(trained, MODALITIES, frames="one"), split, on_progress)
        self._source: ClipSource | None = source
        if source is None:
            try:
                self._source = clips_of(path, self._index)
            except DatasetError as error:
                logging.warning("of the nearest clips only the names are shown: %s", error)

    def nearest(self, media: Media) -> list[Neighbours]:
        """Finds the images nearest to the beginning of a file's audio, and the audio nearest to its image; raises ClipError."""
        clip = decode_beginning(media.path, self._trained.config)
        with self._device:
            (hits,) = search([clip], self._embed, self._index, COUNT)
        return [
            Neighbours(one.queried, [self._at(row, score) for row, score in zip(one.rows.tolist(), one.scores.tolist(), strict=True)])
            for one in hits
        ]

    def _at(self, row: int, score: float) -> Neighbour:
        index, clip = self._index, None
        position = int(index.positions[row])
        if self._source is not None and position < len(self._source):
            try:
                clip = self._source[position]
            except (CorruptRecordError, OSError) as error:
                logging.warning("a clip of the index can't be shown: %s", error)
        if clip is not None and clip.id != index.ids[row]:  # the data set was written anew
            clip = None
        shown = None if clip is None else central_audio(clip, self._model)
        return Neighbour(index.ids[row], class_names(index.labels[row], index.note["label_names"]), score, shown)
