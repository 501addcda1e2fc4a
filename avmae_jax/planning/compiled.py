"""Compiles a training step for GPUs that aren't there, with the compiler in JAX's CUDA wheels."""

import importlib.util
import logging as python_logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from avmae_jax.errors import AvmaeError, ConfigError, first_line
from avmae_jax.planning import hlo
from avmae_jax.planning.gpus import Gpu
from avmae_jax.train.program import Step, bytes_a_device, peak_bytes

_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
# Products become calls of cuBLAS, whose shapes the text names; with a GPU, XLA times these against kernels of its own and takes the faster.
_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


class CompilerError(AvmaeError):
    """Says that there is no compiler for GPUs, or that it failed."""


class Memory(NamedTuple):
    """Holds the bytes that a step needs on each device."""

    weights: int
    moments: int  # of the optimizer
    extra: int  # the task's own state, such as averaged weights
    batch: int
    temporaries: int  # activations, gradients, workspaces
    peak: int  # all of it, and what results need beside it


class Compiled(NamedTuple):
    """Holds a compiled step."""

    memory: Memory
    program: hlo.Program


def devices_of(gpu: Gpu, count: int, hosts: int, share: float) -> Sequence[Any]:
    """Returns devices to compile for.

    Args:
      gpu: their kind.
      count: of all hosts together.
      hosts: among which they are divided evenly.
      share: of their memory that JAX's allocator has.

    Raises:
      ConfigError: if the hosts don't divide the devices.
      CompilerError: if JAX's CUDA wheels are missing or don't take the description.
    """
    if count < 1 or hosts < 1 or count % hosts:
        raise ConfigError(f"devices is {count} and hosts is {hosts}; every host must have the same number of devices, at least one")
    if not any(map(importlib.util.find_spec, _PLUGINS)):
        raise CompilerError('the compiler for GPUs is missing; pip install -e ".[cuda13]" or ".[cuda12]", which needs no GPU')
    quiet = python_logging.getLogger("jax._src.xla_bridge")
    before = quiet.level
    quiet.setLevel(python_logging.CRITICAL)  # it shows a traceback where there is no GPU
    try:
        return topologies.get_topology_desc(
            platform="cuda", topology_name=gpu.title, target_config=gpu.description(share), topology=f"1x{hosts}x{count // hosts}"
        ).devices
    except (RuntimeError, NotImplementedError) as error:
        raise CompilerError(f"JAX {jax.__version__} can't compile for {gpu.title} without one: {first_line(error)}") from error
    finally:
        quiet.setLevel(before)


def compile_step(step: Step) -> Compiled:
    """Compiles a traced step for the devices on which its arguments are placed.

    Raises:
      CompilerError: if XLA can't; it needs no memory of a device for it.
    """
    try:
        done = step.traced.lower().compile(compiler_options=_OPTIONS)
    except RuntimeError as error:
        raise CompilerError(f"XLA can't compile the step: {first_line(error)}") from error
    found, state = done.memory_analysis(), step.state
    memory = Memory(
        weights=bytes_a_device((state.params, state.frozen)),
        moments=bytes_a_device(state.opt_state),
        extra=bytes_a_device(state.extra),
        batch=bytes_a_device(step.batch),
        temporaries=found.temp_size_in_bytes,
        peak=peak_bytes(done),
    )
    return Compiled(memory, hlo.parse(done.as_text()))
