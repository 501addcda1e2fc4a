"""What is measured on held-out clips: whether sounds find their pictures and pictures their sounds, and how well classes rank.

The retrieval protocol is that of Gong et al., arXiv 2210.07839, section 4.3: cosine similarity of pooled, unmasked features. The right
partner of row i is row i.

Axis letters: B batch, L tokens, D width, N clips, C classes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

_BLOCK_SCORES = 2**24  # similarities held at once, 64 MiB of them


class Retrieval(NamedTuple):
    """How well one modality finds the other."""

    r1: float  # share of queries whose right partner is ranked first, in [0, 1]
    r5: float  # ... among the first five
    r10: float
    median_rank: float  # 1 is best
    ties: int  # queries whose right partner shares its score with another target; if many, the ranks flatter the model
    clips: int  # N


def retrieval(queries: np.ndarray, targets: np.ndarray, *, block_scores: int = _BLOCK_SCORES) -> Retrieval:
    """Ranks all targets for each query by cosine similarity.

    The rank of the right partner is the number of targets with a strictly greater score, plus one. Equal targets always get equal scores: a
    BLAS may round the same product differently in another column, so each distinct target is multiplied once.

    Args:
      queries: float32[N, D], of any length above 0; what `embedding` gives.
      targets: float32[N, D], row i belongs to query i.
      block_scores: similarities held in memory at once, which bounds the number of queries multiplied together.

    Returns:
      Retrieval.

    Raises:
      ValueError: if the shapes differ or are empty, or a row has no direction (all zeros, or not finite).
    """
    if queries.ndim != 2 or queries.shape != targets.shape or not queries.size:
        raise ValueError(f"queries {queries.shape} and targets {targets.shape} must be arrays of the same shape [N, D], none of them empty")
    return summarise_ranks(*partner_ranks(queries, targets, block_scores=block_scores))


def summarise_ranks(ranks: np.ndarray, tied: np.ndarray) -> Retrieval:
    """What partner_ranks found, in numbers."""
    r1, r5, r10 = (float((ranks <= k).mean()) for k in (1, 5, 10))
    return Retrieval(r1, r5, r10, float(np.median(ranks)), int(np.count_nonzero(tied)), len(ranks))


def partner_ranks(queries: np.ndarray, targets: np.ndarray, *, block_scores: int = _BLOCK_SCORES) -> tuple[np.ndarray, np.ndarray]:
    """The rank of each query's right partner, int64[N], and whether another target has its score, bool[N]; see retrieval."""
    ranks, tied = np.empty(len(queries), np.int64), np.empty(len(queries), bool)
    for block, scores in similarities(queries, targets, block_scores=block_scores):
        ranks[block], tied[block] = block_ranks(block, scores)
    return ranks, tied


def block_ranks(block: slice, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of partner_ranks that belong to one block of similarities: int64[rows] and bool[rows] of float32[rows, N]."""
    rows = np.arange(len(scores))
    right = scores[rows, block.start + rows][:, None]
    return 1 + np.count_nonzero(scores > right, axis=1), np.count_nonzero(scores == right, axis=1) > 1


def similarities(queries: np.ndarray, targets: np.ndarray, *, block_scores: int = _BLOCK_SCORES) -> Iterator[tuple[slice, np.ndarray]]:
    """Cosine similarities, some queries at a time; equal targets get equal scores.

    Args:
      queries: float[Q, D], of any length above 0.
      targets: float[N, D], likewise.
      block_scores: similarities held in memory at once.

    Yields:
      Which queries, and float32[rows, N] of them.

    Raises:
      ValueError: if a row has no direction.
    """
    queries, targets = _directions(queries, "queries"), _directions(targets, "targets")
    clips, width = targets.shape
    _, first, column = np.unique(targets.view(f"V{4 * width}")[:, 0], return_index=True, return_inverse=True)
    distinct = targets.T if len(first) == clips else targets[first].T  # [D, <= N]
    rows = max(1, block_scores // clips)
    for start in range(0, len(queries), rows):
        block = slice(start, min(start + rows, len(queries)))
        scores = queries[block] @ distinct
        yield block, scores if len(first) == clips else scores[:, column]


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps of each class, the sum over thresholds of precision times the gain in recall.

    Args:
      scores: float[N, C], higher is likelier; clips of equal score share one threshold.
      targets: bool[N, C], or numbers that are 0 where the class is absent.

    Returns:
      float64[C], NaN where no clip has the class.

    Raises:
      ValueError: if the shapes differ, or a score is not finite.
    """
    _require_scores(scores, targets)
    result = np.full(scores.shape[1], np.nan)
    for number, (score, target) in enumerate(zip(scores.T, (targets != 0).T, strict=True)):
        if not target.any():
            continue
        order = np.argsort(-score, kind="stable")
        last_of_score = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
        hits = np.cumsum(target[order])[last_of_score]
        result[number] = (np.diff(hits, prepend=0) / hits[-1] * hits / (last_of_score + 1)).sum()
    return result


def auc(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each class: how often a clip that has it scores higher than one that hasn't; a tie counts half.

    Args:
      scores: float[N, C], higher is likelier.
      targets: bool[N, C], or numbers that are 0 where the class is absent.

    Returns:
      float64[C], NaN where no clip has the class, or each has it.

    Raises:
      ValueError: if the shapes differ, or a score is not finite.
    """
    _require_scores(scores, targets)
    from scipy.stats import rankdata  # takes a second, for which programs that don't evaluate needn't wait

    has = targets != 0
    positives = has.sum(axis=0)
    pairs = (positives * (len(has) - positives)).astype(np.float64)
    ranks = np.asarray(rankdata(scores, axis=0))  # float64[N, C], from 1; of equal scores their mean
    won = (ranks * has).sum(axis=0) - positives * (positives + 1) / 2
    return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def d_prime(area: float) -> float:
    """How far apart two normal distributions of deviation 1 lie whose ROC curve has this area; infinite for an area of 1, NaN for NaN.

    AudioSet's evaluations take it of the mean area over classes (Hershey et al., arXiv 1609.09430).
    """
    return float(np.sqrt(2) * ndtri(area))


def _require_scores(scores: np.ndarray, targets: np.ndarray) -> None:
    if scores.ndim != 2 or scores.shape != targets.shape or not len(scores):
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must be arrays of the same shape [N, C] with N > 0")
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of the scores are not finite; mend the model")


def _directions(rows: np.ndarray, name: str) -> np.ndarray:
    """Rows over their length: float[N, D] -> float32[N, D], contiguous."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if bad.size:
        first = f"row {bad[0]} has length {lengths[bad[0], 0]}"
        raise ValueError(f"{name}: {bad.size} of {len(rows)} rows have no direction; {first}. Leave such clips out or mend the model")
    return np.ascontiguousarray(rows / lengths, dtype=np.float32)
