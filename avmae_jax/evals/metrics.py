"""Computes the figures of a classifier from its scores: average precision, area under the ROC curve, d'.

Axis letters: N clips, C classes.
"""

import numpy as np
from jaxtyping import Float64, Shaped
from scipy.special import ndtri  # pyright: ignore[reportMissingTypeStubs]


def average_precision(scores: Shaped[np.ndarray, "..."], targets: Shaped[np.ndarray, "..."]) -> Float64[np.ndarray, " C"]:
    """Computes the area under each class's precision-recall steps: the sum over thresholds of precision times the gain in recall.

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


def auc(scores: Shaped[np.ndarray, "..."], targets: Shaped[np.ndarray, "..."]) -> Float64[np.ndarray, " C"]:
    """Computes the area under each class's ROC curve: how often a clip with the class outscores one without it; a tie counts half.

    Args:
      scores: float[N, C], higher is likelier.
      targets: bool[N, C], or numbers that are 0 where the class is absent.

    Returns:
      float64[C], NaN where no clip has the class, or every clip has it.

    Raises:
      ValueError: if the shapes differ, or a score is not finite.
    """
    _require_scores(scores, targets)
    # This import takes a second, which programs that don't evaluate are spared.
    from scipy.stats import rankdata  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    has = targets != 0
    positives = has.sum(axis=0)
    pairs = (positives * (len(has) - positives)).astype(np.float64)
    ranks = np.asarray(rankdata(scores, axis=0))  # float64[N, C], from 1; equal scores get their mean rank
    won = (ranks * has).sum(axis=0) - positives * (positives + 1) / 2
    return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def d_prime(area: float) -> float:
    """Computes d', the distance between two normal distributions of deviation 1 whose ROC curve has this area.

    It is infinite for an area of 1 and NaN for NaN. AudioSet's evaluations compute it from the mean area over classes (Hershey et al.,
    arXiv 1609.09430).
    """
    return float(np.sqrt(2) * ndtri(area))


def _require_scores(scores: np.ndarray, targets: np.ndarray) -> None:
    if scores.ndim != 2 or scores.shape != targets.shape or not len(scores):
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must be arrays of the same shape [N, C] with N > 0")
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of the scores are not finite; mend the model")
