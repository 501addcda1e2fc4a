"""Estimates what a step costs before it runs: arithmetic, memory, and how many pairs fit at once."""

import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import psutil

from avmae_jax.config import Config
from avmae_jax.models.modes import Mode
from avmae_jax.models.registry import kind_of

# Values of a block that are alive at once, in widths of one token. XLA for CPUs: inputs of norms, attention and linear layers with their
# gradients (17), and the input of the GELU with its gradient (2 hidden widths). Fitted to compiled programs: it takes 446 MiB for a pair of
# the base model, and these numbers give 445; tests/train/test_memory.py compares a smaller model. XLA for GPUs takes 146 MiB in bfloat16
# and 291 in float32, for 143 and 285.
_KEPT_ON_CPUS, _KEPT = (17, 2), (8, 2)
_USABLE_ON_CPUS, _USABLE = 0.7, 0.95  # of the free memory; the rest is for data, compiler and other processes; for gaps and workspaces


def step_flops(config: Config, mode: Mode | None = None, *, frozen: bool = False) -> float:
    """Computes the floating-point operations of one clip in a training step: those of the forward pass, and twice as many for gradients.

    `mode` is that of a classifier, of which an encoder that is `frozen` has no gradients.
    """
    total = 0.0
    for stage in kind_of(config.model).stages(config, mode):
        linear = 2 * stage.tokens * stage.width**2 * (4 + 2 * config.model.mlp_ratio)
        passes = 3 if stage.gradient and not frozen else 1
        total += passes * stage.rows * stage.blocks * (linear + 4 * stage.tokens**2 * stage.width)
    return total


def activation_bytes(config: Config, mode: Mode | None = None, *, remat: bool | None = None) -> float:
    """Estimates the bytes of one clip's intermediate values in a training step; `mode` is a classifier's, `remat` replaces model.remat."""
    bytes_each = jnp.dtype(config.model.product_dtype).itemsize
    kept, hidden = _KEPT_ON_CPUS if jax.default_backend() == "cpu" else _KEPT
    widths = kept + hidden * config.model.mlp_ratio
    kept_stages = [stage for stage in kind_of(config.model).stages(config, mode) if stage.gradient]
    stages = [(stage.blocks, stage.rows * stage.tokens * stage.width * bytes_each) for stage in kept_stages]
    if config.model.remat if remat is None else remat:
        return sum(blocks * size for blocks, size in stages) + max(size for _, size in stages) * widths
    return sum(blocks * size for blocks, size in stages) * widths


def usable_memory() -> float:
    """Returns the bytes that a run may use on each device: of an accelerator's free memory, or of that of machine and container."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return _USABLE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return _USABLE_ON_CPUS * free / jax.local_device_count()


def peak_memory() -> dict[str, float]:
    """Returns the most memory in use at once so far, in GiB: "peak_device_gib" of the fullest accelerator, or "peak_host_gib"."""
    if jax.default_backend() != "cpu":
        peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
        if known := [peak for peak in peaks if peak is not None]:
            return {"peak_device_gib": round(max(known) / 2**30, 3)}
    return {"peak_host_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)}  # Linux counts in KiB


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
