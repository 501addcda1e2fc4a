"""Calibrates a classifier in several modes on labelled clips, and rates what calibration brings."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from avmae_jax.data.clip import ClipSource
from avmae_jax.evals.calibration.reliability import reliability
from avmae_jax.evals.calibration.temperature import COLDEST, HOTTEST, cross_fitted, fit, is_at_bound
from avmae_jax.evals.calibration.thresholds import f1
from avmae_jax.evals.few_clips import few_clips
from avmae_jax.evals.matching import match_classes
from avmae_jax.evals.origin import UNKNOWN, Origin
from avmae_jax.evals.scores import clip_losses
from avmae_jax.evals.views import View, require_classifier
from avmae_jax.files import plain
from avmae_jax.inference.forward import BATCH, Classify, Logits, scores_of
from avmae_jax.weights.calibration import Calibration, ModeCalibration, hash_of_ids, to_json
from avmae_jax.weights.trained import Trained, fingerprint_of


def calibrate(
    trained: Trained, source: ClipSource, views: Sequence[View], origin: Origin = UNKNOWN, batch_size: int = BATCH
) -> dict[str, Any]:
    """Fits a temperature for each view's mode, and thresholds of the classes where clips have several.

    Args:
      trained: a classifier.
      source: labelled clips with the modalities that all modes need, which the classifier wasn't tuned on.
      views: modes with the crops and frames to average over.
      origin: of the clips, as the result names it.
      batch_size: rows computed at once.

    Returns:
      What calibration.json holds: weights/calibration.to_json, and for people where it comes from and, for each mode, the figures before
      and after; those after are cross-fitted.

    Raises:
      ValueError: if the model is no classifier, or no clip has one of its classes.
    """
    tuned, matched = require_classifier(trained), match_classes(trained, source)
    trained, loss = dataclasses.replace(trained, label_names=matched.label_names), trained.config.tune.loss
    modes, figures = list[tuple[str, ModeCalibration]](), dict[str, dict[str, Any]]()
    ids: list[str] = []
    has: np.ndarray = np.zeros((0, trained.classes), bool)
    for view in views:
        mode = view.mode or tuned
        classify = Classify(trained.config, trained.classes, mode, batch_size)
        found = classify.logits(trained.module, matched.source, crops=view.crops, frames=view.frames)
        found = found.keep(np.sort(np.unique(found.ids, return_index=True)[1]))
        ids, has = found.ids, found.targets > 0
        if not has.any():
            raise ValueError(f"none of the {len(has)} clips has a class; calibrate with labelled clips")
        own = fit(trained.config, found)
        modes.append((str(mode), own))
        figures[str(mode)] = _figures(trained, found, own, loss) | {"crops": view.crops, "frames": view.frames}
        if is_at_bound(own.temperature):
            words = "%s: the temperature is at the end of what is tried, [%g, %g]: the clips are too few, or all right, or all wrong"
            logging.warning(words, mode, COLDEST, HOTTEST)
    stored = to_json(Calibration(fingerprint_of(trained), hash_of_ids(ids), tuple(modes)))
    stored["modes"] = {name: {**row, **figures[name]} for name, row in stored["modes"].items()}
    without = [name for name, count in zip(trained.label_names, has.sum(axis=0).tolist(), strict=True) if not count]
    few = few_clips([np.flatnonzero(row).tolist() for row in has], trained.label_names)
    warning = "; ".join(filter(None, [few, matched.note]))
    if warning:
        logging.warning("%s", warning)
    head = {"model": trained.path, "step": trained.step, **origin._asdict(), "count": len(ids), "warning": warning or None}
    return plain({**head, "label_names": trained.label_names, "classes_without_clip": without, **stored})


def _figures(trained: Trained, found: Logits, own: ModeCalibration, loss: str) -> dict[str, Any]:
    """Rates a mode before calibration, and by cross-fitting after it."""
    before, after = scores_of(trained.config, found), cross_fitted(trained.config, found)
    losses = [float(clip_losses(scores, loss).mean()) for scores in (before, after.scores)]
    rated = {"ece_before": reliability(before).error, "ece_after": reliability(after.scores).error}
    rated |= {"loss_before": losses[0], "loss_after": losses[1]}
    if after.named is None or not own.thresholds:
        return rated
    values = f1(after.named, found.targets)
    return {**rated, "mean_f1": float(np.nanmean(values)), "f1": [float(value) for value in values]}
