"""Studies how many labels it takes: tunes a recipe on few labelled clips from several starts, beside a probe and classical baselines.

For each seed the clips are drawn once, the same for every method, and fewer are among more (data/drawing.py). All held-out clips are the
test.
"""

import copy
import dataclasses
import functools
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.drawing import videos_by_class
from avmae_jax.data.sources import open_source
from avmae_jax.data.store.reader import ids_of, labels_of
from avmae_jax.errors import ConfigError, DatasetError
from avmae_jax.evals.baselines.baseline import measure, read_statistics_of
from avmae_jax.evals.baselines.labelled import Labelled
from avmae_jax.evals.baselines.probe import probe
from avmae_jax.evals.baselines.probe_features import edition_of, stored_features
from avmae_jax.evals.learning_curve import FIGURES, PICTURE, STUDY, Cell, StudyFile, curves
from avmae_jax.files import OnProgress, locked, plain, write_json
from avmae_jax.inference.token_features import TokenFeatures
from avmae_jax.models import registry
from avmae_jax.plots.learning_curve import draw_curves
from avmae_jax.settings import flatten_fields
from avmae_jax.train import hosts
from avmae_jax.train.continuing import FREE_FIELDS
from avmae_jax.train.determinism import prepare_devices
from avmae_jax.train.epochs import Epochs
from avmae_jax.train.loop import Reporter
from avmae_jax.train.run import finetune, needs_of, open_sources, require_task
from avmae_jax.train.snapshots import MEANS
from avmae_jax.trees import flatten
from avmae_jax.weights.init_from import initialise_from
from avmae_jax.weights.io import read_uncalibrated
from avmae_jax.weights.trained import load_uncalibrated

SCRATCH, PRETRAINED, PROBE, BASELINE = "scratch", "pretrained", "probe", "baseline"
_SET = ("init_from", "data.labelled_per_class", "data.labelled_seed", "train.seed")  # fields that the study itself sets for each training
_FEATURES, _CELLS = "features", "cells"  # folders
_NEVER = 10**9  # steps


class Study(NamedTuple):
    """Says what is studied."""

    config: Config  # the recipe of the trainings, with tune.mode
    starts: Mapping[str, str]  # method -> the weights that its trainings start from, "" for random ones
    probed: str  # the model whose frozen features are probed; "" leaves the probe out
    baseline: bool  # whether the classical baselines are measured
    labels: Sequence[int]  # labelled videos of each class
    seeds: int
    least_steps: int  # of a training; with few clips the recipe's epochs are too few
    out: Path  # folder

    @property
    def methods(self) -> list[str]:
        """Returns the names of all methods."""
        return [*self.starts, *([PROBE] if self.probed else []), *([BASELINE] if self.baseline else [])]


class _Clips(NamedTuple):
    """Holds the clips of a study."""

    train: ClipSource  # all that could be drawn
    held_out: ClipSource
    names: tuple[str, ...]

    def digest(self) -> dict[str, str]:
        """Identifies the clips by their ids and labels."""
        found: dict[str, str] = {}
        for name, source in (("train", self.train), ("held_out", self.held_out)):
            rows = [ids_of(source), [labels_of(source, index) for index in range(len(source))], self.names]
            found[name] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        return found


def study(wanted: Study, *, reporter: Reporter | None = None, on_progress: OnProgress = lambda *_: None) -> dict[str, Any] | None:
    """Measures the cells that study.json lacks, and draws its curves; several processes, see train/hosts.py, train each cell together.

    Args:
      wanted: what is studied.
      reporter: is called at every step of a training.
      on_progress: is called as clips are read for the probe and the baselines.

    Returns:
      The content of study.json: "settings", "weights" of each method, "draws" (the clips of each number of labels and seed) and "cells";
      None if a training was stopped by SIGTERM or Ctrl-C.

    Raises:
      AvmaeError: if data or weights can't be used, or study.json has cells of something else.
      ValueError: if fields of the config can't work together.
    """
    require_task(wanted.config, "classification")
    if wanted.config.train.steps:
        raise ConfigError(
            f"train.steps is {wanted.config.train.steps}; a study lengthens train.epochs for few clips, so give these instead"
        )
    prepare_devices(dataclasses.replace(wanted.config, train=dataclasses.replace(wanted.config.train, workdir=str(wanted.out))))
    with hosts.losses_explained(), ExitStack() as stack:
        hosts.require_same(study=wanted._asdict() | {"config": dataclasses.asdict(wanted.config), "out": str(wanted.out)})
        file: StudyFile | None = None  # of the first process, which alone writes
        with hosts.together():
            if hosts.is_first():
                stack.enter_context(locked(wanted.out))
            clips = _opened(wanted.config)
            labels = _labels_there(wanted.labels, clips.train)
            settings = {"config": _determining(wanted.config), "least_steps": wanted.least_steps, "clips": clips.digest()}
            weights = _fingerprints(wanted, len(clips.names))
            if hosts.is_first():
                file = StudyFile(wanted.out / STUDY, settings, weights)
            cells = [Cell(method, count, seed) for seed in range(wanted.seeds) for count in labels for method in wanted.methods]
        missing = [Cell(*cell) for cell in hosts.of_first([cell for cell in cells if file and file.get(cell) is None])]
        logging.info("%d of %d cells are measured already", len(cells) - len(missing), len(cells))
        drawn = functools.cache(lambda labels, seed: ids_of(_drawn(wanted.config, labels, seed)))
        finished = True
        for cell, measured in _measured(wanted, clips, missing, drawn, reporter, on_progress):
            finished = measured is not None
            if file and measured is not None:
                _note(file, cell, drawn(cell.labels, cell.seed), measured)
        if file and file.content["cells"]:
            draw_curves(wanted.out / PICTURE, {figure: curves(file.content, figure) for figure in FIGURES})
        content: dict[str, Any] = hosts.of_first(file and file.content)
        return content if finished else None


def _note(file: StudyFile, cell: Cell, ids: list[str], measured: dict[str, Any]) -> None:
    """Writes down what was measured of a cell."""
    file.add_draw(cell.labels, cell.seed, ids)
    file.add(cell, {"clips": len(ids), **measured})
    words = ", ".join(f"{name} {measured[name]:.3f}" for name in FIGURES if measured[name] is not None)
    logging.info("%s, %d labels a class, seed %d: %s", *cell, words)


def _opened(config: Config) -> _Clips:
    """Opens all clips; raises DatasetError unless they have labels and some are held out."""
    train, held_out = open_sources(_with_labels(config, 0, 0))
    if held_out is None:
        raise DatasetError("no clips are held out, on which a study could measure; prepare them with a greater --test_percent")
    if [*held_out.label_names] != [*train.label_names]:
        raise DatasetError(f"the held-out clips have {len(held_out.label_names)} classes, the training clips {len(train.label_names)}")
    return _Clips(train, held_out, tuple(train.label_names))


def _labels_there(labels: Iterable[int], train: ClipSource) -> list[int]:
    """Returns numbers of labels without those that would give the same clips once more; warns of them."""
    most = max(map(len, videos_by_class(train)))
    if more := [count for count in labels if count > most]:
        logging.warning("no class has more than %d labelled clips: %s is the same as %d", most, ", ".join(map(str, more)), most)
    return sorted({min(count, most) for count in labels})


def _determining(config: Config) -> dict[str, Any]:
    """Returns the fields of a config that change what is measured, by their dotted names."""
    free = {*FREE_FIELDS, *_SET} - {"train.epochs"}
    fields = flatten_fields(dataclasses.asdict(config))
    return {name: value for name, value in fields.items() if not any(f"{name}.".startswith(f"{other}.") for other in free)}


def _with_labels(config: Config, labels: int, seed: int) -> Config:
    changed = copy.deepcopy(config)
    changed.data.labelled_per_class, changed.data.labelled_seed = labels, seed
    return changed


def _drawn(config: Config, labels: int, seed: int) -> ClipSource:
    """Opens the training clips of a cell, as its training does."""
    return open_source(_with_labels(config, labels, seed).data, "train", needs_of(config))


def _fingerprints(wanted: Study, classes: int) -> dict[str, str]:
    """Identifies the weights of each method; raises WeightsError if some don't fit the recipe."""
    found: dict[str, str] = {}
    pretrained = wanted.probed or wanted.starts.get(PRETRAINED)
    if pretrained and (known := read_uncalibrated(pretrained)).classes:
        raise ValueError(f"{pretrained} is a classifier of {known.classes} classes, which has seen labels; give a run of launch.pretrain")
    for name, path in wanted.starts.items():
        model = registry.build(wanted.config.model, classes, rngs=nnx.Rngs(0))
        if path:
            initialise_from(wanted.config.model, model, path)
        found[name] = _fingerprint(model) if path else ""
    if wanted.probed:
        found[PROBE] = _fingerprint(load_uncalibrated(wanted.probed).module)
    return found | ({BASELINE: ""} if wanted.baseline else {})


def _fingerprint(model: Any) -> str:
    """Computes the SHA-256 of an encoder's parameters."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(nnx.state(model, nnx.Param)).items()):
        if name.startswith("encoder."):
            digest.update(name.encode() + np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _measured(
    wanted: Study,
    clips: _Clips,
    cells: Sequence[Cell],
    drawn: Callable[[int, int], list[str]],
    reporter: Reporter | None,
    on_progress: OnProgress,
) -> Iterator[tuple[Cell, dict[str, Any] | None]]:
    """Yields each cell with what is measured; ends after the first None, a training that was stopped.

    Those that take seconds come first. Of several processes the first one measures them alone, the others wait for it in the next training.
    """
    for method, features_of in ((BASELINE, _baseline_features), (PROBE, _probe_features)):
        if (own := [cell for cell in cells if cell.method == method]) and hosts.is_first():
            train, held_out = features_of(wanted, clips, on_progress)
            for cell in own:
                fitted_to = train.keep(np.flatnonzero(np.isin(train.ids, drawn(cell.labels, cell.seed))))
                yield cell, _classified(method, fitted_to, held_out, clips.names, cell.seed)
    for cell in cells:
        if cell.method in wanted.starts:
            measured = _tuned(wanted, cell, len(drawn(cell.labels, cell.seed)), reporter)
            yield cell, measured
            if measured is None:
                return


def _baseline_features(wanted: Study, clips: _Clips, on_progress: OnProgress) -> tuple[Labelled, Labelled]:
    given = needs_of(wanted.config)
    return read_statistics_of(clips.train, given, on_progress), read_statistics_of(clips.held_out, given, on_progress)


def _probe_features(wanted: Study, clips: _Clips, on_progress: OnProgress) -> tuple[Labelled, Labelled]:
    compute = TokenFeatures(load_uncalibrated(wanted.probed), "separate", needs_of(wanted.config))
    edition, folder = edition_of(wanted.config.data), wanted.out / _FEATURES
    train, held_out = (
        stored_features(folder / f"{name}.npz", compute, source, edition, on_progress)
        for name, source in (("train", clips.train), ("held_out", clips.held_out))
    )
    return train, held_out


def _classified(method: str, train: Labelled, held_out: Labelled, names: Sequence[str], seed: int) -> dict[str, Any]:
    """Measures the baseline or the linear probe that is best by cross-validation inside the drawn clips."""
    rows = (
        measure(train, held_out, names, seed)
        if method == BASELINE
        else probe(train, held_out, names, pool="mean_std", probes=["linear"], seed=seed)
    )
    best = plain(max(rows, key=lambda row: row["cross_validation"]["map"]))
    return {"classifier": best["name"], "setting": best["setting"], **{name: best[name] for name in (*FIGURES, "loss")}}


def _tuned(wanted: Study, cell: Cell, clips: int, reporter: Reporter | None) -> dict[str, Any] | None:
    """Trains a cell and returns what it reaches on the held-out clips; None if it was stopped, and its folder resumes it."""
    config = lengthened(_with_labels(wanted.config, cell.labels, cell.seed), clips, wanted.least_steps)
    folder = wanted.out / _CELLS / cell.name
    config.init_from, config.train.seed, config.train.workdir = wanted.starts[cell.method], cell.seed, str(folder)
    config.train.eval_every = config.train.checkpoint_every = _NEVER  # but at the end
    config.train.checkpoint_minutes = 0.0
    logging.info("%s with %d labels a class, seed %d", *cell)
    summary = finetune(config, reporter=reporter)
    if summary is None:
        return None
    if hosts.is_first():
        write_json(folder.with_suffix(".json"), summary)
        shutil.rmtree(folder)
    weights = next((name for name in MEANS if name in summary), "held_out")
    loss = next(value for name, value in summary[weights].items() if name.startswith("loss"))
    figures = {name: summary[weights].get(name) for name in FIGURES} | {"loss": loss}
    return {"weights": weights, "steps": summary["steps"], "seconds": summary["seconds"], **figures}


def lengthened(config: Config, clips: int, least_steps: int) -> Config:
    """Returns a recipe for so many clips whose epochs, decays and averaged epochs are multiplied, so that it has the least steps."""
    config, per_epoch = copy.deepcopy(config), clips / config.train.batch_size
    factor = max(1.0, least_steps / (config.train.epochs * per_epoch))
    config.train.epochs *= factor
    optim, tune = config.optim, config.tune
    optim.decay_start, optim.decay_every = round(optim.decay_start * factor), max(1, round(optim.decay_every * factor))
    if tune.average_last:
        epochs = Epochs(per_epoch)
        tune.average_last = min(math.floor(tune.average_last * factor), epochs.within(epochs.total_steps(config.train)))
        first = math.floor((tune.average_first - 1) * factor) + 1
        first = epochs.ended_at(max(1, round(first * per_epoch)))  # of epochs shorter than a step, one that is seen to end
        tune.average_first = min(first, tune.average_last)
    return config
