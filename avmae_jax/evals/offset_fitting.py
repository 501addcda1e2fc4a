"""Fits the calibration of inference/offset.py to clips whose offset is known."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from avmae_jax.inference.offset import NEAR, Calibration, Offset, Track, find_offset

FALSE_ANSWERS = 0.1  # share of clips without an answer that may get one, at most


class Trial(NamedTuple):
    """Holds the tracks of a clip, or of one's images and another's audio."""

    image: Track
    audio: Track
    seconds: float | None  # the known offset; None: there is none


def is_near(found: Offset, trial: Trial) -> bool:
    """Returns whether the likeliest lag is right to NEAR."""
    return found.likeliest is not None and trial.seconds is not None and abs(found.likeliest - trial.seconds) <= NEAR


def fit_calibration(trials: Sequence[Trial]) -> Calibration:
    """Fits how certain a score is, by logistic regression, and the threshold that leaves FALSE_ANSWERS.

    Args:
      trials: of clips that the model wasn't trained on, with and without an offset.

    Raises:
      ValueError: if there are no clips of either kind, or nothing changes along time in any.
    """
    if len({trial.seconds is None for trial in trials}) < 2:
        raise ValueError("a calibration needs clips with and without an offset")
    found = [find_offset(trial.image, trial.audio) for trial in trials]
    answerable = np.array([each.certainty > 0 for each in found])  # the best lag isn't the last one that is tried
    if not answerable.any():
        raise ValueError("no clip of the training split changes along time, so that no offset can be found in any")
    right = np.array([is_near(each, trial) for each, trial in zip(found, trials, strict=True)])
    evidence = np.array([each.evidence for each in found])
    fitted = Calibration(_logistic(evidence[answerable], right[answerable]))
    sure = np.array([fitted.certainty(*each) for each in evidence.tolist()]) * answerable
    false = float(np.quantile(sure[[trial.seconds is None for trial in trials]], 1 - FALSE_ANSWERS))
    return Calibration(fitted.weights, max(false, 0.5))  # nor is an answer given that is more likely wrong than right


def _logistic(evidence: np.ndarray, right: np.ndarray) -> tuple[float, float, float]:
    """Fits the weights of Calibration to float64[k, 2] by Newton's method; the latter two are slightly drawn towards 0."""
    inputs = np.concatenate([np.ones((len(evidence), 1)), evidence], axis=1)
    weights, drawn = np.zeros(3), np.array([1e-6, 0.1, 0.1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (right - chance) - drawn * weights
        bend = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + np.diag(drawn)
        weights += np.linalg.solve(bend, gradient)
    constant, score, lead = weights.tolist()
    return constant, score, lead
