"""Profiles training steps and adds up the time of their kernels by part of the step."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.profiler import ProfileData

from avmae_jax.config import Config
from avmae_jax.planning import hlo
from avmae_jax.planning.cost import cost_of

from .part import Row, await_turn
from .program import Program


def measure(config: Config, *, batch: int, steps: int, turn: str) -> Iterator[Row]:
    """Yields the milliseconds a step of each part of it, the longest first, as shares too."""
    program = Program(config, batch=batch).compile()
    await_turn(turn)
    program.fill().train(3)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            program.train(steps)
        spent = _seconds_by_kernel(next(Path(folder).rglob("*.xplane.pb")))
    part_of = {kernel.name: kernel.part for kernel in cost_of(hlo.parse(program.compiled.as_text())).kernels}
    parts: dict[str, float] = defaultdict(float)
    for name, seconds in spent.items():
        parts[part_of.get(name, "not in the program")] += seconds / steps
    total = sum(parts.values())
    if not total:
        raise RuntimeError("the profile names no kernel of the step")
    for name, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        yield {"part": name, "ms a step": 1e3 * seconds, "share": seconds / total}


def _seconds_by_kernel(trace: Path) -> dict[str, float]:
    """Adds up the time of each instruction of the compiled programs in a trace."""
    spent: dict[str, float] = defaultdict(float)
    for plane in ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None and not event.name.startswith("end:"):
                    spent[str(name)] += event.duration_ns / 1e9
    return spent
