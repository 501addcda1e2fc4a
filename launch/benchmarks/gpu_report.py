"""Checks and measures everything that a GPU is promised to do, in one command of at most eight minutes: `--gpu-report`."""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from absl import logging

from avmae_jax.config import Config
from avmae_jax.files import write_json

from .gpu.part import Measured, Part, run
from .measuring import show

_LEAST = 20  # seconds that a part must have left to be begun
_STEPS = 20
_FEEDING = 3 * _STEPS
_SIDE_BY_SIDE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # else the first process would take the memory of the others
_KERNELS_UNTIMED = "--xla_gpu_autotune_level=0"  # what isn't timed needn't wait until XLA has found its fastest kernels
_KERNELS_ONE_BY_ONE = "--xla_gpu_enable_command_buffer="  # so that a profile names each


def untimed(batches: Sequence[int]) -> Sequence[Part]:
    """Returns what is done first, side by side: what the compiler takes would be most of the time otherwise."""
    steps = [(batch, remat) for batch in batches for remat in (False, True)]
    programs = {"steps": steps, "training": {"batch": batches[0], "steps": _FEEDING}}
    return (
        Part("programs", "programs", programs, _SIDE_BY_SIDE),
        Part("parity with the CPU", "parity", {"batch": 2}, _SIDE_BY_SIDE | _flags(_KERNELS_UNTIMED)),
    )


def timed(batches: Sequence[int]) -> Iterator[Part]:
    """Yields what is measured then, the most important first, since those at the end are left out when time runs out."""
    first, last = batches[0], batches[-1]
    yield Part("device", "device")
    for batch in (first, last):
        yield Part(f"step, batch {batch}", "steps", {"batch": batch, "remat": False, "steps": _STEPS})
    yield Part(f"PyTorch, batch {first}", "pytorch", {"batch": first, "compiled": False, "steps": _STEPS})
    yield Part("training on clips", "feeding", {"batch": first, "steps": _FEEDING})
    yield Part("the same steps twice", "repeats", {"batch": first, "steps": 50, "seconds": 240})
    for batch in batches[1:-1]:
        yield Part(f"step, batch {batch}", "steps", {"batch": batch, "remat": False, "steps": _STEPS})
    for batch in (last, *batches[:-1]):
        yield Part(f"step with remat, batch {batch}", "steps", {"batch": batch, "remat": True, "steps": _STEPS})
    yield Part(f"parts of the step, batch {first}", "profile", {"batch": first, "steps": 5}, _flags(_KERNELS_ONE_BY_ONE))
    yield Part(f"PyTorch compiled, batch {first}", "pytorch", {"batch": first, "compiled": True, "steps": _STEPS})


def measure(config: Config, batches: Sequence[int], minutes: float, path: Path) -> list[Measured]:
    """Measures all parts, as far as the time suffices, and writes the report after each.

    Args:
      config: of the model and the data.
      batches: sizes, in increasing order.
      minutes: after which no part is begun and those under way are ended.
      path: of the report, a JSON file.
    """
    ends, found = time.monotonic() + 60 * minutes, []
    with tempfile.TemporaryDirectory() as programs, ThreadPoolExecutor() as pool:
        kept = {"JAX_COMPILATION_CACHE_DIR": programs, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

        def run_in_time(part: Part) -> Measured:
            left = ends - time.monotonic()
            if left < _LEAST:
                return Measured(part.title, [], "left out: no time", 0.0)
            logging.info("%s; at most %.0f s", part.title, left)
            return run(part._replace(environment=kept | dict(part.environment)), config, left)

        for measured in chain(pool.map(run_in_time, untimed(batches)), map(run_in_time, timed(batches))):
            found.append(measured)
            write_json(path, {"model": config.name, "batches": list(batches), "parts": [each._asdict() for each in found]})
    return found


def _flags(flag: str) -> dict[str, str]:
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}


def show_report(config: Config, batches: Sequence[int], minutes: float, path: Path) -> None:
    """Measures, and prints a table of what was found."""
    found = measure(config, batches, minutes, path)
    rows = [(part.title, _text(row), part.ended, part.seconds) for part in found for row in (part.rows or [{}])]
    show(f"{config.name} on this machine", ["part", "figures", "ended", "s"], rows, f"all figures are in {path}")


def _text(row: dict[str, Any]) -> str:
    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)

    return ", ".join(f"{name} {cell(value)}" for name, value in row.items())
