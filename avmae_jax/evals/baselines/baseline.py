"""Measures classical baselines on labelled clips: what a model must beat to be worth its training.

Each is fitted to the training clips, with settings chosen by cross-validation inside them, and applied once to the held-out clips.
"""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from absl import logging

from avmae_jax.config import Modality
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.text_files import read_json
from avmae_jax.errors import DatasetError, first_line
from avmae_jax.evals.baselines.classifiers import FOREST, LOGISTIC
from avmae_jax.evals.baselines.clip_statistics import clip_statistics
from avmae_jax.evals.baselines.cross_validation import Chosen, Fit, cross_validated, fold_of_clips, fused, mean_precision
from avmae_jax.evals.baselines.labelled import Labelled, for_fitting, is_exclusive, read_labelled, warning_of
from avmae_jax.evals.intervals import intervals, shown
from avmae_jax.evals.scores import evaluate_scores
from avmae_jax.evals.views import mode_title
from avmae_jax.files import OnProgress, plain, write_json
from avmae_jax.inference.forward import Scores
from avmae_jax.models.modes import find_mode

BASELINE = "baseline.json"
FIGURES = ("map", "auc", "d_prime", "accuracy", "top_5_accuracy", "loss")  # of a baseline, as of a view
FAMILIES = (LOGISTIC, FOREST)
_FEATURES = {"audio": "cosine coefficients of the log-mel", "image": "colours and gradients of the image"}
_WORDS = {"map": "mAP", "accuracy": "accuracy"}
_NO = "The model doesn't beat"


def modalities_of(given: Modality) -> tuple[str, ...]:
    """Returns the modalities that clips with `given` have."""
    return ("audio", "image") if given == "both" else (given,)


def read_statistics_of(source: ClipSource, given: Modality, on_progress: OnProgress) -> Labelled:
    """Computes the statistics of all clips of a source; raises as read_labelled."""

    def describe(clip: Clip) -> Mapping[str, np.ndarray]:
        return {modality: clip_statistics(clip, modality) for modality in modalities_of(given)}

    return read_labelled(source, describe, on_progress)


def measure(train: Labelled, held_out: Labelled, label_names: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Measures every baseline that the features allow.

    Args:
      train: with features "audio", "image" or both.
      held_out: with the same features.
      label_names: of the classes.
      seed: of the folds and the forests.

    Returns:
      For each baseline its "name", what it is "given", "features", "classifier", "setting", the figures of "cross_validation" inside the
      training clips, and those of the held-out clips, as of scores.Evaluation.

    Raises:
      DatasetError: if there is too little to fit a classifier to.
      ValueError: if no held-out clip has a class.
    """
    exclusive = is_exclusive(train, held_out)
    train = for_fitting(train, exclusive)
    folds = fold_of_clips(train, seed)
    figures = functools.partial(rated, train=train, held_out=held_out, label_names=label_names, exclusive=exclusive)
    rows, best = list[dict[str, Any]](), dict[str, tuple[str, Chosen]]()
    for modality, values in train.features.items():
        fit = Fit(values, train.targets, held_out.features[modality], exclusive, seed)
        found = {family.name: cross_validated(family, fit, folds) for family in FAMILIES}
        for name, chosen in found.items():
            rows.append({"given": modality, "features": _FEATURES[modality], "classifier": name, **figures(chosen)})
        best[modality] = max(found.items(), key=lambda item: mean_precision(item[1].folds, train.targets))
    if len(best) == 2:
        (first, second), parts = (name for name, _ in best.values()), [chosen for _, chosen in best.values()]
        words = f"product of {first} (audio) and {second} (image)"
        rows.append(
            {
                "given": "both",
                "features": " and ".join(_FEATURES.values()),
                "classifier": words,
                **figures(fused(parts, train.targets, exclusive)),
            }
        )
    return [{"name": f"{row['given']}: {row['classifier']}", **row} for row in rows]


def rated(chosen: Chosen, train: Labelled, held_out: Labelled, label_names: Sequence[str], exclusive: bool) -> dict[str, Any]:
    """Computes the figures of a chosen classifier: the setting, "cross_validation", and those of the held-out clips."""
    parts = ((train, chosen.folds), (held_out, chosen.held_out))
    scores = [Scores(part.ids, found, part.targets.astype(np.float32)) for part, found in parts]
    inside, outside = (evaluate_scores(part, label_names, "ce" if exclusive else "bce") for part in scores)
    figures = {name: value for name, value in dataclasses.asdict(outside).items() if name != "confusion"} | intervals(scores[1])
    cross_validation = {"map": inside.map, "accuracy": inside.accuracy, **intervals(scores[0])}
    return {"setting": dict(chosen.setting), "cross_validation": cross_validation, **figures}


def baseline_into(
    path: Path, train: ClipSource, held_out: ClipSource, given: Modality, *, data: str, seed: int, on_progress: OnProgress
) -> dict[str, Any]:
    """Measures the baselines and writes them to a JSON file.

    Args:
      path: the file; one that exists is replaced.
      train: labelled clips.
      held_out: other clips of the same classes.
      given: what all of these clips have.
      data: the name of the data set in the file.
      seed: of the folds and the forests.
      on_progress: is called as clips are read, the training clips first.

    Returns:
      What the file holds: "data", "given", "seed", "label_names", "warning", "train_ids", "ids" of the held-out clips, "versions", and
      "baselines" as of measure.

    Raises:
      DatasetError, ValueError: as measure and read_labelled.
      WriteError: if the file can't be written.
    """
    names = tuple(train.label_names)
    fitted_to, others = (read_statistics_of(source, given, on_progress) for source in (train, held_out))
    warning = warning_of(fitted_to, others, names)
    if warning:
        logging.warning("%s", warning)
    result = plain(
        {
            "data": data,
            "given": given,
            "seed": seed,
            "label_names": names,
            "warning": warning or None,
            "baselines": measure(fitted_to, others, names, seed),
            "train_ids": fitted_to.ids,
            "ids": others.ids,
            "versions": {name: importlib.metadata.version(name) for name in ("avmae-jax", "numpy", "scikit-learn", "scipy")},
        }
    )
    write_json(path, result)
    return result


def read_baselines(data: str, run: Path | None, given: str = "") -> dict[str, Any] | None:
    """Reads what baseline_into wrote of a data set.

    Args:
      data: the folder of the data set, or another name.
      run: the folder of a run, where the file is if the data set has no folder.
      given: the file, if the user names it.

    Returns:
      What the file holds; None if there is none and none is named.

    Raises:
      DatasetError: if it can't be used, or the one that is named isn't there.
    """
    folders = [*([Path(data).expanduser()] if data else []), *([run] if run else [])]
    places = [Path(given).expanduser()] if given else [path for folder in folders if (path := folder / BASELINE).is_file()]
    if not places:
        return None
    path = places[0]
    content = read_json(path)
    try:
        for row in content["baselines"]:
            if not isinstance(row["name"], str) or row["given"] not in get_args(Modality):
                raise TypeError(f"it has a baseline {row['name']!r} given {row['given']!r}")
            if wrong := [name for name in FIGURES if not isinstance(row[name], int | float | None)]:
                raise TypeError(f"{wrong[0]} of {row['name']!r} is no number")
        if not all(isinstance(name, str) for name in (*content["ids"], *content["label_names"])):
            raise TypeError("its ids or label_names are no texts")
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} isn't a file of launch.baseline, or is damaged: {first_line(error)}; run launch.baseline again"
        ) from error
    return content


def best_for(view: Mapping[str, Any], baselines: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Finds the best baselines that take nothing but what a view of a classifier is given.

    Returns:
      "map" and "accuracy" -> the baseline where it is highest, as far as it is known; {} unless clips and classes are the same.
    """
    given = find_mode(view["mode"]).given
    if set(view["ids"]) != set(baselines["ids"]) or set(view["label_names"]) != set(baselines["label_names"]):
        return {}
    fitting = [row for row in baselines["baselines"] if given in ("both", row["given"])]
    known = {name: [row for row in fitting if row[name] is not None] for name in ("map", "accuracy")}
    return {name: max(rows, key=lambda row: row[name]) for name, rows in known.items() if rows}


def verdict(view: Mapping[str, Any], best: Mapping[str, Mapping[str, Any]]) -> str:
    """Says whether a view of a classifier beats the baselines of best_for: its mAP must be above each, its accuracy below none."""
    known = {name: row for name, row in best.items() if view[name] is not None}
    beats = "map" in known and view["map"] > known["map"]["map"] and all(view[name] >= row[name] for name, row in known.items())
    figures = (f"{_WORDS[name]} {shown(view, name)} against {shown(row, name)} of {row['name']}" for name, row in known.items())
    return f"{'The model beats' if beats else _NO} the baselines ({mode_title(str(view['mode']))}): {', '.join(figures)}"
