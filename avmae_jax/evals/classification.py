"""How good a classifier is on labelled clips: figures of the whole, of each class and of each clip, with pictures, in one folder.

Which classes have no figure, and are left out of the means, see class_figures.py.

Axis letters: N clips, C classes.
"""

import dataclasses
import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from avmae_jax.data.batches import Frames
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.evals.scores import Evaluation, clip_losses, measure
from avmae_jax.files import write_json
from avmae_jax.inference.forward import BATCH, Classify, Scores
from avmae_jax.models.classifier import CAVMAEClassifier, Mode, modality_of
from avmae_jax.plots import classification
from avmae_jax.plots.classification import Mistake
from avmae_jax.weights.trained import Trained

SHOWN_MISTAKES = 8
PICTURES = ("precision_recall.png", "confusion.png", "mistakes.png")  # of a view, in the order in which they are drawn
_LIBRARIES = ("avmae-jax", "flax", "jax", "numpy", "scipy")


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


def evaluate_views(
    out: Path, trained: Trained, source: ClipSource, modes: Sequence[Mode], frames: Sequence[Frames], **options: Any
) -> list[dict[str, Any]]:
    """Evaluates a classifier in several modes with several choices of frames, each view in OUT/MODE_FRAMES, and all in OUT/evaluation.json.

    A mode that sees no picture is asked once. The JSON is written anew as soon as a view is measured: after a failure it has the views that
    are done, none of an earlier evaluation beside them, and the names of those that are lacking.

    Args:
      out: the folder; made if need be.
      trained: a CAVMAEClassifier.
      source: labelled clips with what all modes look at.
      modes: what the classifier is given.
      frames: see evaluate_into.
      **options: crops, batch_size, data and split; see evaluate_into.

    Returns:
      What the JSON has as "views": each with its name as "view", and what evaluate_into returns.

    Raises:
      ValueError: see evaluate_into.
      OSError: likewise.
    """
    trained = dataclasses.replace(trained, label_names=label_names_for(trained, source))
    wanted: list[tuple[Mode, Frames]] = [
        (mode, shown) for mode in modes for shown in (frames if modality_of(mode) != "audio" else frames[:1])
    ]
    names, views = [f"{mode}_{shown}" for mode, shown in wanted], list[dict[str, Any]]()
    head = {"model": trained.path, "step": trained.step, "data": options.get("data", ""), "split": options.get("split", "")}

    def add(name: str, result: dict[str, Any]) -> None:
        views.append({"view": name, **result})
        write_json(out / "evaluation.json", {**head, "views": views, "lacking": names[len(views) :]})

    for name, (mode, shown) in zip(names, wanted, strict=True):
        logging.info("%s, frames: %s, crops: %d; %d clips", mode, shown, options.get("crops", 1), len(source))
        evaluate_into(out / name, trained, source, mode=mode, frames=shown, on_measured=partial(add, name), **options)
    return views


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
    on_measured: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluates one view, and writes evaluation.json and pictures into a folder.

    The pictures are precision_recall.png, mistakes.png and, where each clip has one class, confusion.png. They are drawn when the numbers
    are written, and those of an earlier evaluation are gone by then.

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
      on_measured: called with what is returned, before the pictures are drawn.

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
    head = {"model": trained.path, "step": trained.step, "data": data, "split": split}
    head |= {"mode": classify.mode, "frames": frames, "crops": crops, "damaged_clips": len(source) - found.clips}
    left_out = {"classes_left_out": len(found.no_positive), "classes_without_auc": len(found.no_positive) + len(found.no_negative)}
    figures = {name: value for name, value in dataclasses.asdict(found).items() if name != "confusion"}
    table = None if found.confusion is None else found.confusion.tolist()
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    clips = {"confusion": table, "ids": scores.ids, "per_clip": _per_clip(scores, names, loss), "versions": versions}
    result = plain({**head, **left_out, "label_names": names, **figures, **clips})
    for picture in PICTURES:
        (out / picture).unlink(missing_ok=True)  # of another evaluation
    write_json(out / "evaluation.json", result)
    on_measured(result)
    _draw(out, view, scores, found, names, source, loss)
    return result


def _draw(out: Path, view: str, scores: Scores, found: Evaluation, names: Sequence[str], source: ClipSource, loss: str) -> None:
    """The pictures of a view."""
    classification.precision_recall(out / PICTURES[0], scores.probabilities, scores.targets, names, heading=view)
    if found.confusion is not None:
        classification.confusion(out / PICTURES[1], found.confusion, names, heading=f"{view}: accuracy {found.accuracy:.1%}")
    worst = _worst(scores, loss)
    mistakes = [_mistake(scores, index, names, _clip(source, index, scores.ids[index])) for index in worst[:SHOWN_MISTAKES]]
    classification.mistakes(out / PICTURES[2], mistakes, heading=f"{view}: {len(worst)} of {found.clips} clips mistaken")


def plain(value: Any) -> Any:
    """A value as JSON has it: None in place of what isn't finite, lists in place of tuples."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
