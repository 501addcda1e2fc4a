"""Reports how well a classifier's probabilities separate the classes of labelled clips: figures of the whole and of each class.

A class that no clip has can't be ranked: it is left out of the means and named. A class that every clip has has no area under the ROC
curve: it is left out of the mean area alone, and named as well. Nothing else is left out.

Axis letters: N clips, C classes.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from avmae_jax.evals import metrics
from avmae_jax.inference.forward import Scores

TOP = 5  # likeliest classes among which a clip's own class counts as found
_SMALLEST = 1e-12  # smaller probabilities are raised to this one before the logarithm


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """Says how well one class is separated from the others; NaN where there is nothing to divide by."""

    name: str
    positives: int  # clips that have it
    average_precision: float  # NaN without a positive
    auc: float  # NaN without a positive, or without a clip that lacks the class
    d_prime: float
    recall: float  # of the clips that have it, the share whose likeliest class it is
    precision: float  # of the clips whose likeliest class it is, the share that has it


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Says how well a classifier does on N clips."""

    clips: int  # N
    loss: float  # the mean of clip_losses
    map: float  # mean average precision, over the classes that have a positive
    auc: float  # mean area under the ROC curve, over the classes that some clips have and others lack; NaN if there is none
    d_prime: float  # of that mean
    accuracy: float | None  # None unless each clip has exactly one class
    top_5_accuracy: float | None  # None as accuracy, and with 5 classes or fewer
    no_positive: tuple[str, ...]  # classes that no clip has, left out of the means
    no_negative: tuple[str, ...]  # classes that every clip has, left out of the mean area alone
    per_class: tuple[ClassFigures, ...]  # all C
    confusion: np.ndarray | None  # int64[C, C], clips of the row's class whose likeliest is the column's; None as accuracy


def evaluate_scores(scores: Scores, label_names: Sequence[str], loss: str) -> Evaluation:
    """Computes all figures of a classifier's scores.

    Args:
      scores: of N labelled clips.
      label_names: C of them.
      loss: "bce" or "ce", as in clip_losses.

    Raises:
      ValueError: if there is no clip, none has a class, or a probability is not finite.
    """
    given, has = scores.probabilities.astype(np.float64), scores.targets > 0
    if not has.any():
        raise ValueError(f"none of the {len(has)} clips has a class; give labelled clips")
    precisions, areas = metrics.average_precision(given, has), metrics.auc(given, has)
    positives, likeliest, count = has.sum(axis=0), given.argmax(axis=1), len(label_names)
    right = has[np.arange(len(has)), likeliest]
    hits, taken = np.bincount(likeliest[right], minlength=count), np.bincount(likeliest, minlength=count)
    columns = zip(label_names, positives, precisions, areas, _ratio(hits, positives), _ratio(hits, taken), strict=True)
    rows = [ClassFigures(name, int(n), float(ap), float(a), metrics.d_prime(a), float(r), float(p)) for name, n, ap, a, r, p in columns]
    confusion = accuracy = among_top = None
    if (has.sum(axis=1) == 1).all():
        own = has.argmax(axis=1)
        confusion = np.zeros((count, count), np.int64)
        np.add.at(confusion, (own, likeliest), 1)
        accuracy = float(right.mean())
        if count > TOP:
            among_top = float((np.argsort(-given, axis=1, kind="stable")[:, :TOP] == own[:, None]).any(axis=1).mean())
    area = float(areas[np.isfinite(areas)].mean()) if np.isfinite(areas).any() else math.nan
    return Evaluation(
        clips=len(has),
        loss=float(clip_losses(scores, loss).mean()),
        map=float(np.nanmean(precisions)),
        auc=area,
        d_prime=metrics.d_prime(area),
        accuracy=accuracy,
        top_5_accuracy=among_top,
        no_positive=tuple(row.name for row in rows if not row.positives),
        no_negative=tuple(row.name for row in rows if row.positives == len(has)),
        per_class=tuple(rows),
        confusion=confusion,
    )


def clip_losses(scores: Scores, loss: str) -> np.ndarray:
    """Computes the loss of each clip, float64[N]: "bce" is binary cross-entropy averaged over classes, "ce" is cross-entropy."""
    given, targets = scores.probabilities.astype(np.float64), scores.targets
    present, absent = (-np.log(np.maximum(values, _SMALLEST)) for values in (given, 1 - given))
    return (targets * present + (1 - targets) * absent).mean(axis=1) if loss == "bce" else (targets * present).sum(axis=1)


def worst_mistakes(scores: Scores, loss: str) -> list[int]:
    """Returns the rows whose likeliest class isn't one of the clip's own, the highest loss first."""
    wrong = scores.targets[np.arange(len(scores.ids)), scores.probabilities.argmax(axis=1)] == 0
    order = np.argsort(-clip_losses(scores, loss), kind="stable")
    return [int(index) for index in order if wrong[index]]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divides: float64[C], NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
