"""Estimates what a step costs before it runs: arithmetic, memory, and how many pairs fit at once."""

import resource
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import psutil

from avmae_jax.config import ModelConfig
from avmae_jax.models.modes import Mode
from avmae_jax.models.registry import kind_of

# Values of a block that are alive at once, in widths of one token: inputs of norms, attention and both linear layers with their gradients
# (16), and those of the hidden layer around the GELU (4 hidden widths). Fitted to compiled programs: XLA for CPUs takes 573 MiB a pair for
# the base model, and these numbers give 570; tests/train/test_memory.py compares a smaller model.
_KEPT_WIDTHS, _KEPT_HIDDEN = 16, 4
_USABLE_SHARE = 0.7  # of the free memory; the rest is for the data, the compiler and other processes


def step_flops(config: ModelConfig, mode: Mode | None = None, *, frozen: bool = False) -> float:
    """Computes the floating-point operations of one pair in a training step: 3 times the forward pass, or that alone for a frozen encoder.

    `mode` is that of a classifier.
    """
    forward = 0.0
    for blocks, tokens, width in kind_of(config).stages(config, mode):
        linear = 2 * tokens * width**2 * (4 + 2 * config.mlp_ratio)
        forward += blocks * (linear + 4 * tokens**2 * width)
    return forward if frozen else 3 * forward


def activation_bytes(config: ModelConfig, mode: Mode | None = None) -> float:
    """Estimates the bytes of one pair's intermediate values in a training step; `mode` is that of a classifier."""
    bytes_each = jnp.dtype(config.product_dtype).itemsize
    widths = _KEPT_WIDTHS + _KEPT_HIDDEN * config.mlp_ratio
    stages = [(blocks, tokens * width * bytes_each) for blocks, tokens, width in kind_of(config).stages(config, mode)]
    if config.remat and jax.default_backend() != "cpu":  # XLA for CPUs merges the second computation of a block with the first
        return sum(blocks * size for blocks, size in stages) + max(size for _, size in stages) * widths
    return sum(blocks * size for blocks, size in stages) * widths


def usable_memory() -> float:
    """Returns the bytes that a run may use on each device: of an accelerator's free memory, or of that of machine and container."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return _USABLE_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return _USABLE_SHARE * free / jax.local_device_count()


def peak_memory() -> dict[str, float]:
    """Returns the most memory in use at once so far, in GiB: "peak_device_gib" of the fullest accelerator, or "peak_host_gib"."""
    if jax.default_backend() != "cpu":
        peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
        if known := [peak for peak in peaks if peak is not None]:
            return {"peak_device_gib": round(max(known) / 2**30, 3)}
    return {"peak_host_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)}  # Linux counts in KiB


def choose_micro_batch(config: ModelConfig, params: Any, batch_size: int, groups: int, memory: float, mode: Mode | None = None) -> int:
    """Returns the largest part of a batch that fits in memory.

    Args:
      config: sizes of the model.
      params: pytree of its parameters, or of their shapes.
      batch_size: pairs a step.
      groups: number of parts into which the mesh cuts a batch.
      memory: bytes a device may use.
      mode: of a classifier; None: pretraining.

    Returns:
      Pairs: divides batch_size and is a multiple of groups.

    Raises:
      ValueError: if the batch doesn't divide by the devices, or not even one pair a device fits.
    """
    require_even(batch_size, groups, groups)
    state = 5 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))  # weights, gradients and their sum, two moments
    each = activation_bytes(config, mode)
    fitting = [size for size in range(groups, batch_size + 1, groups) if batch_size % size == 0 and state + size / groups * each <= memory]
    if not fitting:
        need = (state + each) / 2**30
        remat = "" if config.remat or jax.default_backend() == "cpu" else "model.remat=True, "
        raise ValueError(
            f"a step of one pair a device needs about {need:.1f} GiB and {memory / 2**30:.1f} GiB may be used; "
            f"choose a smaller model.size, {remat}or more devices with mesh.fsdp"
        )
    return max(fitting)


def require_even(batch_size: int, micro_batch: int, groups: int) -> None:
    """Raises ValueError unless a batch divides into micro-batches, and each of these into equal parts for the devices."""
    if batch_size < 1 or batch_size % groups:
        raise ValueError(
            f"train.batch_size is {batch_size}; it must be a positive multiple of the {groups} parts into which the mesh cuts a batch"
        )
    if micro_batch < 1 or batch_size % micro_batch or micro_batch % groups:
        raise ValueError(
            f"train.batch_size {batch_size} must be a multiple of the micro-batch {micro_batch}, and that of the {groups} parts into which "
            "the mesh cuts a batch; change train.batch_size, train.micro_batch or mesh"
        )


def matmul_speed(size: int = 1536, repeats: int = 3) -> float:
    """Measures the floating-point operations per second of a large float32 matrix product on this machine."""
    square = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(square, square).block_until_ready()
    begin = time.perf_counter()
    for _ in range(repeats):
        product(square, square).block_until_ready()
    return 2 * size**3 * repeats / (time.perf_counter() - begin)
