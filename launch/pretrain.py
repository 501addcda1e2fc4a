"""Pretrains CAV-MAE: `python -m launch.pretrain --config configs/base.py [--config.train.batch_size=4 ...]`.

The run lives in `--config.train.workdir`: config.json, checkpoints/, metrics.jsonl, tensorboard/, pictures/ and, at the end, summary.json.
The same command resumes a run that was stopped or killed.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
from absl import app, flags, logging
from flax import nnx
from ml_collections import config_flags

from avmae_jax.checkpoint.manager import newest_meta
from avmae_jax.config import Config, Modality
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.sources import open_source
from avmae_jax.errors import NonFiniteLossError
from avmae_jax.models.classifier import Mode
from avmae_jax.plots import curves
from avmae_jax.train import memory, optim, sharding
from avmae_jax.train.logbook import METRICS_FILE
from avmae_jax.train.loop import Trainer
from avmae_jax.train.pretraining import make_model, make_task
from avmae_jax.weights.init_from import initialise_from
from launch.common import model_flags, runtime

_LONG_STEP = 20.0  # seconds from which a CPU user is pointed to the tiny config


def open_sources(config: Config, needs: Modality) -> tuple[ClipSource, ClipSource | None]:
    """Training and held-out clips that have what is needed; the built-in set is generated first where it is not there yet."""
    with runtime.progress_bar("generating instruments") as on_progress:
        train = open_source(config.data, "train", needs, on_progress=on_progress)
    if config.data.source == "manifest" and not config.data.eval_path:
        logging.info("data.eval_path is empty: no evaluation, no pictures, no retrieval")
        return train, None
    return train, open_source(config.data, "test", needs)


def pick_micro_batch(config: Config, make: Callable[[], nnx.Module], trained: Any, before: int = 0, mode: Mode | None = None) -> int:
    """Pairs computed at once; says so where a step has to be split.

    `make` makes the model, `trained` is the filter of the parameters that are trained, `mode` is a classifier's.

    `train.micro_batch` comes first, then the size that the run to be resumed had `before`, if the devices can share it, and only then what
    fits in memory: what is free changes from moment to moment, and another size is another set of negatives.
    """
    groups = sharding.batch_shards(sharding.make_mesh(config.mesh))
    params = nnx.eval_shape(lambda: nnx.state(make(), nnx.Param))
    batch, available = config.train.batch_size, memory.usable_memory()
    if micro_batch := config.train.micro_batch:
        reason = "as train.micro_batch says"
    elif before and batch % before == 0 and before % groups == 0:
        micro_batch, reason = before, "as in the run that is resumed; train.micro_batch changes it"
    else:
        micro_batch = memory.choose_micro_batch(config.model, params, batch, groups, available, mode)
        reason = f"{available / 2**30:.1f} GiB a device may be used"
    memory.require_even(batch, micro_batch, groups)
    if micro_batch < batch:
        logging.info(
            "a step of %d pairs is computed as %d micro-batches of %d (%s)%s",
            batch, batch // micro_batch, micro_batch, reason, "" if mode else "; negatives come from one micro-batch",
        )  # fmt: skip
    trained = sum(leaf.size for leaf in jax.tree.leaves(nnx.filter_state(params, trained)))
    logging.info("%.1f M parameters are trained", trained / 1e6)
    return micro_batch


def announce(config: Config) -> None:
    """What the run runs on and how long a step will take; on a slow machine, what to run instead."""
    logging.info("%s on %s", config.name, runtime.device_line())
    flops = memory.step_flops(config.model) * config.train.batch_size
    speed = memory.matmul_speed() * jax.device_count()
    seconds = flops / speed
    logging.info(
        "a step of %d pairs takes about %.2g s: %.3g GFLOP at the %.0f GFLOP/s that a matrix product reaches here",
        config.train.batch_size, seconds, flops / 1e9, speed / 1e9,
    )  # fmt: skip
    if jax.default_backend() == "cpu" and seconds > _LONG_STEP:
        logging.info("this is a run for GPUs; to see the whole job on a CPU in minutes: python -m launch.pretrain --config configs/tiny.py")


def claim_workdir(config: Config) -> Path:
    """Makes the run's folder and writes config.json into it.

    Raises:
      ValueError: if it can't be made or written, or holds something that is no run.
    """
    workdir = Path(config.train.workdir).expanduser()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        note = workdir / "config.json"
        if any(workdir.iterdir()) and not note.exists():
            raise ValueError(f"train.workdir {workdir} is not empty and holds no run; choose another folder")
        (workdir / "pictures").mkdir(exist_ok=True)
        if not any((workdir / "checkpoints").glob("*")):  # once there is one, a config that doesn't fit it will be refused
            note.write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"train.workdir {workdir} can't be used: {error}; choose another folder") from error
    return workdir


def pretrain(config: Config) -> dict[str, Any] | None:
    """The whole run; what summary.json holds, or None if it was stopped before its end."""
    begin = time.monotonic()
    workdir = claim_workdir(config)
    announce(config)
    before = newest_meta(workdir / "checkpoints") or {}
    make = partial(make_model, config.model, config.train.seed)
    micro_batch = pick_micro_batch(config, make, optim.trainable(config.model), before.get("micro_batch", 0))
    train, test = open_sources(config, cast(Modality, config.model.modality))
    logging.info("%d training clips, %s held out", len(train), "none" if test is None else len(test))
    task = make_task(config, test, workdir)
    model = make()
    if config.init_from and not before:
        initialise_from(model, config.init_from)
    trainer = Trainer(config, model, task, train, test, micro_batch=micro_batch)
    with runtime.TrainingBar(config.train.log_every).shown() as bar:
        finished = trainer.run(bar)
    guessed_among = micro_batch // (trainer.groups if config.loss.negatives == "shard" else 1)
    curves.loss_curves(workdir / "pictures" / "loss_curves.png", workdir / METRICS_FILE, batch_size=guessed_among)
    if not finished:
        return None
    summary = {
        "steps": trainer.step,
        "seconds": round(time.monotonic() - begin, 1),
        "held_out": trainer.evaluate(),
        "retrieval": task.retrieve(trainer.model, config.train.retrieval_clips),
    }
    (workdir / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def report(summary: dict[str, Any], workdir: str) -> None:
    """The result in a few lines."""
    losses = ", ".join(f"{name} {value:.4f}" for name, value in summary["held_out"].items())
    print(f"{summary['steps']} steps in {summary['seconds']:.0f} s; held out: {losses or 'nothing'}")
    if retrieval := summary["retrieval"]:
        for name in ("audio_to_image", "image_to_audio"):
            shares = ", ".join(f"R@{k} {retrieval[f'{name}_r{k}']:.1%}" for k in (1, 5, 10))
            ties = f", {retrieval[f'{name}_ties']:.0f} ties" if retrieval[f"{name}_ties"] else ""
            print(f"{name.replace('_', ' ')}: {shares} of {retrieval['clips']:.0f} (chance of R@1: {1 / retrieval['clips']:.1%}){ties}")
    print(f"checkpoints, metrics and pictures are in {workdir}")


def main(argv: list[str]) -> None:
    """Runs --config."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; settings are given as --config.train.batch_size=4")
    runtime.start()
    try:
        config: Config = _CONFIG.value
        config.model.validate()
        config.augment.validate()
        summary = pretrain(config)
    except (*model_flags.USER_ERRORS, NonFiniteLossError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if summary:
        report(summary, config.train.workdir)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/, such as configs/tiny.py", lock_config=True)
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=runtime.parse_flags)
