"""How good a classifier is on labelled clips: figures of the whole, of each class and of each clip, with pictures, in one folder.

A class that no clip has can't be ranked: it is left out of the means and named. Nothing else is.

Axis letters: N clips, C classes.
"""

import dataclasses
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from avmae_jax import class_pictures, metrics
from avmae_jax.class_pictures import Mistake
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.pipeline import Frames
from avmae_jax.files import write_json
from avmae_jax.inference import BATCH, Classify, Scores
from avmae_jax.models.classifier import CAVMAEClassifier, Mode
from avmae_jax.trained import Trained

TOP = 5  # likeliest classes among which a clip's own is looked for
SHOWN_MISTAKES = 8
_SMALLEST = 1e-12  # probability whose logarithm is still taken
_LIBRARIES = ("avmae-jax", "flax", "jax", "numpy", "scipy")


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """How well one class is told from the others; NaN where there is nothing to divide by."""

    name: str
    positives: int  # clips that have it
    average_precision: float  # NaN without a positive
    auc: float  # NaN without a positive, or without a clip that hasn't the class
    d_prime: float
    recall: float  # of the clips that have it, the share whose likeliest class it is
    precision: float  # of the clips whose likeliest class it is, the share that has it


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well a classifier does on N clips."""

    clips: int  # N
    loss: float  # the mean of clip_losses
    map: float  # mean average precision, over the classes that have a positive
    auc: float  # mean area under the ROC curve, over the classes that some clips have and some haven't; NaN if there is none
    d_prime: float  # of that mean
    accuracy: float | None  # None unless each clip has exactly one class
    top_5_accuracy: float | None  # ... and there are more than 5 classes
    no_positive: tuple[str, ...]  # classes that no clip has, left out of the means
    per_class: tuple[ClassFigures, ...]  # all C
    confusion: np.ndarray | None  # int64[C, C], clips of the row's class whose likeliest is the column's; None as accuracy


def measure(scores: Scores, label_names: Sequence[str], loss: str) -> Evaluation:
    """All figures of what a classifier says.

    Args:
      scores: of N labelled clips.
      label_names: C of them.
      loss: "bce" or "ce", see clip_losses.

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
        per_class=tuple(rows),
        confusion=confusion,
    )


def clip_losses(scores: Scores, loss: str) -> np.ndarray:
    """The loss of each clip, float64[N]: "bce": binary cross-entropy, the mean over classes; "ce": cross-entropy."""
    given, targets = scores.probabilities.astype(np.float64), scores.targets
    there, absent = (-np.log(np.maximum(values, _SMALLEST)) for values in (given, 1 - given))
    return (targets * there + (1 - targets) * absent).mean(axis=1) if loss == "bce" else (targets * there).sum(axis=1)


def classifier_of(trained: Trained) -> CAVMAEClassifier:
    """The model, which must be CAV-MAE's classifier; raises ValueError if it isn't."""
    if isinstance(trained.model, CAVMAEClassifier):
        return trained.model
    kind = f"a classifier of {trained.config.model.modality} alone" if trained.classes else "a pretraining model"
    raise ValueError(f"{trained.path} is {kind}, not CAV-MAE's classifier; give a run of launch.finetune, or its weights")


def label_names_for(trained: Trained, source: ClipSource) -> tuple[str, ...]:
    """The names of a classifier's classes, once it is sure that those of the clips are the same.

    Where nobody noted the classifier's, the data set's are taken, which the log tells.

    Raises:
      ValueError: if the clips have no classes, or others than the classifier.
    """
    own, theirs = trained.label_names, tuple(source.label_names)
    if not theirs:
        raise ValueError("the clips have no classes; prepare videos that lie in class folders, or a labelled list")
    if len(theirs) != trained.classes:
        raise ValueError(
            f"{trained.path} has {trained.classes} classes and the clips have {len(theirs)}; give the data that it was tuned on"
        )
    if own == theirs:
        return own
    if own == tuple(f"class {number}" for number in range(trained.classes)):  # load_trained's, for want of others
        logging.info("%s doesn't say what its %d classes are; the names are those of the data", trained.path, trained.classes)
        return theirs
    number = next(i for i, (name, other) in enumerate(zip(own, theirs, strict=True)) if name != other)
    order = "; they are the same in another order" if sorted(own) == sorted(theirs) else ""
    raise ValueError(
        f"class {number} is {own[number]!r} in {trained.path} and {theirs[number]!r} in the data{order}; give data with the model's classes"
    )


def evaluate_into(
    out: Path,
    trained: Trained,
    source: ClipSource,
    *,
    mode: Mode | None = None,
    frames: Frames = "middle",
    crops: int = 1,
    batch_size: int = BATCH,
    data: str = "",
    split: str = "",
) -> dict[str, Any]:
    """Evaluates one view, and writes evaluation.json and pictures into a folder.

    The pictures are precision_recall.png, mistakes.png and, where each clip has one class, confusion.png.

    Args:
      out: the folder; made if need be, and what an earlier evaluation left there is overwritten.
      trained: a CAVMAEClassifier.
      source: labelled clips with what the mode looks at.
      mode: what the classifier is given; None: what it was tuned on.
      frames: "first", "middle", or "all", whose probabilities are averaged.
      crops: pieces of a sound that is too long, averaged likewise.
      batch_size: rows computed at once.
      data: where the clips come from, to be noted.
      split: which of them they are, likewise.

    Returns:
      What evaluation.json holds; None in place of numbers that aren't finite.

    Raises:
      ValueError: see classifier_of, label_names_for, measure, pipeline.example and models/classifier.py.
      OSError: if the files can't be written.
    """
    model, names, loss = classifier_of(trained), label_names_for(trained, source), trained.config.tune.loss
    classify = Classify(trained.config, trained.classes, mode, batch_size)
    scores = _distinct(classify(model, source, crops=crops, frames=frames))
    found = measure(scores, names, loss)
    view = f"{classify.mode}, {frames} frame{'s' * (frames == 'all')}" if "audio" not in classify.mode else classify.mode
    worst = _worst(scores, loss)
    mistakes = [_mistake(scores, index, names, _clip(source, index, scores.ids[index])) for index in worst[:SHOWN_MISTAKES]]
    class_pictures.precision_recall(out / "precision_recall.png", scores.probabilities, scores.targets, names, heading=view)
    class_pictures.mistakes(out / "mistakes.png", mistakes, heading=f"{view}: {len(worst)} of {found.clips} clips mistaken")
    if found.confusion is None:
        (out / "confusion.png").unlink(missing_ok=True)  # of another evaluation
    else:
        class_pictures.confusion(out / "confusion.png", found.confusion, names, heading=f"{view}: accuracy {found.accuracy:.1%}")
    head = {"model": trained.path, "data": data or str(source), "split": split, "mode": classify.mode, "frames": frames, "crops": crops}
    left_out = {"damaged_clips": len(source) - found.clips, "classes_left_out": len(found.no_positive)}
    figures = {name: value for name, value in dataclasses.asdict(found).items() if name != "confusion"}
    table = None if found.confusion is None else found.confusion.tolist()
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    clips = {"confusion": table, "ids": scores.ids, "per_clip": _per_clip(scores, names, loss), "versions": versions}
    result = plain({**head, **left_out, "label_names": names, **figures, **clips})
    write_json(out / "evaluation.json", result)
    return result


def plain(value: Any) -> Any:
    """A value as JSON has it: None in place of what isn't finite, lists in place of tuples."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """float64[C], NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _distinct(scores: Scores) -> Scores:
    """Each clip once: in place of a damaged last clip a source gives its first one again."""
    first = np.sort(np.unique(scores.ids, return_index=True)[1])
    return Scores([scores.ids[index] for index in first], scores.probabilities[first], scores.targets[first])


def _worst(scores: Scores, loss: str) -> list[int]:
    """The clips whose likeliest class isn't one of theirs, the highest loss first."""
    wrong = scores.targets[np.arange(len(scores.ids)), scores.probabilities.argmax(axis=1)] == 0
    order = np.argsort(-clip_losses(scores, loss), kind="stable")
    return [int(index) for index in order if wrong[index]]


def _clip(source: ClipSource, index: int, clip_id: str) -> Clip:
    """The clip of a row of scores: at its place in the source, or, where damaged ones before it were passed over, a little further on."""
    return next(clip for place in range(index, len(source)) if (clip := source[place]).id == clip_id)


def _mistake(scores: Scores, index: int, names: Sequence[str], clip: Clip) -> Mistake:
    given = scores.probabilities[index]
    labels = np.flatnonzero(scores.targets[index]), np.argsort(-given, kind="stable")[:3]
    own, said = ([(names[label], float(given[label])) for label in some.tolist()] for some in labels)
    return Mistake(clip, own, said)


def _per_clip(scores: Scores, names: Sequence[str], loss: str) -> list[dict[str, Any]]:
    """What is said of each clip; "classes" are its own ones and "probabilities" those that they are given."""
    rows = []
    for clip_id, given, targets, value in zip(*scores, clip_losses(scores, loss), strict=True):
        own, top = np.flatnonzero(targets).tolist(), int(given.argmax())
        row = {"id": clip_id, "classes": [names[label] for label in own], "probabilities": [float(given[label]) for label in own]}
        rows.append(row | {"top": names[top], "top_probability": float(given[top]), "loss": float(value)})
    return rows
