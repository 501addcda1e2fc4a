"""Builds a config's training step on the devices of this machine, with random weights and a random batch."""

import copy
import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.models import registry
from avmae_jax.train import sharding
from avmae_jax.train.precision import settle_precision
from avmae_jax.train.program import Step, initial_state, task_of, trace_step
from avmae_jax.train.task import Task

_CLIPS = 100_000  # in a pass over the made-up data set: the learning rate doesn't change meanwhile
CLASSES = [f"class {number}" for number in range(527)]  # AudioSet's


def few_blocks(config: Config) -> Config:
    """Returns a copy with the widths and lengths of the model, but with three blocks in its encoder and two in its decoder."""
    config = copy.deepcopy(config)
    config.model = dataclasses.replace(config.model, depth=3, decoder_depth=2)
    return config


def step_of(config: Config, *, batch: int, remat: bool = False) -> tuple[Config, Task, Step]:
    """Traces the step of a batch that is computed at once; returns the config with its sizes and its settled dtype, and the task too."""
    config = copy.deepcopy(config)
    config.train.batch_size, config.model.remat = batch, remat
    settle_precision(config, None)
    task = task_of(config, CLASSES)
    return config, task, trace_step(config, task, sharding.make_mesh(config.mesh), micro_batch=batch, clips=_CLIPS)


class Program:
    """Holds a step and what it is called with."""

    def __init__(self, config: Config, *, batch: int, remat: bool = False):
        """Traces the step."""
        self.config, self._task, self._step = step_of(config, batch=batch, remat=remat)
        self.compiled: Any = None
        self.clear()

    def compile(self) -> Self:
        """Compiles the step, or takes it from the kept programs."""
        self.compiled = self._step.traced.lower().compile()
        return self

    def fill(self) -> Self:
        """Fills weights and inputs with random numbers, on the devices."""
        seed, task, batch = self.config.train.seed, self._task, self.config.train.batch_size
        model = registry.build(self.config.model, len(task.label_names), rngs=nnx.Rngs(seed))
        optimizer = task.optimizer(task.schedule(_CLIPS / batch, _CLIPS))
        _, self.state = initial_state(model, task, optimizer, sharding.make_mesh(self.config.mesh))
        self.batch, self.key = random_batch(self._step.batch), jax.random.key(seed)
        self._done = 0
        return self

    def clear(self) -> None:
        """Frees the memory of the devices."""
        self.state: Any = None
        self.batch: Any = None

    def train(self, steps: int, *, anew: bool = False) -> tuple[float, float]:
        """Dispatches steps one after another, as training does; returns the last loss, once it is there, and the seconds of all.

        Args:
          steps: their number.
          anew: whether the batch is sent to the devices for each step, in place of being there.
        """
        on_host = jax.device_get(self.batch) if anew else None
        places = {name: array.sharding for name, array in self.batch.items()}
        leaves, structure = jax.tree.flatten(self.state)
        begin, loss = time.perf_counter(), math.nan
        for _ in range(steps):
            batch = jax.device_put(on_host, places) if anew else self.batch
            leaves, metrics = self.compiled(leaves, batch, self.key, np.int32(self._done))
            self._done, loss = self._done + 1, metrics["loss"]
        loss, seconds = float(loss), time.perf_counter() - begin
        self.state = jax.tree.unflatten(structure, leaves)
        return loss, seconds


def random_batch(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Fills a batch with random samples, pixels, seeds and shares; every clip is as long as the model hears."""
    rng = np.random.default_rng(0)

    def values(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.dtype == np.int32:  # the number of samples that a clip has
            return np.full(leaf.shape, shapes["waveform"].shape[-1], np.int32)
        if np.issubdtype(leaf.dtype, np.integer):
            span = np.iinfo(leaf.dtype)
            return rng.integers(span.min, span.max, leaf.shape, leaf.dtype, endpoint=True)
        return rng.random(leaf.shape, np.float32)

    return {name: jax.device_put(values(leaf), leaf.sharding) for name, leaf in shapes.items()}
