"""Measures what classifiers reach on the features of a frozen encoder: a linear one, nearest neighbours, and an attentive one.

Settings are chosen by cross-validation inside the training clips, as for the baselines; the held-out clips are used once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from avmae_jax.evals.baselines.baseline import rated
from avmae_jax.evals.baselines.classifiers import LOGISTIC, NEIGHBOURS
from avmae_jax.evals.baselines.cross_validation import Chosen, Family, Fit, Setting, cross_validated, fold_of_clips, fused, mean_precision
from avmae_jax.evals.baselines.labelled import Labelled, for_fitting, is_exclusive
from avmae_jax.inference.attentive import attentive
from avmae_jax.inference.token_features import TOKENS

Pool = Literal["mean", "mean_std"]


def _attentive(fit: Fit, setting: Setting) -> np.ndarray:
    return attentive(fit.features, fit.targets, fit.others, decay=setting["decay"], exclusive=fit.exclusive, seed=fit.seed)


ATTENTIVE = Family("attentive", tuple({"decay": decay} for decay in (3.0, 0.3, 0.03)), _attentive)
PROBES: Mapping[str, Family] = {"linear": LOGISTIC, "neighbours": NEIGHBOURS, "attentive": ATTENTIVE}
EXTENTS = ("whole", "centre")


def probe(
    train: Labelled,
    held_out: Labelled,
    label_names: Sequence[str],
    *,
    pool: Pool,
    probes: Sequence[str],
    extents: Sequence[str] = EXTENTS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measures probes on each kind of features, of the whole clips and of their centres.

    Args:
      train: with the features of inference/token_features.py.
      held_out: with the same features.
      label_names: of the classes.
      pool: "mean", or "mean_std": mean and deviation side by side.
      probes: of PROBES. "attentive" takes the tokens themselves, of the whole clip.
      extents: of EXTENTS.
      seed: of the folds and of the attentive probe.

    Returns:
      A row for each, as of baseline.measure, with "extent".

    Raises:
      DatasetError: if there is too little to fit a classifier to.
      ValueError: if no held-out clip has a class.
    """
    exclusive = is_exclusive(train, held_out)
    train = for_fitting(train, exclusive)
    folds, rows = fold_of_clips(train, seed), list[dict[str, Any]]()
    best: dict[str, tuple[str, Chosen]] = {}

    def add(given: str, name: str, extent: str, chosen: Chosen) -> None:
        words = {"name": f"{given}: {name}, {extent}", "given": given, "classifier": name, "extent": extent}
        rows.append({**words, **rated(chosen, train, held_out, label_names, exclusive)})
        if given not in best or mean_precision(chosen.folds, train.targets) > mean_precision(best[given][1].folds, train.targets):
            best[given] = name, chosen

    for given in [kind for kind in ("audio", "image", "both") if kind in {name.partition(".")[0] for name in train.features}]:
        for name, extent in [(choice, extent) for choice in probes for extent in extents_of(choice, given) if extent in extents]:
            features, others = (_features(part, given, extent, pool, name) for part in (train, held_out))
            fit = Fit(features, train.targets, others, exclusive, seed)
            add(given, name, extent, cross_validated(PROBES[name], fit, folds))
    if {"audio", "image"} <= best.keys():
        (first, audio), (second, image) = best["audio"], best["image"]
        add("both", f"product of {first} (audio) and {second} (image)", EXTENTS[0], fused([audio, image], train.targets, exclusive))
    return rows


def extents_of(name: str, given: str) -> tuple[str, ...]:
    """Returns which parts of a clip a probe is measured on; an image has one alone."""
    return EXTENTS[:1] if name == "attentive" or given == "image" else EXTENTS


def _features(clips: Labelled, given: str, extent: str, pool: Pool, name: str) -> np.ndarray:
    if name == "attentive":
        return clips.features[f"{given}.{TOKENS}"]
    parts = [clips.features[f"{given}.{extent}.{part}"] for part in pool.split("_")]
    return np.concatenate(parts, axis=1).astype(np.float64)


def probes_of(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the requested probes, each once; raises ValueError for an unknown one, or none."""
    if not names or not set(names) <= set(PROBES):
        raise ValueError(f"--probes is {', '.join(names)!r}; choose one or more of {', '.join(PROBES)}")
    return tuple(dict.fromkeys(names))
