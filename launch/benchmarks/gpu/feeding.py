"""Trains a few steps on real clips, to see whether reading keeps up with the device."""

import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from avmae_jax.config import Config
from avmae_jax.train.audio_settings import settle_audio
from avmae_jax.train.precision import settle_precision
from avmae_jax.train.program import trace_step
from avmae_jax.train.run import make_task, open_sources, pretrain
from avmae_jax.train.sharding import make_mesh

from .part import Row

_BUILTIN = 512  # clips of the built-in set, where the config has no others


class _Watch:
    """Keeps what the loop reports of its last steps, and when. Implements train.Reporter."""

    def start(self, first: int, total: int) -> None:
        """Begins a run."""
        self.times = list[float]()

    def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
        """Keeps a step's figures."""
        self.times.append(time.monotonic())
        self.row: Row = {"steps": step, "loss": loss, "pairs/s": pairs_per_second, "share waiting for data": waiting}

    def doing(self, what: str) -> None:
        """Follows what is done between two steps."""


def measure(config: Config, *, batch: int, steps: int) -> Iterator[Row]:
    """Yields the speed of the loop over its last 20 steps, how long it takes from one to the next, and the share that it waits for data."""
    config, watch = _run(config, batch, steps), _Watch()
    with tempfile.TemporaryDirectory() as workdir:
        config.train.workdir = f"{workdir}/run"
        pretrain(config, reporter=watch)
    between = 1e3 * np.diff(watch.times[-21:])
    yield {
        "batch": batch,
        "data": config.data.source,
        **watch.row,
        "median ms from step to step": float(np.median(between)),
        "longest": float(between.max()),
    }


def trace(config: Config, *, batch: int, steps: int) -> Any:
    """Returns the traced step of that run."""
    config = _run(config, batch, steps)
    settle_audio(config, None)
    settle_precision(config, None)
    train, test = open_sources(config)
    task = make_task(config, train, test, Path("unused"))
    return trace_step(config, task, make_mesh(config.mesh), micro_batch=batch, clips=len(train)).traced


def _run(config: Config, batch: int, steps: int) -> Config:
    """Returns the config of a run that only trains."""
    config = copy.deepcopy(config)
    if config.data.source == "builtin":
        config.data.builtin_train, config.data.builtin_test = max(_BUILTIN, batch), 1
    train = config.train
    train.batch_size, train.micro_batch, train.steps = batch, batch, steps
    train.checkpoint_every = train.eval_every = train.picture_every = 10 * steps
    train.retrieval_clips = 0
    return config
