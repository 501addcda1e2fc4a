"""Names the machine and the versions."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator

import jax

from avmae_jax.config import Config

from .part import Row

_CUDA = ("jax-cuda{}-plugin", "nvidia-cudnn-cu{}")
_PACKAGES = ("jax", "jaxlib", *(name.format(version) for version in (12, 13) for name in _CUDA), "flax", "optax", "numpy", "torch")


def measure(config: Config) -> Iterator[Row]:
    """Yields the device, its memory and the versions of what computes."""
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    yield {
        "device": device.device_kind,
        "count": jax.device_count(),
        "GiB that JAX may use": None if limit is None else limit / 2**30,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
    }
