"""Checks and measures everything that a GPU is promised to do, in one command of at most eight minutes: `--gpu-report`."""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import logging

from avmae_jax.config import Config
from avmae_jax.files import plain, write_json
from avmae_jax.train.run import require_task

from .gpu.part import CLONE, Measured, Part, run
from .measuring import show

_LEAST = 20  # seconds that a part must have left to be begun
_STEPS = 20
_FEEDING = 3 * _STEPS
_SIDE_BY_SIDE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # else the first process would take the memory of the others
_KERNELS_UNTIMED = "--xla_gpu_autotune_level=0"  # what isn't timed needn't wait until XLA has found its fastest kernels
_KERNELS_ONE_BY_ONE = "--xla_gpu_enable_command_buffer="  # so that a profile names each


def groups(batches: Sequence[int]) -> Iterator[Sequence[Part]]:
    """Yields groups of parts, the most important first, since the last are left out when time runs out.

    The parts of a group compile side by side, which would take most of the time otherwise, and those that are timed do that one after
    another, when the parts before them have ended. XLA chooses kernels by timing them, so a group has one part whose kernels count.
    """
    first = batches[0]
    steps = {"sizes": [(batch, remat) for batch in batches for remat in (False, True)], "steps": _STEPS}
    training = {"batch": first, "steps": _FEEDING}
    yield (
        Part("device", "device", {}, _SIDE_BY_SIDE),
        Part("parity with the CPU", "parity", {"batch": 2}, _SIDE_BY_SIDE | _flags(_KERNELS_UNTIMED) | _with_cpu()),
        Part("steps", "steps", steps | {"training": training}, _SIDE_BY_SIDE, timed=True),
        *(
            Part(f"PyTorch {how}, batch {first}", "pytorch", {"batch": first, "compiled": compiled, "steps": _STEPS}, timed=True)
            for how, compiled in (("eager", False), ("compiled", True))
        ),
    )
    yield [Part("training on clips", "feeding", training)]
    profile = Part(
        f"parts of the step, batch {first}",
        "profile",
        {"batch": first, "steps": 5},
        _SIDE_BY_SIDE | _flags(_KERNELS_ONE_BY_ONE),
        timed=True,
    )
    yield Part("the same steps twice", "repeats", {"batch": first, "steps": 50, "seconds": 240}, _SIDE_BY_SIDE), profile


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
        kept = {
            "JAX_COMPILATION_CACHE_DIR": programs,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0],  # one GPU, as PyTorch's reference uses
        }

        def run_in_time(part: Part, turn: Path) -> Measured:
            left = ends - time.monotonic()
            if left < _LEAST:
                return Measured(part.title, [], "left out: no time", 0.0)
            logging.info("%s; at most %.0f s", part.title, left)
            options = {**part.options, "turn": str(turn)} if part.timed else part.options
            return run(part._replace(options=options, environment=kept | dict(part.environment)), config, left)

        for group in groups(batches):
            turns = [Path(programs) / f"turn of {part.title}" for part in group]
            measuring = pool.map(run_in_time, group, turns)  # begins all at once
            try:
                for turn in turns:
                    turn.touch()
                    found.append(next(measuring))
                    write_json(path, plain({"model": config.name, "batches": list(batches), "parts": [part._asdict() for part in found]}))
            finally:
                for turn in turns:
                    turn.touch()  # so that none waits for its turn, whatever went wrong
    return found


def _flags(flag: str) -> dict[str, str]:
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}


def _with_cpu() -> dict[str, str]:
    """Returns JAX_PLATFORMS with the CPU among them, which the GPU is compared with."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return {} if not platforms or "cpu" in platforms.split(",") else {"JAX_PLATFORMS": f"{platforms},cpu"}


def show_report(config: Config, batches: Sequence[int], minutes: float, path: Path) -> None:
    """Measures, and prints a table of what was found; raises ValueError for a config that isn't of a pretraining."""
    require_task(config, "pretraining")
    if CLONE is None:
        logging.warning("parity/ is only in the project's clone, so the comparisons with the CPU and with PyTorch fail here")
    found = measure(config, batches, minutes, path)
    rows = [(part.title, _text(row), part.ended, part.seconds) for part in found for row in (part.rows or [{}])]
    show(f"{config.name} on this machine", ["part", "figures", "ended", "s"], rows, f"all figures are in {path}")


def _text(row: dict[str, Any]) -> str:
    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)

    return ", ".join(f"{name} {cell(value)}" for name, value in row.items())
