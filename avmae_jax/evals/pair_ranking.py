"""Ranks clips of which several images, each with its audio, have vectors of their own.

The similarity of a clip's audio and another clip's images is made of the cosines of their pairs, <a_k, v_l>, in one of WAYS:

  diagonal_mean  the mean over k of <a_k, v_k>: pairs at the same place in their clips, as published for CAV-MAE Sync
  diagonal_max   the greatest of these
  mean           the mean over all k and l
  max            the greatest of all

Axis letters: N clips, F pairs of a clip, D width.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from avmae_jax.evals.ranking import BLOCK_SCORES, DIRECTIONS, RankedDirection, rank_both, rank_scores

Way = Literal["diagonal_mean", "diagonal_max", "mean", "max"]
WAYS: tuple[Way, ...] = get_args(Way)


def rank_pairs(
    vectors: Mapping[str, np.ndarray], labels: Sequence[Sequence[int]] = (), way: Way = "diagonal_mean", *, block_scores: int = BLOCK_SCORES
) -> dict[str, RankedDirection]:
    """Ranks partners in both DIRECTIONS by the similarity of their pairs.

    The rank of a partner is the number of targets with a strictly greater similarity, plus one. Similarities are computed for some clips
    at a time: 100,000 clips never need their matrix.

    Args:
      vectors: float[N, F, D] of "audio" and of "image", of any length above 0.
      labels: the classes of each clip; empty: R@k of the class isn't computed.
      way: of WAYS.
      block_scores: similarities in memory at once.

    Raises:
      ValueError: if the shapes differ or are empty, the way is unknown, or a vector has no direction (all zeros, or not finite).
    """
    audio, image = vectors["audio"], vectors["image"]
    if audio.ndim != 3 or audio.shape != image.shape or not audio.size:
        raise ValueError(f"audio {audio.shape} and image {image.shape} must be arrays of the same shape [N, F, D], none of them empty")
    units = {"audio": _units(audio, "audio"), "image": _units(image, "image")}
    return {
        name: rank_scores(len(audio), _similarities(units[query], units[target], way, block_scores), labels)
        for name, (query, target) in DIRECTIONS.items()
    }


def rank_clips(
    vectors: Mapping[str, np.ndarray], labels: Sequence[Sequence[int]] = (), way: Way = "diagonal_mean"
) -> dict[str, RankedDirection]:
    """Ranks partners in both DIRECTIONS: clips with a vector each, [N, D], by rank_both; those with one a pair, [N, F, D], by rank_pairs.

    Args:
      vectors: of "audio" and of "image".
      labels: the classes of each clip, as in rank_both.
      way: of pairs; without meaning for a vector a clip.

    Raises:
      ValueError: as rank_both and rank_pairs.
    """
    return rank_pairs(vectors, labels, way) if vectors["audio"].ndim == 3 else rank_both(vectors, labels)


def pair_similarities(
    queries: np.ndarray, targets: np.ndarray, way: Way = "diagonal_mean", *, block_scores: int = BLOCK_SCORES
) -> Iterator[tuple[slice, np.ndarray]]:
    """Computes the similarities of clips by their pairs, for some queries at a time; equal targets always get equal ones.

    Args:
      queries: float[Q, F, D], of any length above 0.
      targets: float[N, F, D], of any length above 0.
      way: of WAYS.
      block_scores: similarities in memory at once, which bounds the number of queries computed together.

    Yields:
      A slice of the queries, and their similarities: float32[rows, N].

    Raises:
      ValueError: if the way is unknown, or a vector has no direction.
    """
    yield from _similarities(_units(queries, "queries"), _units(targets, "targets"), way, block_scores)


def _similarities(queries: np.ndarray, targets: np.ndarray, way: Way, block_scores: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Computes similarities of unit vectors, float32[Q, F, D] and float32[N, F, D]."""
    products, clips = _products(queries, targets, way), len(targets)
    first, column = _different(targets)
    repeated = len(first) < clips
    if repeated:  # a BLAS may round the same product differently in another column
        products = [(query, target[first]) for query, target in products]
    rows = max(1, block_scores // clips)
    for start in range(0, len(queries), rows):
        block = slice(start, min(start + rows, len(queries)))
        query, target = products[0]
        scores = query[block] @ target.T
        for query, target in products[1:]:
            np.maximum(scores, query[block] @ target.T, out=scores)
        if way == "diagonal_mean":
            scores /= np.float32(queries.shape[1])
        yield block, scores[:, column] if repeated else scores


def _different(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds clips that differ, int[K], and which of these each clip equals, int[N]. It keeps digests of 16 bytes, not the clips again."""
    digests = b"".join(hashlib.blake2b(clip.tobytes(), digest_size=16).digest() for clip in targets)
    _, first, column = np.unique(np.frombuffer(digests, "V16"), return_index=True, return_inverse=True)
    return first, column


def _products(queries: np.ndarray, targets: np.ndarray, way: Way) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns matrices, float32[Q, W] and float32[N, W], views where they can be; the greatest of their products is the similarity.

    That of diagonal_mean is still to be divided by the number of pairs.
    """
    pairs = range(queries.shape[1])
    match way:
        case "diagonal_mean":
            return [(queries.reshape(len(queries), -1), targets.reshape(len(targets), -1))]
        case "mean":
            return [(queries.mean(axis=1), targets.mean(axis=1))]
        case "diagonal_max":
            return [(queries[:, k], targets[:, k]) for k in pairs]
        case "max":
            return [(queries[:, k], targets[:, other]) for k in pairs for other in pairs]
        case _:
            raise ValueError(f"pairs are compared by {way!r}; choose one of {', '.join(WAYS)}")


def _units(vectors: np.ndarray, name: str) -> np.ndarray:
    """Divides vectors by their length: float[N, F, D] -> float32[N, F, D]; raises ValueError for one without a direction."""
    lengths = np.sqrt(np.einsum("nfd,nfd->nf", vectors, vectors, dtype=np.float64))
    bad = np.argwhere(~np.isfinite(lengths) | (lengths == 0))
    if len(bad):
        row, pair = bad[0]
        first = f"pair {pair} of row {row} has length {lengths[row, pair]}"
        raise ValueError(f"{name}: {len(bad)} of {lengths.size} vectors have no direction; {first}. Leave such clips out or mend the model")
    units = np.empty(vectors.shape, np.float32)
    for pair in range(vectors.shape[1]):  # one at a time: many clips in float64 would be twice as large as they are
        units[:, pair] = vectors[:, pair] / lengths[:, pair, None]
    return units
