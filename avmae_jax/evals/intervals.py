"""Computes how far accuracy and mean average precision would vary with other clips of the same kind: bootstrap intervals.

Axis letters: N clips, C classes, D draws.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from avmae_jax.inference.forward import Scores

DRAWS = 1000
_LEVELS = (2.5, 97.5)  # percentiles of the draws between which 95 % of them lie
_AT_ONCE = 4_000_000  # counts in memory at once
NOTE = f"in brackets: the middle 95 % of {DRAWS} draws of as many clips, with replacement"


def intervals(scores: Scores, draws: int = DRAWS, seed: int = 0) -> dict[str, list[float] | None]:
    """Computes 95 % intervals by drawing as many clips, with replacement, again and again.

    Clips of one video are drawn as if they had nothing in common, so where a video gives several clips the intervals are too narrow. A draw
    holds some clips twice, which raises a low average precision: of weak classifiers the interval lies somewhat high.

    Args:
      scores: of N clips.
      draws: D.
      seed: of the draws.

    Returns:
      "map_interval": the two ends; None where no clip has a class. "accuracy_interval": the same, None unless each clip has exactly one
      class.
    """
    given, has = scores.probabilities.astype(np.float64), scores.targets > 0
    clips = np.arange(len(has))
    right = has[clips, given.argmax(axis=1)]
    precisions, accuracies = list[np.ndarray](), list[np.ndarray]()
    for weights in _weights(len(has), draws, seed):
        precisions.append(_mean_precision(given, has, weights))
        accuracies.append(right @ weights / len(has))
    single = bool((has.sum(axis=1) == 1).all())
    return {"map_interval": _middle(precisions), "accuracy_interval": _middle(accuracies) if single else None}


def shown(figures: Mapping[str, Any], name: str, *, percent: bool = False) -> str:
    """Formats a figure with its interval, as 0.722 (0.61 to 0.82), or 72.2 % (61 to 82) in percent; "-" for None."""
    value, interval = figures.get(name), figures.get(f"{name}_interval")
    if value is None:
        return "-"
    ends: Any = interval if _are_ends(interval) else None
    if percent:
        return f"{100 * value:.1f} %" + (f" ({100 * ends[0]:.0f} to {100 * ends[1]:.0f})" if ends else "")
    return f"{value:.3f}" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else "")


def _are_ends(interval: Any) -> bool:
    """Returns whether something read from a file is an interval."""
    return isinstance(interval, list | tuple) and [type(end) for end in cast("list[Any]", interval)] == [float, float]


def _weights(clips: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yields how often each clip is drawn, float32[N, some draws]."""
    rng = np.random.default_rng(seed)
    step = max(1, min(draws, _AT_ONCE // clips))
    for first in range(0, draws, step):
        count = min(step, draws - first)
        drawn = rng.integers(0, clips, (count, clips)) + np.arange(count)[:, None] * clips
        yield np.bincount(drawn.ravel(), minlength=count * clips).reshape(count, clips).T.astype(np.float32)


def _mean_precision(given: np.ndarray, has: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Computes metrics.average_precision of each draw, averaged over the classes that some clip of it has: float64[D]."""
    total, count = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for score, own in zip(given.T, has.T, strict=True):
        if not own.any():
            continue
        order = np.argsort(-score, kind="stable")
        last_of_score = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
        adds = np.diff(np.cumsum(own[order])[last_of_score], prepend=0) > 0
        places = last_of_score[adds]
        drawn = weights[order]
        hits = np.cumsum(drawn * own[order][:, None], axis=0, dtype=np.float64)[places]
        found = np.cumsum(drawn, axis=0, dtype=np.float64)[places]
        positives = hits[-1]
        precision = (np.diff(hits, axis=0, prepend=0) * hits / np.maximum(found, 1)).sum(axis=0)
        total += np.divide(precision, positives, out=np.zeros_like(total), where=positives > 0)
        count += positives > 0
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _middle(parts: list[np.ndarray]) -> list[float] | None:
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    return [float(end) for end in np.percentile(values, _LEVELS)] if len(values) else None
