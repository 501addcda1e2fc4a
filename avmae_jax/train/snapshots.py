"""Weights of a run that are worth keeping beside its checkpoints: the best ones, and the mean of some epochs.

    best/       the weights of the evaluation that a task finds best
    averaged/   the plain mean of the weights at the ends of the epochs that config.tune names, as in Gong et al., arXiv 2210.07839

Each is a folder of checkpoints with one step, `params` alone, that load_pretrained reads. A run that goes on from an older checkpoint
passes steps again that these folders have seen; since it repeats them bit for bit, what is there stays.
"""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils

from avmae_jax.checkpoint.manager import Checkpoints, newest_meta, restore_params, steps_of

BEST, AVERAGED = "best", "averaged"


class Snapshots:
    """Both folders of a run; on several hosts every process calls every method."""

    def __init__(self, folder: Path, meta: Callable[[], dict[str, Any]], first_epoch: int = 0, last_epoch: int = 0):
        """Opens the folders that are there.

        Args:
          folder: of the run.
          meta: what is noted beside weights.
          first_epoch: of the mean, counted from 1; 0: no mean is kept.
          last_epoch: the last one of it.
        """
        self._folder, self._meta = folder, meta
        self._first, self._last = first_epoch, last_epoch
        self._best: float | None = (newest_meta(folder / BEST) or {}).get("measured")

    def measured(self, step: int, params: Any, measured: float) -> None:
        """Keeps the weights of a step if they are better than those of every step before."""
        if self._best is None or measured > self._best:
            self._save(BEST, step, params, {"measured": measured})
            self._best = measured

    def epoch_ended(self, epoch: int, step: int, params: Any) -> None:
        """Takes the weights at the end of an epoch, counted from 1, into the mean, if it is one of its epochs.

        Raises:
          CheckpointError: if the mean so far is damaged, or can't be written.
        """
        if not self._first <= epoch <= self._last or not self._first:
            return
        meta = newest_meta(self._folder / AVERAGED)
        if meta is None and steps_of(self._folder / AVERAGED):
            restore_params(self._folder / AVERAGED)  # says what is damaged
        before = (meta or {}).get("epochs", [])
        if epoch in before:
            return
        expected = list(range(self._first, epoch))
        if before != expected:
            logging.warning("%s holds the mean of epochs %s, not of %s: what is missing stays missing", AVERAGED, before, expected)
        mean = params
        if before:
            so_far = restore_params(self._folder / AVERAGED, params).params
            mean = jax.tree.map(lambda old, new: old + (new - old) / (len(before) + 1), so_far, params)
        self._save(AVERAGED, step, mean, {"epochs": [*before, epoch]})

    def _save(self, name: str, step: int, params: Any, found: dict[str, Any]) -> None:
        folder = self._folder / name
        newer = [path for number, path in steps_of(folder) if number >= step]
        if newer:  # the run was resumed behind it, and went another way: on other devices, for example
            for path in newer if jax.process_index() == 0 else ():
                shutil.rmtree(path)
            _wait_for_all("newer snapshots are gone")
        with Checkpoints(folder, keep_last=1) as checkpoints:
            checkpoints.save(step, params=params, meta=self._meta() | found)


def set_aside(folder: Path) -> None:
    """Renames both folders of a run that has no checkpoint: they are of an earlier try, or it was killed before it saved one."""
    for name in (BEST, AVERAGED) if jax.process_index() == 0 else ():
        if (folder / name).is_dir():
            free = next(path for n in itertools.count(1) if not (path := folder / f"{name}.before-{n}").exists())
            (folder / name).rename(free)
            logging.warning("%s has no checkpoint that %s could belong to; it is kept as %s", folder, name, free.name)
    _wait_for_all("snapshots without checkpoints are set aside")


def _wait_for_all(reason: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(reason)
