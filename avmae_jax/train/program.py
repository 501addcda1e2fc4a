"""Builds the training step of a config: for train/loop.py from arrays, and from shapes alone, to ask the compiler what it needs."""

import dataclasses
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from PIL import Image

from avmae_jax.config import Config
from avmae_jax.data.batches import TrainBatches
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.models.registry import kind_of
from avmae_jax.train import memory, sharding
from avmae_jax.train.allocator import give_back_freed_memory
from avmae_jax.train.epochs import Epochs
from avmae_jax.train.finetuning import FinetuningTask
from avmae_jax.train.precision import matmul_precision
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.step import Metrics, State, compiler_options, make_step
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


def initial_state(model: nnx.Module, task: Task, optimizer: optax.GradientTransformation, mesh: Mesh) -> tuple[Any, State]:
    """Puts a model and what belongs to it on the devices; returns the graph of nnx.split(model, trainable, ...) and the state."""
    graph, params, frozen = nnx.split(model, task.trainable(), ...)
    params, frozen = (jax.device_put(tree, sharding.shardings(tree, mesh)) for tree in (params, frozen))
    opt_state, extra = (sharding.initialise(make, params, mesh) for make in (optimizer.init, task.init_extra))
    return graph, State(params, frozen, opt_state, extra)


def jit_step(
    graph: Any, task: Task, rates: tuple[optax.GradientTransformation, optax.Schedule], mesh: Mesh, places: State, micro_batches: int
) -> Any:
    """Returns the jitted step of train/step.py for a mesh, with the list of a state's leaves in place of the state.

    JAX goes through a list in C++, but through a state of nnx in Python, which takes longer than the rest of a call: 8 ms in place of 2 for
    the base model. The memory of the leaves that the step is given is used for those that it returns.

    Args:
      graph: of nnx.split(model, trainable, ...).
      task: what is trained.
      rates: the optimizer and its learning rate.
      mesh: of the devices.
      places: the sharding of each leaf of the state.
      micro_batches: number of parts of the batch that are computed one after another.
    """
    own_rows, groups = sharding.on_own_rows(mesh), sharding.batch_shards(mesh)
    step = make_step(graph, task, *rates, micro_batches=micro_batches, groups=groups, own_rows=own_rows, comparing=task.comparing)
    placed, structure = jax.tree.flatten(places)

    @functools.wraps(step)
    def on_leaves(leaves: list[jax.Array], batch: Any, key: jax.Array, index: jax.Array) -> tuple[list[jax.Array], Metrics]:
        state, metrics = step(jax.tree.unflatten(structure, leaves), batch, key, index)
        return jax.tree.leaves(state), metrics

    shardings = (placed, NamedSharding(mesh, PartitionSpec()))
    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(on_leaves, donate_argnums=0, out_shardings=shardings, compiler_options=options)


def compiled(traced: Any) -> jax.stages.Compiled:
    """Compiles a traced step, and gives the memory that compiling took back to the system."""
    program = traced.lower().compile()
    give_back_freed_memory()
    return program


class CompiledOnce:
    """Is a jitted step that is compiled when it is first called, so that it never holds the compiler's memory beside its own."""

    def __init__(self, jitted: Any, program: jax.stages.Compiled | None = None):
        """Takes the program in place of compiling one, where it is known."""
        self._jitted, self._program = jitted, program

    def __call__(self, *inputs: Any) -> Any:
        """Computes a step as the jitted function would."""
        if self._program is None:
            self._program = compiled(self._jitted.trace(*inputs))
        return self._program(*inputs)


def trace_step(config: Config, task: Task, mesh: Mesh, micro_batch: int, clips: int, *, remat: bool | None = None) -> Step:
    """Traces the step that train/loop.py would run.

    Args:
      config: of the run; model.compute_dtype is settled.
      task: of the config.
      mesh: of the devices, which needn't be there.
      micro_batch: pairs computed at once.
      clips: in a pass over the training set.
      remat: in place of model.remat.

    Raises:
      ValueError: if batch, micro-batch and devices don't divide, or fields of the config can't work together.
    """
    size, model = config.train.batch_size, config.model
    memory.require_even(size, micro_batch, sharding.batch_shards(mesh))
    epochs = Epochs(clips / size)
    schedule = task.schedule(epochs.steps, epochs.total_steps(config.train))
    optimizer = task.optimizer(schedule)
    built = described(model if remat is None else dataclasses.replace(model, remat=remat), len(task.label_names))
    graph, params, frozen = nnx.split(built, task.trainable(), ...)
    whole = State(params, frozen, jax.eval_shape(optimizer.init, params), jax.eval_shape(task.init_extra, params))
    places = sharding.shardings(whole, mesh)
    state = jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), whole, places)
    batch = batch_shapes(config, task, size, NamedSharding(mesh, sharding.BATCH))
    key = jax.eval_shape(lambda: jax.random.key(0))
    jitted = jit_step(graph, task, (optimizer, schedule), mesh, places, size // micro_batch)
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
    with matmul_precision(config):
        traced = jitted.trace(jax.tree.leaves(state), batch, key, np.int32(0))
    return Step(traced, state, batch)


def batch_shapes(config: Config, task: Task, size: int, place: Sharding) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns what the step gets of a batch of `size` clips, at a place."""
    rows = _one_row(config, task).items()
    return {name: jax.ShapeDtypeStruct((size, *row.shape[1:]), row.dtype, sharding=place) for name, row in rows}


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Returns the bytes that a compiled program needs at once on each device."""
    found: Any = compiled.memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes


def bytes_a_device(tree: Any) -> int:
    """Returns the bytes of a pytree of placed arrays that lie on one device."""
    return sum(leaf.dtype.itemsize * int(np.prod(leaf.sharding.shard_shape(leaf.shape))) for leaf in jax.tree.leaves(tree))


def _one_row(config: Config, task: Task) -> dict[str, np.ndarray]:
    """Reads a batch of one made-up clip, so that the shapes and dtypes are those that training reads."""
    data = dataclasses.replace(config.data, workers=0, threads=1, prefetch=1)
    weights = np.ones(1) if config.augment.balanced else None
    batches = TrainBatches(_MadeUp(config.model.image_size), config.model, data, 1, 0, task.train_options(weights))
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
