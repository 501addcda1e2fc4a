"""Ranks clips by similarity and reports how good the ranking is: ranks, R@k, classes, chance.

The protocol is that of Gong et al., arXiv 2210.07839, section 4.3: cosine similarity of pooled, unmasked features. The partner of a clip's
audio is the clip's own image. Where clips have classes, R@k of the class is reported as well, since audio and image of some data sets match
by class alone: no more than the class can be found there.

Axis letters: Q queries, N targets or clips, D width, C classes.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

DIRECTIONS = {"audio_to_image": ("audio", "image"), "image_to_audio": ("image", "audio")}  # queries and targets of each
TOP = (1, 5, 10)  # the k of R@k
FIGURES = (*(f"r{k}" for k in TOP), "median_rank", "ties")  # of a direction, as JSON files name them

BLOCK_SCORES = 2**24  # similarities in memory at once, 64 MiB of them


@dataclasses.dataclass(frozen=True, eq=False)
class RankedDirection:
    """Holds the ranks of all partners in one direction of retrieval, and the nearest targets of each query."""

    ranks: np.ndarray  # int64[N], of each query's partner; 1 is best
    tied: np.ndarray  # bool[N], whether another target has the partner's score; if many are tied, the ranks flatter the model
    nearest: np.ndarray  # int64[N, 10 or fewer], the most similar targets, the best first
    scores: np.ndarray  # float32[N, 10 or fewer], their similarities
    own: np.ndarray  # float32[N], the similarity of each query's partner
    class_recall: Mapping[str, float] | None  # R@k of any clip of the query's class: "r1", "r5", "r10"; None without classes

    @property
    def figures(self) -> dict[str, Any]:
        """Returns FIGURES, "clips" (N) and, where there are classes, "class". R@k is a share of the queries, in [0, 1]."""
        figures: dict[str, Any] = {f"r{k}": float((self.ranks <= k).mean()) for k in TOP}
        figures |= {"median_rank": float(np.median(self.ranks)), "ties": int(np.count_nonzero(self.tied)), "clips": len(self.ranks)}
        return figures if self.class_recall is None else figures | {"class": dict(self.class_recall)}


def rank_partners(
    queries: np.ndarray, targets: np.ndarray, labels: Sequence[Sequence[int]] = (), *, block_scores: int = BLOCK_SCORES
) -> RankedDirection:
    """Ranks all targets for each query by cosine similarity; the partner of query i is target i.

    The rank of a partner is the number of targets with a strictly greater score, plus one.

    Args:
      queries: float[N, D], of any length above 0.
      targets: float[N, D].
      labels: the classes of each clip; empty: R@k of the class isn't computed.
      block_scores: similarities in memory at once.

    Raises:
      ValueError: if the shapes differ or are empty, or a row has no direction (all zeros, or not finite).
    """
    if queries.ndim != 2 or queries.shape != targets.shape or not queries.size:
        raise ValueError(f"queries {queries.shape} and targets {targets.shape} must be arrays of the same shape [N, D], none of them empty")
    return rank_scores(len(queries), similarities(queries, targets, block_scores=block_scores), labels)


def rank_scores(count: int, blocks: Iterable[tuple[slice, np.ndarray]], labels: Sequence[Sequence[int]] = ()) -> RankedDirection:
    """Ranks N targets for each of as many queries by scores that are computed for some queries at a time.

    Args:
      count: N.
      blocks: a slice of the queries and their scores, float32[rows, N]; equal targets have equal scores.
      labels: the classes of each clip, as in rank_partners.
    """
    k = min(max(TOP), count)
    ranks, tied = np.empty(count, np.int64), np.empty(count, bool)
    found, near, own = np.empty((count, k), np.int64), np.empty((count, k), np.float32), np.empty(count, np.float32)
    for block, scores in blocks:
        rows = np.arange(len(scores))
        partner = scores[rows, block.start + rows][:, None]
        ranks[block], tied[block] = 1 + np.count_nonzero(scores > partner, axis=1), np.count_nonzero(scores == partner, axis=1) > 1
        found[block], near[block], own[block] = *_greatest(scores, k), partner[:, 0]
    return RankedDirection(ranks, tied, found, near, own, _class_recall(labels, found))


def rank_both(vectors: Mapping[str, np.ndarray], labels: Sequence[Sequence[int]] = ()) -> dict[str, RankedDirection]:
    """Ranks partners in both DIRECTIONS.

    Args:
      vectors: float[N, D] of "audio" and of "image".
      labels: the classes of each clip, as in rank_partners.

    Raises:
      ValueError: as rank_partners.
    """
    return {name: rank_partners(vectors[query], vectors[target], labels) for name, (query, target) in DIRECTIONS.items()}


def chance(clips: float) -> dict[str, float]:
    """Returns what guessing gives among N clips: "r1", "r5", "r10", "median_rank"."""
    return {f"r{k}": min(1.0, k / clips) for k in TOP} | {"median_rank": (clips + 1) / 2}


def flat_figures(directions: Mapping[str, RankedDirection]) -> dict[str, float]:
    """Names the figures of both directions as a run's summary.json does: {"clips", "audio_to_image_r1", ...}."""
    flat = {"clips": float(len(next(iter(directions.values())).ranks))}
    for name, ranked in directions.items():
        flat |= {f"{name}_{figure}": float(ranked.figures[figure]) for figure in FIGURES}
    return flat


def nested_figures(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the figures of a summary.json the form of a retrieval.json: {"audio_to_image": {"r1": ...}, ...}; None for what is missing."""
    return {name: {figure: flat.get(f"{name}_{figure}") for figure in FIGURES} for name in DIRECTIONS}


def similarities(queries: np.ndarray, targets: np.ndarray, *, block_scores: int = BLOCK_SCORES) -> Iterator[tuple[slice, np.ndarray]]:
    """Computes cosine similarities for some queries at a time.

    Equal targets always get equal scores: a BLAS may round the same product differently in another column, so each distinct target is
    multiplied once.

    Args:
      queries: float[Q, D], of any length above 0.
      targets: float[N, D], of any length above 0.
      block_scores: similarities in memory at once, which bounds the number of queries multiplied together.

    Yields:
      A slice of the queries, and their similarities: float32[rows, N].

    Raises:
      ValueError: if a row has no direction.
    """
    queries, targets = _unit_rows(queries, "queries"), _unit_rows(targets, "targets")
    clips, width = targets.shape
    _, first, column = np.unique(targets.view(f"V{4 * width}")[:, 0], return_index=True, return_inverse=True)
    distinct = targets.T if len(first) == clips else targets[first].T  # [D, <= N]
    rows = max(1, block_scores // clips)
    for start in range(0, len(queries), rows):
        block = slice(start, min(start + rows, len(queries)))
        scores = queries[block] @ distinct
        yield block, scores if len(first) == clips else scores[:, column]


def nearest(queries: np.ndarray, targets: np.ndarray, k: int, **blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k targets of the greatest cosine similarity to each query, the best one first; of equal ones the first one.

    Args:
      queries: float[Q, D].
      targets: float[N, D].
      k: number of targets; at most N are found.
      **blocks: block_scores of similarities.

    Returns:
      int64[Q, min(k, N)] and float32[Q, min(k, N)], indices of targets and their similarities.

    Raises:
      ValueError: if the widths differ, there is nothing to find, or a row has no direction.
    """
    if queries.ndim != 2 or targets.ndim != 2 or queries.shape[1] != targets.shape[1] or not len(targets) or k < 1:
        raise ValueError(f"queries are {queries.shape}, targets {targets.shape}, k is {k}; give targets of the same width, and k > 0")
    k = min(k, len(targets))
    found, values = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for block, scores in similarities(queries, targets, **blocks):
        found[block], values[block] = _greatest(scores, k)
    return found, values


def _greatest(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns columns and values of the k <= N greatest in each row of float32[rows, N], in the order of `nearest`."""
    parts = max(1, min(64, scores.shape[1] // (8 * k)))  # columns are compared with few others first, by the fastest of operations
    whole = scores.shape[1] // parts * parts
    maxima = scores[:, :whole].reshape(len(scores), parts, -1).max(axis=1)
    bound = np.partition(maxima, -k, axis=1)[:, -k:].min(axis=1, keepdims=True)  # at least k targets are this near
    row, column = np.nonzero(scores >= bound)
    own = scores[row, column]
    order = np.lexsort((column, -own, row))
    best = order[np.searchsorted(row, np.arange(len(scores)))[:, None] + np.arange(k)]
    return column[best], own[best]


def draw_per_class(labels: Sequence[Sequence[int]], classes: int, count: int, seed: int) -> tuple[list[int], dict[int, int]]:
    """Draws clips of each class at random, as Gong et al., arXiv 2210.07839, section 4.3.

    Args:
      labels: the classes of each clip.
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
        raise ValueError("the clips have no classes, so --per_class can't draw from them; leave --per_class out")
    drawn: set[int] = set()
    for label, rows in enumerate(members):
        rng = np.random.default_rng((seed, label))  # one a class, so that a change of one class leaves the draws of the others alone
        drawn.update(rng.choice(rows, min(count, len(rows)), replace=False).tolist() if rows else ())
    return sorted(drawn), {label: len(rows) for label, rows in enumerate(members) if len(rows) < count}


def same_class(labels: Sequence[Sequence[int]], found: np.ndarray) -> np.ndarray:
    """Checks whether each found clip shares a class with its query, both of the same set: int64[Q, k] -> bool[Q, k]."""
    sets = [frozenset(own) for own in labels]
    return np.array([[bool(sets[query] & sets[target]) for target in map(int, found[query])] for query in range(len(found))]).reshape(
        found.shape
    )


def _class_recall(labels: Sequence[Sequence[int]], found: np.ndarray) -> dict[str, float] | None:
    """Computes how often a clip of the query's class is among the first k, over the queries that have a class."""
    labelled = np.array([bool(own) for own in labels], bool)
    if not labelled.any():
        return None
    hits = same_class(labels, found)[labelled]
    return {f"r{k}": float(hits[:, :k].any(axis=1).mean()) for k in TOP}


def class_chance(labels: Sequence[Sequence[int]], classes: int) -> dict[str, float]:
    """Computes how often a clip of the query's class is among k random ones: the mean over the clips that have a class."""
    member = np.zeros((len(labels), classes), bool)
    for row, own in enumerate(labels):
        member[row, list(own)] = True
    sizes = {own: int(member[:, list(own)].any(axis=1).sum()) for own in {tuple(own) for own in labels if own}}
    hit_rates: dict[str, float] = {}
    for k in TOP:
        hit = {own: 1 - _all_miss(len(labels), size, k) for own, size in sizes.items()}
        hit_rates[f"r{k}"] = float(np.mean([hit[tuple(own)] for own in labels if own]))
    return hit_rates


def _all_miss(clips: int, members: int, k: int) -> float:
    """Returns the probability that none of the members is among k different random clips."""
    return float(np.prod([max(0, clips - members - i) / (clips - i) for i in range(min(k, clips))]))


def _unit_rows(rows: np.ndarray, name: str) -> np.ndarray:
    """Divides rows by their length: float[N, D] -> float32[N, D], contiguous; raises ValueError for a row without a direction."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if bad.size:
        first = f"row {bad[0]} has length {lengths[bad[0], 0]}"
        raise ValueError(f"{name}: {bad.size} of {len(rows)} rows have no direction; {first}. Leave such clips out or mend the model")
    return np.ascontiguousarray(rows / lengths, dtype=np.float32)
