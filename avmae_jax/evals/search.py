"""Searches an index of vectors for the clips that are nearest to a query from elsewhere.

Axis letters: k hits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from avmae_jax.data.clip import Clip
from avmae_jax.evals.ranking import nearest
from avmae_jax.inference.embed import Embed, fingerprint
from avmae_jax.inference.embedding_files import Embeddings
from avmae_jax.plots.gallery import Side
from avmae_jax.weights.trained import Trained

_SIDES: tuple[tuple[Side, Side], ...] = (("audio", "image"), ("image", "audio"))


class Hits(NamedTuple):
    """Holds the clips that one side of a query found."""

    queried: Side
    rows: np.ndarray  # int64[k], of the index, the nearest first
    scores: np.ndarray  # float32[k], cosine similarities


def require_same_model(index: Embeddings, trained: Trained) -> None:
    """Raises ValueError if the vectors of an index come from another model."""
    if index.note["fingerprint"] != fingerprint(trained):
        raise ValueError(
            f"the index holds vectors of {index.note['model']}, and {trained.path} has other weights; their vectors can't be compared. "
            "Write the index again with launch.embed"
        )


def search(clips: Sequence[Clip], embed: Embed, index: Embeddings, k: int) -> list[list[Hits]]:
    """Finds the clips of an index whose images are nearest to a clip's audio, and those whose audio is nearest to its image.

    Args:
      clips: each with audio, an image, or both.
      embed: for both kinds of vector, of the model that the index was made with.
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
