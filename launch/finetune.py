"""Fine-tunes a classifier.

    python -m launch.finetune --config configs/finetune_instruments.py --config.init_from=runs/pretrain_instruments

`init_from` is a run of launch.pretrain, or a checkpoint of the original; empty, the classifier starts from nothing. The classes are
those of the data set. The run lives in `--config.train.workdir`, as one of launch.pretrain does, and the same command resumes it. Beside
its checkpoints, best/ holds the weights of the best evaluation, and averaged/ the mean of those of the epochs from tune.average_first to
tune.average_last.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, cast

from absl import app, flags, logging
from flax import nnx
from ml_collections import config_flags

from avmae_jax.checkpoint.manager import newest_meta
from avmae_jax.config import Config
from avmae_jax.errors import DatasetError, NonFiniteLossError
from avmae_jax.models.classifier import CAVMAEClassifier, Mode, modality_of
from avmae_jax.train.finetuning import FinetuningTask
from avmae_jax.train.loop import Trainer
from avmae_jax.train.snapshots import AVERAGED, set_aside
from avmae_jax.weights.init_from import initialise_from
from avmae_jax.weights.io import load_pretrained
from launch.common import model_flags, runtime
from launch.pretrain import claim_workdir, open_sources, pick_micro_batch


def finetune(config: Config) -> dict[str, Any] | None:
    """The whole run; what summary.json holds, or None if it was stopped before its end.

    Raises:
      DatasetError: if the data set has no classes, or the held-out clips have others.
      ValueError: if fields of the config don't go together.
    """
    begin = time.monotonic()
    if config.model.modality != "both":
        words = "leave it at both, and let tune.mode be audioonly or videoonly"
        raise ValueError(f"model.modality is {config.model.modality!r}, but a classifier is tuned on a CAV-MAE: {words}")
    workdir = claim_workdir(config)
    train, test = open_sources(config, modality_of(cast(Mode, config.tune.mode)))
    names = list(train.label_names)
    if not names:
        raise DatasetError("the training clips have no labels; prepare videos that lie in class folders, or a labelled list")
    if test is not None and list(test.label_names) != names:
        raise DatasetError(f"the held-out clips have other classes ({len(test.label_names)}) than the training clips ({len(names)})")
    logging.info("%d training clips of %d classes, %s held out", len(train), len(names), "none" if test is None else len(test))
    task = FinetuningTask(config, test, names)

    def make() -> CAVMAEClassifier:
        return CAVMAEClassifier(config.model, len(names), rngs=nnx.Rngs(config.train.seed))

    before = newest_meta(workdir / "checkpoints") or {}
    if not before:
        set_aside(workdir)
    micro_batch = pick_micro_batch(config, make, task.trainable(), before.get("micro_batch", 0), task.mode)
    model = make()
    if config.init_from and not before:
        initialise_from(model, config.init_from)
    trainer = Trainer(config, model, task, train, test, micro_batch=micro_batch)
    epochs = int((trainer.total_steps + 0.5) / trainer.steps_per_epoch)  # that end within the run, at the nearest step
    if config.tune.average_last > epochs:
        raise ValueError(f"tune.average_last is {config.tune.average_last}, but the run has {epochs} whole epochs; change one of them")
    with runtime.TrainingBar(config.train.log_every).shown() as bar:
        if not trainer.run(bar):
            return None
    summary = {"steps": trainer.step, "held_out": trainer.evaluate()}
    if test is not None and (workdir / AVERAGED).is_dir():
        summary["averaged"] = task.evaluate(load_pretrained(workdir / AVERAGED), dict)
    summary["seconds"] = round(time.monotonic() - begin, 1)
    (workdir / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def main(argv: list[str]) -> None:
    """Runs --config."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; settings are given as --config.train.batch_size=4")
    runtime.start()
    config: Config = _CONFIG.value
    try:
        config.model.validate()
        config.augment.validate()
        config.tune.validate()
        summary = finetune(config)
    except (*model_flags.USER_ERRORS, NonFiniteLossError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if summary:
        print(f"{summary['steps']} steps in {summary['seconds']:.0f} s")
        for name, key in (("held out", "held_out"), ("held out, mean of epochs", "averaged")):
            if found := summary.get(key):
                print(f"{name}: {', '.join(f'{field} {value:.4g}' for field, value in found.items())}")
        print(f"checkpoints and metrics are in {Path(config.train.workdir)}")


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "a file of configs/, such as configs/finetune_instruments.py", lock_config=True
    )
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=runtime.parse_flags)
