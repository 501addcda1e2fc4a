"""Evaluates a classifier on labelled clips into one folder: figures of the whole, of each class and of each clip, with plots.

scores.py says which classes have no figure and are left out of the means.

Axis letters: N clips, C classes.
"""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.errors import counted
from avmae_jax.evals.calibration.confidence import Confidence, rate
from avmae_jax.evals.few_clips import few_clips
from avmae_jax.evals.intervals import intervals
from avmae_jax.evals.matching import Matched, match_classes
from avmae_jax.evals.origin import UNKNOWN, Origin
from avmae_jax.evals.scores import Evaluation, clip_losses, evaluate_scores, worst_mistakes
from avmae_jax.evals.views import AS_TUNED, View, require_classifier, title_of
from avmae_jax.files import plain, write_json
from avmae_jax.inference.forward import BATCH, Classify, Logits, Scores, scores_of
from avmae_jax.plots import calibration, classification
from avmae_jax.plots.classification import Mistake
from avmae_jax.weights.calibration import of_mode
from avmae_jax.weights.trained import Trained

SHOWN_MISTAKES = 8
PLOTS = (
    "precision_recall.png",
    "confusion.png",
    "mistakes.png",
    "reliability.png",
    "f1.png",
)  # of a view, in the order in which they are drawn
_LIBRARIES = ("avmae-jax", "flax", "jax", "numpy", "scipy")


class _MeasuredView(NamedTuple):
    """Holds a view with what its evaluation found."""

    heading: str
    scores: Scores
    evaluation: Evaluation
    confidence: Confidence
    result: dict[str, Any]  # what its evaluation.json holds


def evaluate_views(
    out: Path, trained: Trained, source: ClipSource, views: Sequence[View], origin: Origin = UNKNOWN, batch_size: int = BATCH
) -> list[dict[str, Any]]:
    """Evaluates a classifier in several views, each into OUT/MODE_FRAMES, and all into OUT/evaluation.json.

    OUT/evaluation.json is rewritten as soon as a view is measured. After a failure it holds the finished views, none of an earlier
    evaluation beside them, and names those that are lacking.

    Args:
      out: the folder; created if missing.
      trained: a classifier.
      source: labelled clips with the modalities that all modes need.
      views: what the classifier is given, each once; views_of makes them.
      origin: of the clips, as the JSON names it.
      batch_size: rows computed at once.

    Returns:
      What the JSON has as "views": each with its name as "view", and what evaluate_into returns.

    Raises:
      ValueError: as evaluate_into.
      OSError: if the files can't be written.
    """
    trained, matched = _matched(trained, source)
    head = {"model": trained.path, "step": trained.step, **origin._asdict()}
    tuned = require_classifier(trained)
    views = [dataclasses.replace(view, mode=view.mode or tuned) for view in views]
    names, finished = [view.name for view in views], list[dict[str, Any]]()
    for view in views:
        title, crops = title_of(str(view.mode), view.frames), counted(view.crops, "crop")
        logging.info("%s, %s: %s", title, crops, counted(len(matched.source), "clip"))
        measured = _measure(trained, matched, view, origin, batch_size)
        _write(out / view.name, measured)
        finished.append({"view": view.name, **measured.result})
        write_json(out / "evaluation.json", {**head, "views": finished, "lacking": names[len(finished) :]})
        _draw(out / view.name, measured, matched.source, trained)
    return finished


def evaluate_into(
    out: Path, trained: Trained, source: ClipSource, view: View = AS_TUNED, origin: Origin = UNKNOWN, batch_size: int = BATCH
) -> dict[str, Any]:
    """Evaluates one view, and writes evaluation.json and plots into a folder.

    The plots are precision_recall.png, mistakes.png and, where each clip has one class, confusion.png. They are drawn after the numbers
    are written, and plots of an earlier evaluation are removed before that.

    Args:
      out: the folder; created if missing; results of an earlier evaluation are overwritten.
      trained: a classifier.
      source: labelled clips with the modalities that the mode needs.
      view: what the classifier is given.
      origin: of the clips, as the JSON names it.
      batch_size: rows computed at once.

    Returns:
      What evaluation.json holds; None in place of numbers that aren't finite.

    Raises:
      ValueError: if the model is no classifier of these classes, there is no labelled clip, a probability isn't finite, or a clip lacks
        what the mode needs.
      OSError: if the files can't be written.
    """
    trained, matched = _matched(trained, source)
    measured = _measure(trained, matched, view, origin, batch_size)
    _write(out, measured)
    _draw(out, measured, matched.source, trained)
    return measured.result


def _matched(trained: Trained, source: ClipSource) -> tuple[Trained, Matched]:
    """Matches the clips' classes with the classifier's, which gets its names from the data where it has none; raises as match_classes."""
    matched = match_classes(trained, source)
    return dataclasses.replace(trained, label_names=matched.label_names), matched


def _measure(trained: Trained, matched: Matched, view: View, origin: Origin, batch_size: int) -> _MeasuredView:
    """Classifies the clips and computes the figures of a view; `trained` has the right label names."""
    mode, names, loss, source = view.mode or require_classifier(trained), trained.label_names, trained.config.tune.loss, matched.source
    classify = Classify(trained.config, trained.classes, mode, batch_size)
    logits = _distinct(classify.logits(trained.module, source, crops=view.crops, frames=view.frames))
    scores = scores_of(trained.config, logits, of_mode(trained.calibration, mode).temperature)
    found, confidence = evaluate_scores(scores, names, loss), rate(trained, logits, mode)
    heading = title_of(str(mode), view.frames)
    head = {"model": trained.path, "step": trained.step, **origin._asdict()}
    head |= {"mode": str(mode), "frames": view.frames, "crops": view.crops, "damaged_clips": len(source) - found.clips}
    head |= {"unknown_classes": matched.unknown, "missing_classes": matched.missing, "clips_of_unknown_classes": matched.left_out}
    left_out = {"classes_left_out": len(found.no_positive), "classes_without_auc": len(found.no_positive) + len(found.no_negative)}
    figures: dict[str, Any] = {name: value for name, value in dataclasses.asdict(found).items() if name != "confusion"}
    figures |= intervals(scores)
    figures["per_class"] = [{**row, **more} for row, more in zip(figures["per_class"], confidence.per_class, strict=True)]
    few = few_clips([np.flatnonzero(row).tolist() for row in scores.targets], names)
    warning = "; ".join(filter(None, [few, matched.note]))
    if warning:
        logging.warning("%s", warning)
    head["warning"] = warning or None
    table = None if found.confusion is None else found.confusion.tolist()
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    clips = {"confusion": table, "ids": scores.ids, "per_clip": _per_clip(scores, names, loss), "versions": versions}
    result = plain({**head, **left_out, "label_names": names, **figures, **confidence.figures, **clips})
    return _MeasuredView(heading, scores, found, confidence, result)


def _write(out: Path, measured: _MeasuredView) -> None:
    for plot in PLOTS:
        (out / plot).unlink(missing_ok=True)  # of an earlier evaluation
    write_json(out / "evaluation.json", measured.result)


def _draw(out: Path, measured: _MeasuredView, source: ClipSource, trained: Trained) -> None:
    heading, scores, found, confidence, result = measured
    names = trained.label_names
    precisions = np.array([row.average_precision for row in found.per_class])
    classification.precision_recall(out / PLOTS[0], scores.probabilities, scores.targets, names, precisions, heading=heading)
    if found.confusion is not None:
        classification.confusion(out / PLOTS[1], found.confusion, names, heading=f"{heading}: accuracy {found.accuracy:.1%}")
    calibration.reliability(out / PLOTS[3], confidence.before, confidence.after, heading=heading)
    if "mean_f1" in result:
        calibration.class_f1(out / PLOTS[4], result["per_class"], heading=f"{heading}: mean F1 {result['mean_f1']:.3f}")
    worst = worst_mistakes(scores, trained.config.tune.loss)
    mistakes = [_mistake(scores, index, names, _clip(source, index, scores.ids[index])) for index in worst[:SHOWN_MISTAKES]]
    classification.mistakes(out / PLOTS[2], mistakes, heading=f"{heading}: {len(worst)} of {counted(found.clips, 'clip')} mistaken")


def _distinct(found: Logits) -> Logits:
    """Keeps each clip once: in place of a damaged last clip a source returns its first one again."""
    return found.keep(np.sort(np.unique(found.ids, return_index=True)[1]))


def _clip(source: ClipSource, index: int, clip_id: str) -> Clip:
    """Finds the clip of a row of scores: at that index of the source, or further on where damaged clips before it were skipped."""
    return next(clip for place in range(index, len(source)) if (clip := source[place]).id == clip_id)


def _mistake(scores: Scores, index: int, names: Sequence[str], clip: Clip) -> Mistake:
    given = scores.probabilities[index]
    labels = np.flatnonzero(scores.targets[index]), np.argsort(-given, kind="stable")[:3]
    own, predicted = ([(names[label], float(given[label])) for label in some.tolist()] for some in labels)
    return Mistake(clip, own, predicted)


def _per_clip(scores: Scores, names: Sequence[str], loss: str) -> list[dict[str, Any]]:
    """Lists the result of each clip; "classes" are its own ones and "probabilities" theirs."""
    rows: list[dict[str, Any]] = []
    for clip_id, given, targets, value in zip(*scores, clip_losses(scores, loss), strict=True):
        own, top = np.flatnonzero(targets).tolist(), int(given.argmax())
        row = {"id": clip_id, "classes": [names[label] for label in own], "probabilities": [float(given[label]) for label in own]}
        rows.append(row | {"top": names[top], "top_probability": float(given[top]), "loss": float(value)})
    return rows
