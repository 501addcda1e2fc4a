"""Makes the plan of a run: what its step needs on GPUs, and what the run would take."""

import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
from absl import logging

from avmae_jax.config import Config
from avmae_jax.errors import ConfigError
from avmae_jax.models import registry
from avmae_jax.models.registry import kind_of
from avmae_jax.planning import speed
from avmae_jax.planning.clips import count_clips
from avmae_jax.planning.compiled import Compiled, Memory, compile_step, devices_of
from avmae_jax.planning.cost import Cost, cost_of
from avmae_jax.planning.gpus import find_gpu
from avmae_jax.train import memory, sharding
from avmae_jax.train.epochs import Epochs
from avmae_jax.train.fitting import Way, choose, parts_of
from avmae_jax.train.precision import settle_precision
from avmae_jax.train.program import task_of, trace_step
from avmae_jax.train.task import Task

READ = 1191  # pairs that the reader gives a second and core, measured: README, Speed
# Of JAX's share of the memory; the rest is for gaps and for workspaces that only a GPU tells. What doesn't fit, XLA presses by recomputing
# to a little more than this, so that model.remat, which recomputes less, is tried first.
_SPARE = 0.95
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Machine:
    """Describes what a run is planned for."""

    gpu: str  # a row of gpus.GPUS
    devices: int = 1  # of all hosts together
    hosts: int = 1
    share: float = 0.75  # of a GPU's memory that JAX's allocator takes: its default, or XLA_PYTHON_CLIENT_MEM_FRACTION


def make_plan(config: Config, machine: Machine, clips: int = 0, classes: int = 0) -> dict[str, Any]:
    """Compiles the step of a config for a machine that needn't be there, and computes what the run would take.

    Args:
      config: of the run; it is not changed.
      machine: GPUs and hosts.
      clips: training clips; 0: those of the config's data set.
      classes: of a classifier; 0: those of the data set.

    Returns:
      A JSON object: "config", "machine", "step" (how the batch is computed), "memory_gib" and "flops", "bytes", "collectives", "cudnn" of
      one device and step, "seconds_a_step", "pairs_a_second", "run", "loader" and "assumptions". Pairs of numbers are ranges.

    Raises:
      AvmaeError: if the GPU is unknown, the compiler is missing, the data set can't be opened, or the batch doesn't fit.
      ValueError: if fields of the config can't work together, or devices, mesh and batch don't divide.
    """
    config, gpu = copy.deepcopy(config), find_gpu(machine.gpu)
    config.validate()
    count, names = count_clips(config, clips, classes)
    devices = devices_of(gpu, machine.devices, machine.hosts, machine.share)
    settle_precision(config, None, devices)
    mesh, task = sharding.make_mesh(config.mesh, devices), task_of(config, names)
    memory.require_even(config.train.batch_size, sharding.batch_shards(mesh), sharding.batch_shards(mesh))
    found: dict[Way, Compiled] = {}

    def compiled(remat: bool, micro_batch: int) -> Memory:
        logging.info("compiling %d pairs at once for %s%s", micro_batch, gpu.title, ", with model.remat" if remat else "")
        result = compile_step(trace_step(config, task, mesh, micro_batch, count, remat=remat))
        found[Way(remat, micro_batch)] = result
        return result.memory

    limit = _SPARE * machine.share * gpu.memory
    way = _choose(config, sharding.batch_shards(mesh), limit, compiled, found)
    chosen = found[way]
    cost = cost_of(chosen.program, machine.devices, machine.hosts)
    pace = [speed.seconds(cost, gpu, pace) for pace in (speed.FAST, speed.SLOW)]
    tried = [{**each._asdict(), "peak_gib": result.memory.peak / _GIB} for each, result in found.items()]
    step = {
        "batch_size": config.train.batch_size,
        **way._asdict(),
        "negatives": task.negatives(way.micro_batch, sharding.batch_shards(mesh)),
        "compute_dtype": config.model.compute_dtype,
        "tried": tried,
    }
    sizes = {name: value / _GIB for name, value in chosen.memory._asdict().items()}
    return {
        "config": config.name,
        "machine": {**dataclasses.asdict(machine), "title": gpu.title, "mesh": dict(mesh.shape)},
        "step": step,
        "memory_gib": {**sizes, "usable": limit / _GIB, "device": gpu.memory / _GIB},
        **_work(config, task, cost, chosen),
        **_time(config, machine, count, pace),
        "assumptions": speed.assumptions(gpu),
        "jax": jax.__version__,
    }


def _choose(config: Config, groups: int, limit: float, compiled: Callable[[bool, int], Memory], found: dict[Way, Compiled]) -> Way:
    """Returns the way in which the batch is computed; raises ConfigError if none fits."""
    batch, given, remat = config.train.batch_size, config.train.micro_batch, config.model.remat
    if given:
        memory.require_even(batch, given, groups)
        way = Way(remat, given) if compiled(remat, given).peak <= limit else None
    else:
        way = choose(compiled, parts_of(batch, groups), limit, (True,) if remat else (False, True))
    if way is not None:
        return way
    tried = ", ".join(
        f"{each.micro_batch} pairs{' with model.remat' * each.remat} {result.memory.peak / _GIB:.1f}" for each, result in found.items()
    )
    raise ConfigError(
        f"train.batch_size is {batch}, which fits in no way in the {limit / _GIB:.1f} GiB that a device may use ({tried} GiB); choose a "
        "smaller model.size, more devices with mesh.fsdp, or a larger GPU"
    )


def _work(config: Config, task: Task, cost: Cost, chosen: Compiled) -> dict[str, Any]:
    """Describes what one device computes, moves and exchanges in a step."""
    exchanged: Counter[tuple[Any, ...]] = Counter()
    sizes: Counter[tuple[Any, ...]] = Counter()
    for each in cost.collectives:
        kind = (each.kind, each.dtype, each.devices, each.across_hosts)
        exchanged[kind] += each.count
        sizes[kind] += each.count * each.bytes
    names = ("kind", "dtype", "devices", "across_hosts")
    calls = cost.cudnn_calls()
    mode = registry.tuned_mode(config) if kind_of(config.model).modes else None
    frozen = bool(mode) and config.tune.freeze_base
    products = Counter(kernel.precision for kernel in cost.kernels if kernel.kind == "product" for _ in range(kernel.count))
    return {
        "flops": cost.flops,
        "formula_flops": memory.step_flops(config, mode, frozen=frozen) * config.train.batch_size,
        "bytes": cost.bytes,
        "bytes_by_part": cost.by_part,
        "kernels": sum(kernel.count for kernel in cost.kernels),
        "products": dict(products),
        "collectives": [
            {**dict(zip(names, kind, strict=True)), "count": count, "bytes": sizes[kind]} for kind, count in exchanged.most_common()
        ],
        "cudnn": {"calls": sum(calls.values()), "queries": calls},
        "aliased": chosen.program.aliased,
    }


def _time(config: Config, machine: Machine, clips: int, pace: list[float]) -> dict[str, Any]:
    """Computes what a step, the run and the reader take."""
    batch = config.train.batch_size
    steps = Epochs(clips / batch).total_steps(config.train)
    hours = [steps * seconds / 3600 for seconds in pace]
    rates = [batch / seconds for seconds in reversed(pace)]
    read = rates[1] * (1 + config.augment.mixup) / machine.hosts  # a mixed pair is read twice
    return {
        "seconds_a_step": pace,
        "pairs_a_second": rates,
        "run": {
            "clips": clips,
            "steps": steps,
            "epochs": steps * batch / clips,
            "hours": hours,
            "gpu_hours": [machine.devices * value for value in hours],
        },
        "loader": {"pairs_a_second_and_host": read, "cores_a_host": math.ceil(read / READ), "pairs_a_second_and_core": READ},
    }
