"""Tells what devices multiply in, which decides what "auto" means as model.compute_dtype."""

from collections.abc import Sequence
from typing import Any

_AMPERE = 8.0  # the lowest compute capability with bfloat16 and TF32


def fast_dtype(devices: Sequence[Any]) -> tuple[str, str]:
    """Returns "bfloat16" if all of some jax.Devices have products in it, else "float32", and a clause that says why."""
    without = [device for device in devices if not _has_bfloat16(device)]
    device = (without or devices)[0]
    if device.platform == "cpu":
        return "float32", "the device is a CPU"
    return ("float32", f"{device.device_kind} has no bfloat16") if without else ("bfloat16", f"{device.device_kind} has it")


def _has_bfloat16(device: Any) -> bool:
    if device.platform != "gpu":
        return device.platform == "tpu"
    capability = str(getattr(device, "compute_capability", ""))  # "9.0" on NVIDIA's; those of others are refused rather than guessed
    return capability.replace(".", "", 1).isdigit() and float(capability) >= _AMPERE
