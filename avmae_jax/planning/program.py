"""Builds the training step of a config from shapes alone, as train/loop.py builds it from arrays."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from PIL import Image

from avmae_jax.config import Config
from avmae_jax.data.batches import TrainBatches, TrainOptions
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.models.registry import kind_of
from avmae_jax.train import memory, sharding
from avmae_jax.train.epochs import Epochs
from avmae_jax.train.finetuning import FinetuningTask
from avmae_jax.train.precision import matmul_precision
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.step import State, make_step
from avmae_jax.train.task import Task
from avmae_jax.weights.build import described


class Step(NamedTuple):
    """Holds a training step that was traced, and its arguments with their places on the devices."""

    traced: Any  # jax.stages.Traced
    state: State
    batch: dict[str, jax.ShapeDtypeStruct]


def task_of(config: Config, label_names: list[str]) -> Task:
    """Returns the config's task, of which only the losses and the optimizer are used."""
    nowhere = Path("unused")
    if kind_of(config.model).task == "pretraining":
        return PretrainingTask(config, None, nowhere)
    return FinetuningTask(config, None, label_names, nowhere)


def trace_step(config: Config, task: Task, mesh: Mesh, micro_batch: int, clips: int) -> Step:
    """Traces the step that train/loop.py would run.

    Args:
      config: of the run; model.compute_dtype is settled.
      task: of the config.
      mesh: of the devices, which needn't be there.
      micro_batch: pairs computed at once.
      clips: in a pass over the training set.

    Raises:
      ValueError: if batch, micro-batch and devices don't divide, or fields of the config can't work together.
    """
    size, groups = config.train.batch_size, sharding.batch_shards(mesh)
    memory.require_even(size, micro_batch, groups)
    epochs = Epochs(clips / size)
    schedule = task.schedule(epochs.steps, epochs.total_steps(config.train))
    optimizer = task.optimizer(schedule)
    graph, params, frozen = nnx.split(described(config.model, len(task.label_names)), task.trainable(), ...)
    whole = State(params, frozen, jax.eval_shape(optimizer.init, params), jax.eval_shape(task.init_extra, params))
    places = sharding.shardings(whole, mesh)
    state = jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), whole, places)
    everywhere = NamedSharding(mesh, PartitionSpec())
    batch = batch_shapes(config, task, size, NamedSharding(mesh, sharding.BATCH))
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = make_step(
        graph, task, optimizer, schedule, micro_batches=size // micro_batch, groups=groups, own_rows=sharding.on_own_rows(mesh)
    )
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(places, everywhere))
    with matmul_precision(config):
        traced = jitted.trace(state, batch, _described(key.shape, key.dtype, mesh), np.int32(0))
    return Step(traced, state, batch)


def batch_shapes(config: Config, task: Task, size: int, place: Sharding) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns what the step gets of a batch of `size` clips, at a place."""
    rows = _one_row(config, task).items()
    return {name: jax.ShapeDtypeStruct((size, *row.shape[1:]), row.dtype, sharding=place) for name, row in rows}


def bytes_a_device(tree: Any) -> int:
    """Returns the bytes of a pytree of placed arrays that lie on one device."""
    return sum(leaf.dtype.itemsize * int(np.prod(leaf.sharding.shard_shape(leaf.shape))) for leaf in jax.tree.leaves(tree))


def _described(shape: tuple[int, ...], dtype: Any, mesh: Mesh, spec: PartitionSpec | None = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec or PartitionSpec()))


def _one_row(config: Config, task: Task) -> dict[str, np.ndarray]:
    """Reads a batch of one made-up clip, so that the shapes and dtypes are those that training reads."""
    data = dataclasses.replace(config.data, workers=0, threads=1, prefetch=1)
    options = TrainOptions(config.augment, len(task.label_names), np.ones(1) if config.augment.balanced else None, task.needs)
    batches = TrainBatches(_MadeUp(config.model.image_size), config.model, data, 1, 0, options)
    try:
        return {name: array for name, array in next(batches).items() if name != "id"}
    finally:
        batches.close()


class _MadeUp:
    """Holds one clip of a second of silence and a black frame."""

    label_names: Sequence[str] = ("a class",)

    def __init__(self, size: int):
        file = io.BytesIO()
        Image.new("RGB", (size, size)).save(file, "jpeg")
        self._clip = Clip("made-up", np.zeros(SAMPLE_RATE, np.int16), (file.getvalue(),), (0,))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Clip:
        return self._clip
