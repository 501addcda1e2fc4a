"""Opens an index of vectors, and searches it for the clips that are nearest to a query from elsewhere.

Axis letters: k hits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avmae_jax.config import DataConfig
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.sources import open_source
from avmae_jax.data.store.reader import Split
from avmae_jax.errors import DatasetError
from avmae_jax.evals.origin import Origin
from avmae_jax.evals.ranking import nearest
from avmae_jax.files import OnProgress
from avmae_jax.inference.embed import DatasetEmbedder, counted, fingerprint, note_of
from avmae_jax.inference.embedding_files import Embeddings, collect, read_embeddings
from avmae_jax.plots.gallery import Side
from avmae_jax.weights.trained import Trained

_SIDES: tuple[tuple[Side, Side], ...] = (("audio", "image"), ("image", "audio"))


class Hits(NamedTuple):
    """Holds the clips that one side of a query found."""

    queried: Side
    rows: np.ndarray  # int64[k], of the index, the nearest first
    scores: np.ndarray  # float32[k], cosine similarities


def embed_set(embed: DatasetEmbedder, source: ClipSource, origin: Origin, on_progress: OnProgress) -> Embeddings:
    """Computes the vectors of a whole data set in memory; raises ValueError if none of its clips has any."""
    note = note_of(embed.trained, source, embed.what, frames=embed.pairs_of(source), data=origin.data, split=origin.split)
    return collect(counted(embed(source), len(source), on_progress), note)


def read_index(path: str, trained: Trained) -> Embeddings:
    """Reads an index that launch.embed wrote.

    Raises:
      WeightsError: if it can't be read.
      ValueError: if it is of another model, or its clips have a vector of each frame.
    """
    index = read_embeddings(path)
    require_same_model(index, trained)
    if frames := index.note.get("frames", 0):
        raise ValueError(
            f"{path} holds {frames} vectors of each clip, one of each frame, and a search compares one; write it again with launch.embed "
            "--frames=one"
        )
    return index


def open_index(
    path: str, embed: DatasetEmbedder, split: Split, on_progress: OnProgress = lambda done, failed, total: None
) -> tuple[Embeddings, ClipSource | None]:
    """Opens an index: a folder written by launch.prepare, whose clips are embedded, or a file written by launch.embed.

    Returns:
      The vectors, and the clips of a folder; those of a file are opened by clips_of.

    Raises:
      DatasetError: if a folder can't be opened.
      WeightsError: if a file can't be read.
      ValueError: if a file is of another model or has a vector of each frame, or a folder has no clip with a vector.
    """
    if not Path(path).expanduser().is_dir():
        return read_index(path, embed.trained), None
    source = open_source(DataConfig(source="prepared", path=path), split, "any")
    return embed_set(embed, source, Origin(path, split), on_progress), source


def clips_of(path: str, index: Embeddings, data: str = "") -> ClipSource:
    """Opens the clips that the index at `path` was made of, in the folder `data` or else the one that it names; raises DatasetError."""
    noted = index.note["data"]
    if not data and not Path(noted).expanduser().is_dir():
        raise DatasetError(f"{path} says that its clips are of {noted!r}, which is no folder here; give --data, or omit --out")
    return open_source(DataConfig(source="prepared", path=data or noted), index.note["split"], index.note["needs"])


def require_same_model(index: Embeddings, trained: Trained) -> None:
    """Raises ValueError if the vectors of an index come from another model."""
    if index.note["fingerprint"] != fingerprint(trained):
        raise ValueError(
            f"the index holds vectors of {index.note['model']}, and {trained.path} has other weights; their vectors can't be compared. "
            "Write the index again with launch.embed"
        )


def search(clips: Sequence[Clip], embed: DatasetEmbedder, index: Embeddings, k: int) -> list[list[Hits]]:
    """Finds the clips of an index whose images are nearest to a clip's audio, and those whose audio is nearest to its image.

    Args:
      clips: each with audio, an image, or both.
      embed: for both kinds of vector and one frame of a clip, of the model that the index was made with.
      index: vectors of "audio", "image", or both.
      k: hits of each query.

    Returns:
      For each clip a Hits for each side that it has and whose other side the index has, audio before image; there may be none.
    """
    hits: list[list[Hits]] = [[] for _ in clips]
    queries = [embed.one(clip) for clip in clips]
    for queried, other in _SIDES:
        having = [number for number, vectors in enumerate(queries) if queried in vectors]
        rows = np.flatnonzero(index.has[other]) if other in index.has else np.zeros(0, np.int64)
        if having and len(rows):  # all queries at once, since each pass normalises and sorts the index
            stacked = np.stack([queries[number][queried] for number in having])
            for number, found, scores in zip(having, *nearest(stacked, index.vectors[other][rows], k), strict=True):
                hits[number].append(Hits(queried, rows[found], scores))
    return hits
