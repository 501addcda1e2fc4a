"""Chooses from which probability on a class is named, where clips have several classes: the threshold of the best F1 of each class.

F1 is the harmonic mean of precision and recall. Axis letters: N clips, C classes.
"""

import numpy as np

UNKNOWN = 0.5  # threshold where no class has a positive


def best_thresholds(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Computes the threshold of the best F1 of each class, float64[C]; NaN for a class without a positive.

    It lies midway between the lowest probability that counts as the class and the next lower one, or zero. Of thresholds that are equally
    good the highest is taken, which names the class least often.

    Args:
      probabilities: float[N, C].
      targets: [N, C], not 0 where a clip has the class.
    """
    found = np.full(targets.shape[1], np.nan)
    for number, (given, has) in enumerate(zip(probabilities.T.astype(np.float64), targets.T > 0, strict=True)):
        if not has.any():
            continue
        order = np.argsort(-given, kind="stable")
        ends: np.ndarray = np.concatenate([np.diff(given[order]) != 0, [True]])
        last = np.flatnonzero(ends)  # clips of equal probability are named together
        scores: np.ndarray = np.append(given[order][last], 0.0)
        rates: np.ndarray = 2 * np.cumsum(has[order])[last] / (last + 1 + has.sum())
        best = int(np.argmax(np.round(rates, 9)))
        found[number] = (scores[best] + scores[best + 1]) / 2
    return found


def filled(thresholds: np.ndarray) -> np.ndarray:
    """Gives classes without a threshold the mean of the others', or UNKNOWN where there are none."""
    own = thresholds[np.isfinite(thresholds)]
    return np.where(np.isfinite(thresholds), thresholds, own.mean() if len(own) else UNKNOWN)


def f1(named: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Computes the F1 of each class, float64[C]; NaN for a class without a positive.

    Args:
      named: bool[N, C], whether the probability reaches the threshold.
      targets: [N, C], not 0 where a clip has the class.
    """
    has = targets > 0
    both = (named & has).sum(axis=0)
    positives = has.sum(axis=0)
    return np.where(positives > 0, 2 * both / np.maximum(named.sum(axis=0) + positives, 1), np.nan)
