"""Fits the calibration of a classifier to held-out clips: one temperature a mode, and thresholds where clips have several classes.

What is measured on the clips that the calibration was fitted to would flatter it. Its figures here come from cross-fitting: the clips are
dealt to folds, and each is rated with the calibration of the other folds. weights/calibration.py keeps what is fitted to all clips.

Axis letters: N clips, C classes.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from avmae_jax.config import Applied
from avmae_jax.evals.calibration.thresholds import best_thresholds, filled
from avmae_jax.evals.scores import clip_losses
from avmae_jax.inference.forward import Logits, Scores, scores_of
from avmae_jax.weights.calibration import ModeCalibration

FOLDS = 5
COLDEST, HOTTEST = 0.1, 10.0  # temperatures that are tried: outside of them hardly anything changes any more
_PRECISION = 1e-3  # of the temperature's logarithm


class CrossFitted(NamedTuple):
    """Holds what a calibration gives for clips that it wasn't fitted to."""

    scores: Scores
    named: np.ndarray | None  # bool[N, C], whether the probability reaches the threshold; None without thresholds


def fit(config: Applied, found: Logits) -> ModeCalibration:
    """Fits temperature and thresholds to clips.

    Args:
      config: of the model.
      found: logits of the clips.
    """
    temperature = fit_temperature(config, found)
    if not names_several(config, found):
        return ModeCalibration(temperature)
    thresholds = filled(best_thresholds(scores_of(config, found, temperature).probabilities, found.targets))
    return ModeCalibration(temperature, tuple(map(float, thresholds)))


def names_several(config: Applied, found: Logits) -> bool:
    """Returns whether classes have thresholds: they are decided one by one, and some clip has several of them or none."""
    return config.tune.loss == "bce" and bool(((found.targets > 0).sum(axis=1) != 1).any())


def fit_temperature(config: Applied, found: Logits) -> float:
    """Finds the temperature of the lowest log loss, in [COLDEST, HOTTEST]."""

    def loss(logarithm: float) -> float:
        return float(clip_losses(scores_of(config, found, float(np.exp(logarithm))), config.tune.loss).mean())

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    best: Any = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": _PRECISION})
    return round(float(np.exp(best.x)), 4)


def is_at_bound(temperature: float) -> bool:
    """Returns whether the loss fell up to the end of the range, as it does where every clip is right, or none."""
    return not COLDEST * 1.02 < temperature < HOTTEST / 1.02


def cross_fitted(config: Applied, found: Logits, seed: int = 0) -> CrossFitted:
    """Rates each clip with the calibration of other clips, in folds; fewer than two clips are rated as they are.

    Args:
      config: of the model.
      found: logits of the clips.
      seed: of the folds.
    """
    count = len(found.ids)
    several = names_several(config, found)
    named = np.zeros(found.targets.shape, bool)
    given = scores_of(config, found).probabilities.copy()
    fold = np.random.default_rng(seed).permutation(count) % min(FOLDS, count)
    for number in range(fold.max() + 1 if count > 1 else 0):
        own, others = np.flatnonzero(fold == number), found.keep(np.flatnonzero(fold != number))
        temperature = fit_temperature(config, others)
        given[own] = scores_of(config, found.keep(own), temperature).probabilities
        if several:
            thresholds = filled(best_thresholds(scores_of(config, others, temperature).probabilities, others.targets))
            named[own] = given[own] >= thresholds
    return CrossFitted(Scores(found.ids, given, found.targets), named if several else None)
