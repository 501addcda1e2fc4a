"""Runs a whole training from a config: what launch.pretrain and launch.finetune do, callable from Python.

How a run starts is decided here, and nowhere else. The order matters. Of several processes, see train/hosts.py, each does all of it, and
what they must agree on is that of the first one:

  1. What train.deterministic needs is set before JAX starts its devices. The config is compared in all processes and checked, before a
     file is written or a clip is generated.
  2. The folder is claimed and locked: nobody else trains in it, and it holds a run or nothing. environment.json and log.txt begin.
  3. Its newest checkpoint is looked up. If there is one, steps 5 and 7 leave the run's own files and weights alone.
  4. The data is opened, and the task defined; a classifier's classes are those of the data. Where the config leaves mean, deviation or
     channels of the audio open, they are those of the checkpoint or of the data set; a dtype that it leaves open is that of the checkpoint
     or of the devices.
  5. Without a checkpoint, best/, averaged/ and ema/ of an earlier try are set aside.
  6. The micro-batch is chosen: train.micro_batch, else that of the checkpoint, else what fits in memory. Negatives of a run that an
     earlier version began in micro-batches still come from one of these.
  7. The model is initialised at random and, without a checkpoint, with the weights of `init_from` and what it must know of the clips.
  8. The loop restores the checkpoint, which refuses another config, writes the accepted one to config.json, and trains.
  9. After the last step the model is evaluated, and summary.json written.
"""

import copy
import dataclasses
import functools
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import jax
from absl import logging
from flax import nnx

from avmae_jax.checkpoint.manager import newest_meta, steps_of
from avmae_jax.config import Config, Modality
from avmae_jax.config_history import is_config
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.sources import open_source
from avmae_jax.errors import DatasetError, EmptySplitError
from avmae_jax.evals.few_clips import few_in
from avmae_jax.files import LOCK, OnProgress, full_disk, locked, write_errors, write_json
from avmae_jax.models import registry
from avmae_jax.models.modes import Mode
from avmae_jax.models.registry import KINDS, kind_of
from avmae_jax.train import hosts, memory
from avmae_jax.train.audio_settings import settle_audio, settle_frames
from avmae_jax.train.determinism import note_devices, prepare_devices
from avmae_jax.train.finetuning import FinetuningTask
from avmae_jax.train.fitting import fit_batch
from avmae_jax.train.loop import Reporter, Trainer
from avmae_jax.train.negatives import choices, settle_negatives
from avmae_jax.train.precision import matmul_precision, settle_precision
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.run_notes import CONFIG_FILE, RUN_LOG, log_file, note_config, note_start, read_json, versions
from avmae_jax.train.snapshots import set_aside
from avmae_jax.train.task import Task
from avmae_jax.weights.build import described
from avmae_jax.weights.init_from import initialise_from

SUMMARY_FILE = "summary.json"
_LONG_STEP = 20.0  # seconds from which a CPU user is pointed to the tiny config


def pretrain(
    config: Config, *, reporter: Reporter | None = None, on_progress: OnProgress | None = None, profile: int = 0
) -> dict[str, Any] | None:
    """Pretrains a model, or resumes the run in config.train.workdir.

    Args:
      config: of the run; its model.kind is one that is pretrained.
      reporter: is called at every step.
      on_progress: is called while the built-in set is generated.
      profile: number of steps after the first three that are recorded in train.workdir/profile, for TensorBoard and Perfetto; 0: none.

    Returns:
      The content of summary.json: "steps", "seconds", "held_out", "retrieval", with train.ema "ema" and, if there are few held-out clips,
      "warning"; None if the run was stopped by SIGTERM or Ctrl-C.

    Raises:
      AvmaeError: if data, checkpoints or initial weights can't be used, another process trains in the folder, or the loss is no longer
        finite.
      ValueError: if fields of the config can't work together.
    """
    return _run(config, "pretraining", reporter, on_progress, profile)


def finetune(
    config: Config, *, reporter: Reporter | None = None, on_progress: OnProgress | None = None, profile: int = 0
) -> dict[str, Any] | None:
    """Fine-tunes a classifier, or resumes the run in config.train.workdir.

    Args:
      config: of the run; its model.kind is a classifier.
      reporter: is called at every step.
      on_progress: is called while the built-in set is generated.
      profile: number of steps after the first three that are recorded in train.workdir/profile, for TensorBoard and Perfetto; 0: none.

    Returns:
      The content of summary.json: "steps", "seconds", "held_out" and, where weights were averaged, "averaged" and "ema", and "warning" if
      there are few held-out clips; None if the run was stopped by SIGTERM or Ctrl-C.

    Raises:
      AvmaeError: if data, checkpoints or initial weights can't be used, another process trains in the folder, or the loss is no longer
        finite.
      ValueError: if fields of the config can't work together.
    """
    return _run(config, "classification", reporter, on_progress, profile)


def _run(
    config: Config,
    wanted: Literal["pretraining", "classification"],
    reporter: Reporter | None,
    on_progress: OnProgress | None,
    profile: int,
) -> dict[str, Any] | None:
    """Runs the nine steps that the module's docstring numbers."""
    begin, config = time.monotonic(), copy.deepcopy(config)  # step 4 decides what it leaves open
    prepare_devices(config)  # 1
    with hosts.losses_explained():
        hosts.require_same(config=dataclasses.asdict(config), version=versions())
    require_task(config, wanted)
    with claimed(config) as workdir, hosts.losses_explained(), matmul_precision(config):  # 2
        hosts.require_shared(workdir)
        if not config.train.deterministic:  # whose flags name a file for each process: no two would look for the same program
            hosts.keep_programs(workdir / "programs")
        checkpoint = hosts.of_first(newest_meta(workdir / "checkpoints"))  # 3
        note_start(workdir, next((step for step, _ in steps_of(workdir / "checkpoints")), 0))
        with hosts.together():
            settle_audio(config, checkpoint)  # 4
            settle_precision(config, checkpoint)
            settle_negatives(config, checkpoint)
            note_devices(config)
            train, test = open_sources(config, on_progress)
            settle_frames(config, train, checkpoint)
            task = make_task(config, train, test, workdir)
        found = {"training clips": len(train), "held-out clips": test and len(test), "classes": list(task.label_names)}
        hosts.require_same(config=dataclasses.asdict(config), data=found)  # with what each host's own copy of the data has decided
        announce(config)
        if checkpoint is None:  # 5
            set_aside(workdir)
        fit = fit_batch(config, task, len(train), checkpoint)  # 6
        model = registry.build(config.model, len(task.label_names), rngs=nnx.Rngs(config.train.seed))  # 7
        if config.init_from and checkpoint is None:
            initialise_from(config.model, model, config.init_from)
        if checkpoint is None:
            task.begin(model, train)
        trainer = Trainer(config, model, task, train, test, fit=fit)  # 8
        finished = trainer.run(reporter, functools.partial(note_config, workdir, config), profile=profile)
        task.ended(trainer.negatives)
        if not finished:
            return None
        summary: dict[str, Any] = {"steps": trainer.step, "held_out": trainer.evaluate()}  # 9
        spread = {"held_out": task.intervals()}
        summary |= task.summary(trainer.model)
        if "averaged" in summary:
            spread["averaged"] = task.intervals()
        if averaged := trainer.evaluate_averaged():
            summary["ema"], spread["ema"] = averaged, task.intervals()
        if any(spread.values()):
            summary["intervals"] = spread
        if test is not None and (warning := few_in(test)):
            summary["warning"] = warning
        summary["seconds"] = round(time.monotonic() - begin, 1)
        if hosts.is_first():
            write_json(workdir / SUMMARY_FILE, summary)
        RUN_LOG.info("finished: %s", json.dumps(summary))
        return summary


def require_task(config: Config, wanted: str) -> None:
    """Raises ValueError unless the config's fields work together and its kind of model is one that this task trains."""
    spec = kind_of(config.model)
    if spec.task != wanted:
        kinds = " or ".join(name for name, other in KINDS.items() if other.task == wanted)
        raise ValueError(f"model.kind is {config.model.kind!r}, which is trained by {spec.task}; for {wanted} choose {kinds}")
    if wanted == "pretraining" and config.data.labelled_per_class:
        raise ValueError(f"data.labelled_per_class is {config.data.labelled_per_class}, but pretraining needs no labels; leave it 0")
    if config.loss.contrast_order == "attention" and not config.model.class_token:
        words = "which has no class token whose attention could rank patches; give kind sync with model.class_token"
        raise ValueError(f"loss.contrast_order is 'attention' for a model of kind {config.model.kind!r}, {words}")
    config.validate()
    described(config.model, 1)  # sizes that don't fit each other


@contextmanager
def claimed(config: Config) -> Iterator[Path]:
    """Creates and locks the run's folder, writes config.json into it unless the run has a checkpoint, and logs into its log.txt.

    Raises:
      ValueError: if the folder can't be created or written, or holds something that is no run.
      LockedError: if another process trains in it.
      WriteError: if the disk is full.
    """
    workdir = Path(config.train.workdir).expanduser()
    with write_errors(workdir), ExitStack() as stack:  # what appends to files of the run names none
        with hosts.together():
            try:
                workdir.mkdir(parents=True, exist_ok=True)
                if hosts.is_first():  # of several hosts' processes, which share the folder
                    if not (workdir / LOCK).exists():  # else a run that begins at this moment may not have its config.json yet
                        _require_run_or_nothing(workdir)
                    stack.enter_context(locked(workdir))
                    _require_run_or_nothing(workdir)
                    if not steps_of(workdir / "checkpoints"):  # once there is one, a config that doesn't fit it will be refused
                        write_json(workdir / CONFIG_FILE, dataclasses.asdict(config))
                    (workdir / "pictures").mkdir(exist_ok=True)
                    stack.enter_context(log_file(workdir))
            except OSError as error:
                if full_disk(error):
                    raise
                raise ValueError(f"train.workdir {workdir} can't be used: {error}; choose another folder") from error
        yield workdir


def _require_run_or_nothing(workdir: Path) -> None:
    """Raises ValueError if a folder holds something, but no run; config.json may lack or be damaged once there is a checkpoint."""
    note = workdir / CONFIG_FILE
    if not note.exists() and any(path.name != LOCK for path in workdir.iterdir()) and newest_meta(workdir / "checkpoints") is None:
        raise ValueError(f"train.workdir {workdir} is not empty and holds no run; choose another folder")
    if note.exists() and not is_config(read_json(note)) and not steps_of(workdir / "checkpoints"):
        raise ValueError(f"train.workdir {workdir}: {CONFIG_FILE} is no config of a run; remove it, or choose another folder")


def open_sources(config: Config, on_progress: OnProgress | None = None) -> tuple[ClipSource, ClipSource | None]:
    """Opens the training and the held-out clips; the built-in set is generated first where it isn't there yet."""
    needs = needs_of(config)
    train = open_source(config.data, "train", needs, on_progress=on_progress)
    if config.data.source == "manifest" and not config.data.eval_path:
        logging.info("data.eval_path is empty: the run has no evaluation, no reconstructions and no retrieval")
        return train, None
    try:
        test = open_source(config.data, "test", needs)
    except EmptySplitError as error:
        logging.warning("the run has no evaluation, no reconstructions and no retrieval: %s", error)
        return train, None
    if warning := few_in(test):
        logging.warning("held out: %s; hold out more", warning)
    return train, test


def needs_of(config: Config) -> Modality:
    """Returns what clips must have: what the classifier's mode takes, or what the model has."""
    mode = _mode(config)
    return mode.given if mode else cast(Modality, config.model.modality)  # validated


def make_task(config: Config, train: ClipSource, test: ClipSource | None, workdir: Path) -> Task:
    """Returns the task of the config's kind of model.

    Raises:
      DatasetError: if a classifier's clips have no classes, or the held-out clips have other ones.
    """
    held_out = "none" if test is None else len(test)
    if kind_of(config.model).task == "pretraining":
        logging.info("%d training clips, %s held out", len(train), held_out)
        return PretrainingTask(config, test, workdir)
    names = list(train.label_names)
    if not names:
        raise DatasetError("the training clips have no labels; prepare videos that lie in class folders, or a labelled list")
    if test is not None and list(test.label_names) != names:
        raise DatasetError(f"the held-out clips have other classes ({len(test.label_names)}) than the training clips ({len(names)})")
    logging.info("%d training clips of %d classes, %s held out", len(train), len(names), held_out)
    return FinetuningTask(config, test, names, workdir)


def announce(config: Config) -> None:
    """Logs the devices and how long a step will take; on a slow machine, also what to run instead."""
    logging.info("%s on %s", config.name, device_line())
    mode = _mode(config)
    flops = memory.step_flops(config, mode, frozen=bool(mode) and config.tune.freeze_base) * config.train.batch_size
    if mode is None and kind_of(config.model).vectors and choices(config.train.batch_size, config) == 1:
        logging.warning("train.batch_size is 1, so the contrastive loss has nothing to choose among and teaches nothing")
    if jax.default_backend() != "cpu":  # whose speed a few small products don't tell
        logging.info("a step of %d pairs is %.3g GFLOP; launch.plan says how long GPUs take", config.train.batch_size, flops / 1e9)
        return
    speed = memory.matmul_speed() * jax.device_count()
    logging.info(
        "a step of %d pairs takes about %.2g s: %.3g GFLOP at the %.0f GFLOP/s that a matrix product reaches here",
        config.train.batch_size, flops / speed, flops / 1e9, speed / 1e9,
    )  # fmt: skip
    if flops / speed > _LONG_STEP and mode is None:
        logging.info("this is a run for GPUs; to see the whole job on a CPU in minutes: python -m launch.pretrain --config configs/tiny.py")


def device_line() -> str:
    """Describes the devices in a line."""
    device = jax.devices()[0]
    kind = f"{jax.device_count()} x {device.device_kind}" if device.platform != "cpu" else f"CPU, {jax.device_count()} device(s)"
    return f"{kind}; jax {jax.__version__}, process {jax.process_index() + 1} of {jax.process_count()}"


def _mode(config: Config) -> Mode | None:
    return registry.tuned_mode(config) if kind_of(config.model).modes else None
