"""Keeps weights of a run beside its checkpoints: the best ones, and two kinds of mean.

    best/       the weights of the evaluation that a task finds best
    averaged/   the plain mean of the weights at the ends of the epochs that config.tune names, as in Gong et al., arXiv 2210.07839, as of
                the newest checkpoint
    ema/        the exponential moving average of train.ema, as of the newest checkpoint, which holds it too

Each is a folder of checkpoints with one step and `params` alone, which avmae_jax.load reads. A run that resumes from an older checkpoint
repeats steps that these folders already cover; since the result is the same bit for bit, their content stays.
"""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from avmae_jax.checkpoint.manager import Checkpoints, newest_meta, restore_params, steps_of
from avmae_jax.train import hosts

BEST, AVERAGED, EMA = "best", "averaged", "ema"
MEANS = (AVERAGED, EMA)  # folders of averaged weights, those that a classifier's user should take first


class _Mean(NamedTuple):
    epochs: list[int]
    params: Any  # None: of no epoch


class Snapshots:
    """Writes these folders of a run; on several hosts every process calls every method."""

    def __init__(self, folder: Path, meta: Callable[[], dict[str, Any]], first_epoch: int = 0, last_epoch: int = 0):
        """Reads the best result so far from an existing folder.

        Args:
          folder: of the run.
          meta: returns what is stored beside the weights.
          first_epoch: first epoch of the mean, counted from 1; 0: no mean is kept.
          last_epoch: last epoch of the mean.
        """
        self._folder, self._meta = folder, meta
        self._averaged = range(first_epoch, last_epoch + 1) if first_epoch else range(0)
        self._mean: _Mean | None = None  # in memory; None: none of this start's epochs is one of those averaged
        self._kept = 0  # epochs in the mean that is on the disk
        self._best: float | None = hosts.of_first((newest_meta(folder / BEST) or {}).get("measured"))

    def measured(self, step: int, params: Any, measured: float) -> None:
        """Keeps the weights of a step if their result is better than that of every earlier step."""
        if self._best is None or measured > self._best:
            self._save(BEST, step, params, {"measured": measured})
            self._best = measured

    def ema(self, step: int, params: Any) -> None:
        """Keeps the averaged weights of a step that is about to be saved."""
        self._save(EMA, step, params, {})

    def averages(self, epoch: int) -> bool:
        """Returns whether the weights at the end of an epoch, counted from 1, belong to the mean."""
        return epoch in self._averaged

    def epoch_ended(self, epoch: int, params: Any) -> None:
        """Adds the weights at the end of an epoch to the mean, if they belong to it; raises CheckpointError if the mean is damaged."""
        if not self.averages(epoch):
            return
        resumed = self._mean is None
        before, mean = self._mean = self._mean or self._read_mean(params)
        if epoch in before:
            return
        expected = list(range(self._averaged.start, epoch))
        if resumed and before != expected:
            logging.warning("%s holds the mean of epochs %s, not of %s; missing epochs are left out", AVERAGED, before, expected)
        if before:
            mean = jax.tree.map(lambda old, new: old + (new - old) / (len(before) + 1), mean, params)
        else:
            mean = jax.tree.map(jnp.copy, params)  # since the next step is computed in the place of these weights
        self._mean = _Mean([*before, epoch], mean)

    def save_mean(self, step: int) -> None:
        """Keeps the mean so far beside a step that is about to be saved; raises CheckpointError if it can't be written."""
        if self._mean and len(self._mean.epochs) > self._kept:
            self._save(AVERAGED, step, self._mean.params, {"epochs": self._mean.epochs})
            self._kept = len(self._mean.epochs)

    def _read_mean(self, params: Any) -> "_Mean":
        """Reads the mean that an earlier start has kept, into the structure of `params`; raises CheckpointError if it is damaged."""
        if not hosts.of_first(bool(steps_of(self._folder / AVERAGED))):
            return _Mean([], None)
        kept = restore_params(self._folder / AVERAGED, params)
        self._kept = len(kept.meta["epochs"])
        return _Mean(kept.meta["epochs"], kept.params)

    def _save(self, name: str, step: int, params: Any, found: dict[str, Any]) -> None:
        folder = self._folder / name
        for number, path in steps_of(folder) if hosts.is_first() else ():
            if number >= step:  # the run resumed from an older step and diverged, on other devices for example
                shutil.rmtree(path)
        hosts.gather(None)
        with Checkpoints(folder, keep_last=1) as checkpoints:
            checkpoints.save(step, params=params, meta=self._meta() | found)


def set_aside(folder: Path) -> None:
    """Renames these folders of a run without a checkpoint: an earlier try left them, or the run was killed before its first checkpoint."""
    for name in (BEST, *MEANS) if hosts.is_first() else ():
        if (folder / name).is_dir():
            free = next(path for n in itertools.count(1) if not (path := folder / f"{name}.before-{n}").exists())
            (folder / name).rename(free)
            logging.warning("%s has no checkpoint that %s could belong to; it is renamed to %s", folder, name, free.name)
    hosts.gather(None)
