"""Builds a config's training step on the devices of this machine, with random weights and a random batch."""

import copy
import math
import time
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.models import registry
from avmae_jax.train import sharding
from avmae_jax.train.precision import settle_precision
from avmae_jax.train.program import initial_state, task_of, trace_step

_CLIPS = 100_000  # in a pass over the made-up data set: the learning rate doesn't change meanwhile
CLASSES = [f"class {number}" for number in range(527)]  # AudioSet's


class Program:
    """Holds a compiled step and what it is called with."""

    def __init__(self, config: Config, *, batch: int, remat: bool = False):
        """Compiles the step of a batch that is computed at once; fills weights and inputs with random numbers."""
        config = copy.deepcopy(config)
        config.train.batch_size, config.model.remat = batch, remat
        settle_precision(config, None)
        task, mesh = task_of(config, CLASSES), sharding.make_mesh(config.mesh)
        begin = time.perf_counter()
        step = trace_step(config, task, mesh, micro_batch=batch, clips=_CLIPS)
        self.trace_seconds = time.perf_counter() - begin
        self.compiled = step.traced.lower().compile()
        self.compile_seconds = time.perf_counter() - begin - self.trace_seconds
        self.config, self.key = config, jax.random.key(config.train.seed)
        model = registry.build(config.model, len(task.label_names), rngs=nnx.Rngs(config.train.seed))
        _, self.state = initial_state(model, task, task.optimizer(task.schedule(_CLIPS / batch, _CLIPS)), mesh)
        self.batch = random_batch(step.batch)
        self._done = 0

    def train(self, steps: int) -> tuple[float, float]:
        """Dispatches steps one after another, as training does; returns the last loss, once it is there, and the seconds of all."""
        leaves, structure = jax.tree.flatten(self.state)
        begin, loss = time.perf_counter(), math.nan
        for _ in range(steps):
            leaves, metrics = self.compiled(leaves, self.batch, self.key, np.int32(self._done))
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
