"""Fits the calibration of inference/offset.py to clips whose offset is known.

The directions are those of a canonical correlation analysis of how the vectors of audio and image of the same moment move within their
clips: pairs of directions, the first two correlated most. Their number and the certainty are fitted to other clips than the directions.

Axis letters: n moments, D width, V directions.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from avmae_jax.inference.offset import NEAR, Calibration, Offset, Track, find_offset

DIRECTIONS = (2, 4, 8, 16, 32)  # numbers of them that are tried
FALSE_ANSWERS = 0.1  # share of clips without an answer that may get one, at most
_RIDGE = 0.5  # of the mean variance of a component


class Trial(NamedTuple):
    """Holds the tracks of a clip, or of one's images and another's audio."""

    image: Track
    audio: Track
    seconds: float | None  # the known offset; None: there is none


def fit_calibration(moving: Sequence[tuple[Track, Track]], trials: Sequence[Trial]) -> Calibration:
    """Fits a calibration.

    Args:
      moving: tracks of images and audio of clips whose audio and images belong together, at the same times.
      trials: of other clips, with and without an offset.

    Raises:
      ValueError: if there are no clips of either kind.
    """
    if not moving or not trials or len({trial.seconds is None for trial in trials}) < 2:
        raise ValueError("a calibration needs clips for its directions, and others with and without an offset")
    image, audio, strengths = directions(moving)
    known = [trial for trial in trials if trial.seconds is not None]
    tried = [
        Calibration((audio[:, :count] * strengths[:count]).astype(np.float32), image[:, :count].astype(np.float32))
        for count in DIRECTIONS
        if count <= len(strengths)
    ]
    best = max(tried, key=lambda each: share_near([find_offset(trial.image, trial.audio, each) for trial in known], known))
    return fit_certainty(best, trials)


def share_near(found: Sequence[Offset], trials: Sequence[Trial]) -> float:
    """Computes the share of trials whose likeliest lag is right to NEAR."""
    return float(np.mean([is_near(each, trial) for each, trial in zip(found, trials, strict=True)]))


def is_near(found: Offset, trial: Trial) -> bool:
    """Returns whether the likeliest lag is right to NEAR."""
    return found.likeliest is not None and trial.seconds is not None and abs(found.likeliest - trial.seconds) <= NEAR


def directions(moving: Sequence[tuple[Track, Track]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the directions in which vectors of image and audio move together, the most correlated first.

    Returns:
      float64[D, D] of images and of audio, in columns, along which both have variance 1, and their correlations float64[D].
    """
    images, audios = list[np.ndarray](), list[np.ndarray]()
    for image, audio in moving:  # at the times that both have
        _, rows, columns = np.intersect1d(np.round(image.times, 3), np.round(audio.times, 3), return_indices=True)
        images.append(image.vectors[rows])
        audios.append(audio.vectors[columns])
    image, audio = (np.concatenate(rows).astype(np.float64) for rows in (images, audios))
    white_image, white_audio = _whitening(image), _whitening(audio)
    left, strengths, right = np.linalg.svd(white_image @ (image.T @ audio / len(image)) @ white_audio)
    return white_image @ left, white_audio @ right.T, strengths


def _whitening(rows: np.ndarray) -> np.ndarray:
    """Computes the matrix that gives vectors a variance of 1 in every direction, and less where they hardly have any."""
    covariance = rows.T @ rows / len(rows)
    covariance += _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def fit_certainty(calibration: Calibration, trials: Sequence[Trial]) -> Calibration:
    """Fits how certain a score is, by logistic regression, and the threshold that leaves FALSE_ANSWERS."""
    found = [find_offset(trial.image, trial.audio, calibration) for trial in trials]
    answerable = np.array([each.certainty > 0 for each in found])  # the best lag isn't the last one that is tried
    if not answerable.any():
        raise ValueError("no clip of the training split changes along time, so that no offset can be found in any")
    right = np.array([is_near(each, trial) for each, trial in zip(found, trials, strict=True)])
    evidence = np.array([each.evidence for each in found])
    fitted = dataclasses.replace(calibration, weights=_logistic(evidence[answerable], right[answerable]))
    sure = np.array([fitted.certainty(*each) for each in evidence.tolist()]) * answerable
    false = float(np.quantile(sure[[trial.seconds is None for trial in trials]], 1 - FALSE_ANSWERS))
    return dataclasses.replace(fitted, threshold=max(false, 0.5))  # nor is an answer given that is more likely wrong than right


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
