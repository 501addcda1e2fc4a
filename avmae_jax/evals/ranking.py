"""Which clips are nearest, and how good that is: ranks, classes, chance.

The right partner of a clip's sound is the clip's own picture. Where clips have classes, it is told as well whether what is found has the
query's class: in a data set whose sounds and pictures match by class alone, no more can be found than that.

Axis letters: Q queries, N targets, D width, C classes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from avmae_jax.evals import metrics
from avmae_jax.inference.embedding_files import Embeddings

DIRECTIONS = {"audio_to_image": ("audio", "image"), "image_to_audio": ("image", "audio")}
TOP = (1, 5, 10)


def nearest(queries: np.ndarray, targets: np.ndarray, k: int, **blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """The k targets of the greatest cosine similarity to each query, the best one first; of equal ones the first one.

    Args:
      queries: float[Q, D].
      targets: float[N, D].
      k: of the targets; no more than N are found.
      **blocks: block_scores, see metrics.similarities.

    Returns:
      int64[Q, min(k, N)] and float32[Q, min(k, N)], indices of targets and their similarities.

    Raises:
      ValueError: if the widths differ, there is nothing to find, or a row has no direction.
    """
    if queries.ndim != 2 or targets.ndim != 2 or queries.shape[1] != targets.shape[1] or not len(targets) or k < 1:
        raise ValueError(f"queries are {queries.shape}, targets {targets.shape}, k is {k}; give targets of the same width, and k > 0")
    k = min(k, len(targets))
    found, values = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for block, scores in metrics.similarities(queries, targets, **blocks):
        found[block], values[block] = _greatest(scores, k)
    return found, values


def _greatest(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns of the k <= N greatest of each row of float32[rows, N], and these: int64[rows, k], float32[rows, k]; see nearest."""
    parts = max(1, min(64, scores.shape[1] // (8 * k)))  # each column is compared with few others first, by the fastest of operations
    whole = scores.shape[1] // parts * parts
    maxima = scores[:, :whole].reshape(len(scores), parts, -1).max(axis=1)
    bound = np.partition(maxima, -k, axis=1)[:, -k:].min(axis=1, keepdims=True)  # k targets or more are at least as near
    row, column = np.nonzero(scores >= bound)
    own = scores[row, column]
    order = np.lexsort((column, -own, row))
    best = order[np.searchsorted(row, np.arange(len(scores)))[:, None] + np.arange(k)]
    return column[best], own[best]


def draw_per_class(labels: Sequence[Sequence[int]], classes: int, count: int, seed: int) -> tuple[list[int], dict[int, int]]:
    """Draws clips of each class, as Gong et al., arXiv 2210.07839, section 4.3.

    Args:
      labels: of each clip.
      classes: C.
      count: clips of each class; a clip of several classes may be drawn for one of them or for several.
      seed: of the drawing.

    Returns:
      Indices of the drawn clips in increasing order, each once; and how many clips there are in the classes that have fewer than `count`.

    Raises:
      ValueError: if no clip has a class.
    """
    members: list[list[int]] = [[] for _ in range(classes)]
    for index, own in enumerate(labels):
        for label in set(own):
            members[label].append(index)
    if not any(members):
        raise ValueError("the clips have no classes, of which some could be drawn; leave --per_class out")
    drawn: set[int] = set()
    for label, rows in enumerate(members):
        rng = np.random.default_rng((seed, label))  # one a class, so that other classes don't change what is drawn of it
        drawn.update(rng.choice(rows, min(count, len(rows)), replace=False).tolist() if rows else ())
    return sorted(drawn), {label: len(rows) for label, rows in enumerate(members) if len(rows) < count}


def same_class(labels: Sequence[Sequence[int]], found: np.ndarray) -> np.ndarray:
    """Whether a found clip shares a class with its query, both of the same set: int64[Q, k] -> bool[Q, k]."""
    sets = [frozenset(own) for own in labels]
    return np.array([[bool(sets[query] & sets[target]) for target in row] for query, row in enumerate(found)]).reshape(found.shape)


def class_chance(labels: Sequence[Sequence[int]], classes: int) -> dict[str, float]:
    """How often a clip of the query's class is among k random ones of the set: the mean over the clips that have a class."""
    member = np.zeros((len(labels), classes), bool)
    for row, own in enumerate(labels):
        member[row, list(own)] = True
    sizes = {own: int(member[:, list(own)].any(axis=1).sum()) for own in {tuple(own) for own in labels if own}}
    chance = {}
    for k in TOP:
        hit = {own: 1 - _all_miss(len(labels), size, k) for own, size in sizes.items()}
        chance[f"r{k}"] = float(np.mean([hit[tuple(own)] for own in labels if own]))
    return chance


def _all_miss(clips: int, members: int, k: int) -> float:
    """The chance that none of the members is among k different random clips."""
    return float(np.prod([max(0, clips - members - i) / (clips - i) for i in range(min(k, clips))]))


@dataclasses.dataclass(frozen=True)
class Found:
    """A direction of retrieval, in full."""

    figures: dict[str, Any]  # what is noted of it
    ranks: np.ndarray  # int64[N], of each query's own partner
    tops: np.ndarray  # int64[N, 10 or fewer], the nearest targets
    scores: np.ndarray  # float32[N, 10 or fewer], theirs


def evaluate(embedded: Embeddings, direction: str) -> Found:
    """Ranks of all clips in one of DIRECTIONS; all of them must have both kinds of vector."""
    queries, targets = (embedded.vectors[kind] for kind in DIRECTIONS[direction])
    count, k = len(queries), min(max(TOP), len(targets))
    ranks, tied = np.empty(count, np.int64), np.empty(count, bool)
    tops, near = np.empty((count, k), np.int64), np.empty((count, k), np.float32)
    for block, scores in metrics.similarities(queries, targets):
        ranks[block], tied[block] = metrics.block_ranks(block, scores)
        tops[block], near[block] = _greatest(scores, k)
    figures: dict[str, Any] = metrics.summarise_ranks(ranks, tied)._asdict()
    labelled = np.array([bool(own) for own in embedded.labels])
    if labelled.any():
        hits = same_class(embedded.labels, tops)[labelled]
        figures["class"] = {f"r{k}": float(hits[:, :k].any(axis=1).mean()) for k in TOP}
    return Found(figures | {"ranks": ranks.tolist()}, ranks, tops, near)


def complete(embedded: Embeddings) -> Embeddings:
    """Those clips that have a sound and a picture.

    Raises:
      ValueError: if there are none.
    """
    rows = np.flatnonzero(np.logical_and.reduce([embedded.has[kind] for kind in ("audio", "image")]))
    if not len(rows):
        raise ValueError("no clip has both a sound and a picture; retrieval needs pairs")
    if len(rows) < len(embedded.ids):
        logging.warning("%d of %d clips lack sound or pictures and take no part", len(embedded.ids) - len(rows), len(embedded.ids))
    return of_rows(embedded, rows)


def of_rows(embedded: Embeddings, rows: np.ndarray) -> Embeddings:
    """Some of the clips, int64[K] of them."""
    return dataclasses.replace(
        embedded,
        ids=[embedded.ids[row] for row in rows],
        positions=embedded.positions[rows],
        labels=[embedded.labels[row] for row in rows],
        vectors={kind: values[rows] for kind, values in embedded.vectors.items()},
        has={kind: values[rows] for kind, values in embedded.has.items()},
    )
