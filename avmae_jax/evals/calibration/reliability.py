"""Measures whether a classifier's confidence means what it says: among clips that it is 80 % sure of, 80 % should be right.

The confidence of a clip is the probability of its likeliest class, which is right if the clip has that class.

Axis letters: N clips, B bins.
"""

from typing import NamedTuple

import numpy as np

from avmae_jax.inference.forward import Scores

BINS = 10  # of equal width


class Reliability(NamedTuple):
    """Holds the clips sorted into bins by their confidence; NaN for a bin without a clip."""

    confidence: np.ndarray  # float64[B], mean confidence
    right: np.ndarray  # float64[B], share that is right
    clips: np.ndarray  # int[B]

    @property
    def error(self) -> float:
        """Returns the expected calibration error: the mean of |share right - confidence| over the bins, weighted by their clips."""
        return float(np.nansum(self.clips * np.abs(self.right - self.confidence)) / self.clips.sum())


def reliability(scores: Scores) -> Reliability:
    """Sorts clips into bins by their confidence."""
    given = scores.probabilities.astype(np.float64)
    likeliest, clips = given.argmax(axis=1), np.arange(len(given))
    confidence, right = given[clips, likeliest], scores.targets[clips, likeliest] > 0
    place = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    confidences, shares = (
        np.divide(np.bincount(place, values, BINS), count, out=np.full(BINS, np.nan), where=count > 0)
        for values in (confidence, right.astype(np.float64))
    )
    return Reliability(confidences, shares, count)
