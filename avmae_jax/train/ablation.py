"""Compares ways of pretraining that differ in one thing each: the same clips, the same seconds of training, several seeds.

The rows begin with CAV-MAE and end with all that CAV-MAE Sync and the dual path add; each row has what the row above it has, and one thing
more. How many steps a row gets follows from how long its steps take here, measured before, in turns with the other rows.
"""

import copy
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from avmae_jax.config import Config, DataConfig
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.sources import open_source
from avmae_jax.data.text_files import read_json
from avmae_jax.errors import ConfigError, DatasetError
from avmae_jax.evals.baselines.labelled import Labelled
from avmae_jax.evals.baselines.probe import probe
from avmae_jax.evals.baselines.probe_features import computed_features
from avmae_jax.evals.pair_ranking import rank_clips
from avmae_jax.files import locked, write_json
from avmae_jax.inference.embed import DatasetEmbedder
from avmae_jax.inference.token_features import TokenFeatures
from avmae_jax.models.cavmae import MODALITIES
from avmae_jax.models.registry import kind_of
from avmae_jax.plots.ablation import draw_ablation
from avmae_jax.train.loop import Reporter
from avmae_jax.train.run import pretrain
from avmae_jax.weights.trained import Trained, load_uncalibrated

ABLATION, PICTURE = "ablation.json", "ablation.png"
FIGURES = ("one_audio_to_image", "one_image_to_audio", "all_audio_to_image", "all_image_to_audio", "reconstruction", "probe")
_NEVER = 10**9  # steps
_PARTS = 4  # micro-batches of the rows whose negatives come from one of them
_TIMED, _FIRST = 16, 4  # steps of a measurement of the speed, and those before it that aren't counted
_TURNS = 2
_LABELLED = 24  # clips of each class that the probe is fitted to

Change = Callable[[Config], None]


class Row(NamedTuple):
    """Is one line of the table: what is changed of the line above it."""

    name: str
    change: Change


class Ablation(NamedTuple):
    """Says what is compared."""

    config: Config  # the recipe of a CAV-MAE Sync, of which each row changes some fields
    rows: Sequence[str]  # names of ROWS
    seconds: float  # of training, without compiling and evaluating
    seeds: int
    out: Path  # folder


def _cavmae(config: Config) -> None:
    model = config.model
    model.kind, model.class_token, model.registers, model.contrast_depth = "cavmae", False, 0, 0
    model.audio_frames, model.clip_frames, model.window_rate = model.spectrogram_frames, 0, 100.0
    _local(config)


def _local(config: Config) -> None:
    config.loss.bidirectional, config.loss.negatives = False, "micro_batch"
    config.loss.contrast_pass, config.loss.contrast_order, config.loss.distill_weight = False, "random", 0.0
    config.train.micro_batch = config.train.batch_size // _PARTS


def _symmetric(config: Config) -> None:
    config.loss.bidirectional = True


def _global(config: Config) -> None:
    config.loss.negatives, config.train.micro_batch = "global", config.train.batch_size


def _second_pass(config: Config) -> None:
    config.loss.contrast_pass = True


def _teacher(config: Config) -> None:
    config.loss.contrast_order = "attention"


def _distilled(config: Config) -> None:
    config.loss.distill_weight = 0.1


ROWS = (
    Row("CAV-MAE", _cavmae),
    Row("Sync", _local),
    Row("+ symmetric loss", _symmetric),
    Row("+ global negatives", _global),
    Row("+ second pass", _second_pass),
    Row("+ teacher's order", _teacher),
    Row("+ distillation", _distilled),
)


def config_of(base: Config, name: str) -> Config:
    """Returns the config of a row: the recipe with the changes of this row and of those between it and "Sync".

    Raises:
      ConfigError: if there is no such row, or the recipe isn't one of pairs whose batch can be cut.
    """
    names = [row.name for row in ROWS]
    if name not in names:
        raise ConfigError(f"there is no row {name!r}; choose of {', '.join(names)}")
    if not kind_of(base.model).pairs or base.train.batch_size % _PARTS:
        raise ConfigError(
            f"model.kind is {base.model.kind!r} and train.batch_size {base.train.batch_size}; an ablation needs kind sync, and a "
            f"batch that is a multiple of {_PARTS}"
        )
    config, number = copy.deepcopy(base), names.index(name)
    for row in ROWS[:1] if number == 0 else ROWS[1 : number + 1]:
        row.change(config)
    config.name = name
    return config


def ablate(wanted: Ablation, *, reporter: Reporter | None = None) -> dict[str, Any] | None:
    """Trains and measures what ablation.json in the folder lacks, and draws its picture.

    Args:
      wanted: what is compared.
      reporter: is called at every step of a training.

    Returns:
      The content of ablation.json: "settings", "steps" of each row, and "cells", each with "row", "seed" and FIGURES; None if a training
      was stopped by SIGTERM or Ctrl-C.

    Raises:
      AvmaeError: if data can't be used, or ablation.json has cells of something else.
      ValueError: if fields of the config can't work together.
    """
    configs = {name: config_of(wanted.config, name) for name in wanted.rows}
    with locked(wanted.out):
        file = wanted.out / ABLATION
        settings = json.loads(json.dumps({"config": dataclasses.asdict(wanted.config), "seconds": wanted.seconds}))
        content = _known(file, settings)
        lacking = [name for name in configs if name not in content["steps"]]
        if (speeds := _step_seconds(configs, lacking, wanted.out)) is None:
            return None
        content["steps"] |= {name: max(1, round(wanted.seconds / seconds)) for name, seconds in speeds.items()}
        write_json(file, content)
        for seed in range(wanted.seeds):
            for name, config in configs.items():
                if any((cell["row"], cell["seed"]) == (name, seed) for cell in content["cells"]):
                    continue
                measured = _measured(config, content["steps"][name], seed, wanted.out, reporter)
                if measured is None:
                    return None
                content["cells"].append({"row": name, "seed": seed, **measured})
                write_json(file, content)
        draw_ablation(wanted.out / PICTURE, table_of(content))
    return content


def table_of(content: Mapping[str, Any]) -> dict[str, dict[str, tuple[float, float]]]:
    """Averages the cells over the seeds: row -> figure -> (mean, standard deviation, 0 of a single seed)."""
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for row in ROWS:
        if cells := [cell for cell in content["cells"] if cell["row"] == row.name]:
            values = {figure: [cell[figure] for cell in cells if cell[figure] is not None] for figure in FIGURES}
            table[row.name] = {f: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0) for f, v in values.items() if v}
    return table


def _known(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of the file, or an empty one; raises DatasetError if it was made with other settings."""
    if not file.exists():
        return {"settings": settings, "steps": {}, "cells": []}
    content = read_json(file)
    if not isinstance(content, dict) or not all(isinstance(content.get(name), kind) for name, kind in (("steps", dict), ("cells", list))):
        raise DatasetError(f"{file} isn't a file of launch.ablation, or is damaged; move it away")
    if content.get("settings") != settings:
        raise DatasetError(f"{file} has cells of another recipe, other data or other seconds; give another folder")
    return content


class _Clock:
    """Notes when each step ends: a Reporter."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def start(self, first: int, total: int) -> None:
        """Does nothing."""

    def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
        """Notes the time."""
        self.times.append(time.perf_counter())

    def doing(self, what: str) -> None:
        """Does nothing."""


def _step_seconds(configs: Mapping[str, Config], names: Sequence[str], out: Path) -> dict[str, float] | None:
    """Measures how long a step of each row takes: the median over short trainings, in turns; None if one was stopped."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(_TURNS):
        for name in names:
            clock, folder = _Clock(), out / "speed"
            summary = _train(configs[name], _FIRST + _TIMED, 0, folder, clock)
            shutil.rmtree(folder)  # a resumed one would begin with other steps
            if summary is None:
                return None
            seconds[name] += np.diff(clock.times)[_FIRST:].tolist()
    found = {name: float(np.median(values)) for name, values in seconds.items()}
    for name, value in found.items():
        logging.info("a step of %s takes %.3f s", name, value)
    return found


def _train(config: Config, steps: int, seed: int, folder: Path, reporter: Reporter | None) -> dict[str, Any] | None:
    """Trains a row, or resumes it; returns its summary, or None if it was stopped."""
    config = copy.deepcopy(config)
    config.train.steps, config.train.seed, config.train.workdir = steps, seed, str(folder)
    config.train.eval_every = config.train.checkpoint_every = _NEVER  # but at the end
    config.train.retrieval_clips = 0
    return pretrain(config, reporter=reporter)


def _measured(config: Config, steps: int, seed: int, out: Path, reporter: Reporter | None) -> dict[str, Any] | None:
    """Trains a cell and measures it on the held-out clips; None if it was stopped, and its folder resumes it."""
    folder = out / "cells" / f"{config.name.replace(' ', '_')}_{seed}"
    logging.info("%s, seed %d: %d steps", config.name, seed, steps)
    summary = _train(config, steps, seed, folder, reporter)
    if summary is None:
        return None
    trained, losses = load_uncalibrated(folder), summary["held_out"]
    if not losses:
        raise DatasetError("no clips are held out, on which an ablation could measure; prepare them with a greater --test_percent")
    measured = {"steps": steps, "reconstruction": sum(losses[f"mae_{modality}"] for modality in MODALITIES)}
    measured |= _retrieval(trained, open_source(config.data, "test", "both")) | {"probe": _probed(trained, config.data)}
    shutil.rmtree(folder)
    return measured


def _retrieval(trained: Trained, held_out: ClipSource) -> dict[str, float]:
    """Computes R@1 among all held-out clips in both directions, by one frame of each clip and by all."""
    found: dict[str, float] = {}
    for frames in ("one", "all"):
        parts = list(DatasetEmbedder(trained, MODALITIES, frames=frames)(held_out))
        vectors = {kind: np.concatenate([part.vectors[kind] for part in parts]) for kind in MODALITIES}
        found |= {f"{frames}_{name}": ranked.figures["r1"] for name, ranked in rank_clips(vectors).items()}
    return found


def _probed(trained: Trained, data: DataConfig) -> float | None:
    """Computes the accuracy, or the mean average precision, of a linear probe on frozen features; None without classes.

    It is fitted to the statistics of the tokens of both modalities, of few labelled clips: with many of them all rows would come close.
    """
    few = dataclasses.replace(data, labelled_per_class=_LABELLED)
    train, held_out = (open_source(few, split, "both") for split in ("train", "test"))
    if not train.label_names:
        return None
    compute = TokenFeatures(trained, "separate", "both")
    parts = [_of_both(computed_features(compute, source, lambda *_: None)) for source in (train, held_out)]
    (row,) = probe(parts[0], parts[1], list(train.label_names), pool="mean_std", probes=["linear"], extents=["whole"])
    return row["map"] if row["accuracy"] is None else row["accuracy"]


def _of_both(clips: Labelled) -> Labelled:
    return dataclasses.replace(clips, features={name: values for name, values in clips.features.items() if name.startswith("both.")})
