"""Chooses the settings of a classifier by cross-validation inside the training clips, then fits it to all of them.

Axis letters: N training clips, M other clips, C classes.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from avmae_jax.evals.baselines.labelled import Labelled
from avmae_jax.evals.metrics import average_precision

FOLDS = 6
_SMALLEST = 1e-6  # smaller probabilities are raised to this one before the logarithm
_SHARES = tuple(share / 10 for share in range(11))

Setting = Mapping[str, float]


class Fit(NamedTuple):
    """Is what a classifier is fitted to, and applied to."""

    features: np.ndarray  # [N, ...]
    targets: np.ndarray  # bool[N, C]; where `exclusive`, each row has one True
    others: np.ndarray  # [M, ...], features of clips whose classes are asked for
    exclusive: bool  # whether a clip has one class alone
    seed: int


@dataclasses.dataclass(frozen=True)
class Family:
    """Describes a kind of classifier with the settings to choose from."""

    name: str
    settings: tuple[Setting, ...]  # the most strongly regularised one first, which wins a tie
    predict: Callable[[Fit, Setting], np.ndarray]  # fits, and computes the probabilities of the others, float64[M, C]


class Chosen(NamedTuple):
    """Holds a classifier's setting with what it predicts."""

    setting: Setting
    folds: np.ndarray  # float64[N, C], probabilities of the training clips, each by a classifier that hasn't seen its video
    held_out: np.ndarray  # float64[M, C], probabilities of the held-out clips, by a classifier of all training clips


def fold_of_clips(train: Labelled, seed: int, folds: int = FOLDS) -> np.ndarray:
    """Deals the training clips to folds, int64[N]: those of one video to the same, and the videos of each class evenly.

    There are fewer folds where there are fewer videos.
    """
    first = {video: row for row, video in reversed([*enumerate(train.videos)])}
    by_class: dict[int, list[str]] = collections.defaultdict(list)
    for video, row in sorted(first.items(), key=lambda item: item[1]):
        by_class[int(train.targets[row].argmax()) if train.targets[row].any() else -1].append(video)
    rng = np.random.default_rng(seed)
    order = [videos[int(place)] for _, videos in sorted(by_class.items()) for place in rng.permutation(len(videos))]
    fold = {video: place % min(folds, len(order)) for place, video in enumerate(order)}
    return np.array([fold[video] for video in train.videos])


def out_of_fold(family: Family, setting: Setting, fit: Fit, folds: np.ndarray) -> np.ndarray:
    """Computes the probabilities of the training clips, float64[N, C], each by a classifier of the other folds."""
    found = np.zeros(fit.targets.shape)
    for fold in range(folds.max() + 1):
        own = folds == fold
        part = fit._replace(features=fit.features[~own], targets=fit.targets[~own], others=fit.features[own])
        found[own] = family.predict(part, setting)
    return found


def cross_validated(family: Family, fit: Fit, folds: np.ndarray) -> Chosen:
    """Chooses the setting with the highest mean average precision over the folds, and applies it to `fit.others`."""
    tried = [out_of_fold(family, setting, fit, folds) for setting in family.settings]
    best = int(np.argmax([mean_precision(found, fit.targets) for found in tried]))
    setting = family.settings[best]
    return Chosen(setting, tried[best], family.predict(fit, setting))


def mean_precision(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Computes the mean average precision of the classes that some clip has, rounded so that rounding noise decides nothing."""
    return round(float(np.nanmean(average_precision(probabilities, targets))), 9)


def fused(parts: Sequence[Chosen], targets: np.ndarray, exclusive: bool) -> Chosen:
    """Multiplies two classifiers' probabilities, the second one's to the power of `share`, the first one's to that of 1 - share.

    The share is chosen as the settings are in cross_validated; `targets` are those of the training clips, bool[N, C].
    """

    def product(share: float, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        def powers(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.exp((1 - share) * np.log(np.maximum(a, _SMALLEST)) + share * np.log(np.maximum(b, _SMALLEST)))

        having = powers(first, second)
        return having / (having.sum(axis=1, keepdims=True) if exclusive else having + powers(1 - first, 1 - second))

    tried = [product(share, *(part.folds for part in parts)) for share in _SHARES]
    best = int(np.argmax([mean_precision(found, targets) for found in tried]))
    return Chosen({"share": _SHARES[best]}, tried[best], product(_SHARES[best], *(part.held_out for part in parts)))
