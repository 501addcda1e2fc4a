"""Decides how a batch is computed: whole, with blocks that are recomputed, or, last of all, in parts.

On accelerators the step is compiled here, and the compiler says what it needs. On CPUs a formula estimates it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
from absl import logging
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.config_history import with_defaults
from avmae_jax.models import registry
from avmae_jax.models.registry import kind_of
from avmae_jax.train import hosts, memory, sharding
from avmae_jax.train.negatives import describe_negatives
from avmae_jax.train.program import compiled, peak_bytes, trace_step
from avmae_jax.train.task import Task
from avmae_jax.weights.build import described

_NEAR = 1.1  # parts that are estimated this far above the limit are still compiled: the estimate is no more exact
_FAR = 2.0  # what the formula puts this far above the limit isn't compiled: it is no further off
_FULL = "RESOURCE_EXHAUSTED"  # how XLA's errors begin where the compiler finds no way to fit a program


class Needed(Protocol):
    """Is what must be known of a step's memory: bytes on the fullest device."""

    @property
    def peak(self) -> float:
        """Returns all bytes that the step needs at once."""
        ...

    @property
    def temporaries(self) -> float:
        """Returns those of them that grow with the micro-batch: activations, beside gradients."""
        ...


class Way(NamedTuple):
    """Holds a way in which a batch can be computed."""

    remat: bool
    micro_batch: int


class Fit(NamedTuple):
    """Holds how a run computes its batches."""

    micro_batch: int
    step: Any = None  # the compiled step; None: it is compiled when it is first needed


class _Bytes(NamedTuple):
    peak: float
    temporaries: float


def choose(needed: Callable[[bool, int], Needed], sizes: Sequence[int], limit: float, remats: Sequence[bool] = (False, True)) -> Way | None:
    """Returns the first way that fits: whole, whole with recomputed blocks, then ever smaller parts with recomputed blocks.

    Args:
      needed: (remat, micro-batch) -> memory of the step; compiling takes long, so that it is called for few of the sizes.
      sizes: of micro-batches, the whole batch first.
      limit: bytes a device may use.
      remats: whether blocks are recomputed, in the order in which the whole batch is tried; parts are as the last.

    Returns:
      The way; None if not even the smallest part fits.
    """
    latest, known = needed(remats[0], sizes[0]), sizes[0]
    if latest.peak <= limit:
        return Way(remats[0], known)
    for remat in remats[1:]:
        latest = needed(remat, known)
        if latest.peak <= limit:
            return Way(remat, known)
    for size in sizes[1:]:
        estimate = latest.peak - latest.temporaries * (1 - size / known)
        if estimate > _NEAR * limit and size != sizes[-1]:
            continue
        latest, known = needed(remats[-1], size), size
        if latest.peak <= limit:
            return Way(remats[-1], size)
    return None


def parts_of(batch_size: int, groups: int) -> Sequence[int]:
    """Lists the sizes of micro-batches that divide a batch and that the devices can share, the largest first."""
    return [size for size in range(batch_size, 0, -1) if batch_size % size == 0 and size % groups == 0]


def fit_batch(config: Config, task: Task, clips: int, before: Mapping[str, Any] | None = None) -> Fit:
    """Decides how a run computes its batches, sets model.remat, and logs what isn't as the config says.

    Args:
      config: of the run; model.remat is set where only recomputed blocks fit.
      task: what is trained.
      clips: in the training set.
      before: meta of the checkpoint from which the run goes on, whose way is kept where the devices can share it: the free memory changes
        from moment to moment, and another micro-batch means other rounding and, unless loss.negatives is "global", other negatives. None: a
        new run.

    Raises:
      ValueError: if the batch can't be divided so, or not even one pair a device fits.
    """
    mesh, batch, given = sharding.make_mesh(config.mesh), config.train.batch_size, config.train.micro_batch
    groups = sharding.batch_shards(mesh)
    memory.require_even(batch, groups, groups)
    limit = min(hosts.gather(memory.usable_memory()))
    kept, recomputed = (before["micro_batch"], with_defaults(before["config"])["model"]["remat"]) if before else (0, False)
    steps: dict[Way, Any] = {}
    if given:
        memory.require_even(batch, given, groups)
        way, reason = Way(config.model.remat, given), "as train.micro_batch says"
    elif kept and batch % kept == 0 and kept % groups == 0:
        way, reason = Way(config.model.remat or recomputed, kept), "as in the run that is resumed"
    else:
        estimated = _estimate(config, task, mesh)

        def needed(remat: bool, micro_batch: int) -> Needed:
            formula = estimated(remat, micro_batch)
            if jax.default_backend() == "cpu" or formula.peak > _FAR * limit:
                return formula
            return _compile(config, task, mesh, clips, Way(remat, micro_batch), steps)

        remats = (True,) if config.model.remat else (False, True)
        way = choose(needed, parts_of(batch, groups), limit, remats)
        if way is None:
            raise ValueError(
                f"a step of one pair a device needs about {estimated(remats[-1], groups).peak / 2**30:.1f} GiB and {limit / 2**30:.1f} GiB "
                "may be used; choose a smaller model.size, or more devices with mesh.fsdp"
            )
        reason = f"{limit / 2**30:.1f} GiB per device may be used"
    _announce(config, task, way, groups, reason)
    config.model.remat = way.remat
    return Fit(way.micro_batch, steps.get(way))


def _estimate(config: Config, task: Task, mesh: jax.sharding.Mesh) -> Callable[[bool, int], Needed]:
    """Returns the formula for the memory of a step on each device."""
    params = nnx.state(described(config.model, len(task.label_names)), nnx.Param)
    leaves, places = (jax.tree.leaves(tree) for tree in (params, sharding.shardings(params, mesh)))
    parts = (leaf.dtype.itemsize * math.prod(place.shard_shape(leaf.shape)) for leaf, place in zip(leaves, places, strict=True))
    state, groups = 5 * sum(parts), sharding.batch_shards(mesh)  # weights, gradients and their sum, two moments
    mode = registry.tuned_mode(config) if kind_of(config.model).modes else None

    def estimate(remat: bool, micro_batch: int) -> Needed:
        activations = micro_batch / groups * memory.activation_bytes(config, mode, remat=remat)
        return _Bytes(state + activations, activations)

    return estimate


def _compile(config: Config, task: Task, mesh: jax.sharding.Mesh, clips: int, way: Way, steps: dict[Way, Any]) -> Needed:
    """Compiles a step, keeps it in `steps`, and returns what it needs."""
    logging.info("compiling a step of %d pairs at once%s", way.micro_batch, " with recomputed blocks" if way.remat else "")
    try:
        steps[way] = compiled(trace_step(config, task, mesh, way.micro_batch, clips, remat=way.remat).traced)
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith(_FULL):
            raise
        return _Bytes(float("inf"), 0.0)
    return _Bytes(peak_bytes(steps[way]), steps[way].memory_analysis().temp_size_in_bytes)


def _announce(config: Config, task: Task, way: Way, groups: int, reason: str) -> None:
    """Logs how a batch is computed where it isn't whole and without recomputed blocks, and the number of parameters."""
    batch, size = config.train.batch_size, way.micro_batch
    if way.remat and not config.model.remat:
        logging.info("blocks are recomputed in the backward pass, which takes about a fifth more time (%s)", reason)
    if size < batch:
        negatives = describe_negatives(task, size, groups)
        logging.info("a step of %d pairs is computed as %d micro-batches of %d (%s)%s", batch, batch // size, size, reason, negatives)
    params = nnx.filter_state(nnx.state(described(config.model, len(task.label_names)), nnx.Param), task.trainable())
    logging.info("%.1f M parameters are trained", sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6)
