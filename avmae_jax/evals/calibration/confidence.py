"""Rates a classifier's confidence and the classes that it names, with its calibration and without."""

from typing import Any, NamedTuple

import numpy as np

from avmae_jax.evals.calibration.reliability import Reliability, reliability
from avmae_jax.evals.calibration.temperature import cross_fitted
from avmae_jax.evals.calibration.thresholds import f1
from avmae_jax.inference.forward import Logits, scores_of
from avmae_jax.models.modes import Mode
from avmae_jax.weights.calibration import hash_of_ids
from avmae_jax.weights.trained import Trained


class Confidence(NamedTuple):
    """Holds what is known of the confidence in one mode."""

    before: Reliability  # of the probabilities as they were trained
    after: Reliability | None  # of the calibrated ones; None where the mode isn't calibrated
    figures: dict[str, Any]  # of evaluation.json
    per_class: list[dict[str, Any]]  # C of them, "threshold" and "f1" where classes have thresholds, to be added to those of each class


def rate(trained: Trained, found: Logits, mode: Mode) -> Confidence:
    """Rates the confidence in a mode.

    Where the clips are those that the calibration was fitted to, what is rated are cross-fitted probabilities, since the calibration itself
    would look better than it is.

    Args:
      trained: the classifier.
      found: logits of the clips.
      mode: in which they were computed.

    Returns:
      Figures "temperature", "ece_before", "ece_after" (None where the mode isn't calibrated) and "fitted_to_these_clips"; where classes
      have thresholds also "mean_f1", over the classes that some clip has.
    """
    before, known = reliability(scores_of(trained.config, found)), trained.calibration
    figures: dict[str, Any] = {"temperature": None, "ece_before": before.error, "ece_after": None, "fitted_to_these_clips": None}
    classes = len(trained.label_names)
    if known is None or str(mode) not in dict(known.modes):
        return Confidence(before, None, figures, [{}] * classes)
    own, same = known.of(mode), known.clips == hash_of_ids(found.ids)
    if same:
        scores, named = cross_fitted(trained.config, found)
    else:
        scores, named = scores_of(trained.config, found, own.temperature), None
    after = reliability(scores)
    figures |= {"temperature": own.temperature, "ece_after": after.error, "fitted_to_these_clips": same}
    if not own.thresholds:
        return Confidence(before, after, figures, [{}] * classes)
    named = scores.probabilities >= np.array(own.thresholds) if named is None else named
    values = f1(named, found.targets)
    figures["mean_f1"] = float(np.nanmean(values))
    rows = [{"threshold": threshold, "f1": float(value)} for threshold, value in zip(own.thresholds, values, strict=True)]
    return Confidence(before, after, figures, rows)
