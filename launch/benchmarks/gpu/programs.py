"""Compiles the programs of the other parts side by side and keeps them, so that no part waits for the compiler."""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from avmae_jax.config import Config
from avmae_jax.train.program import peak_bytes

from . import feeding
from .part import Row
from .program import step_of


def measure(config: Config, *, steps: Sequence[tuple[int, bool]], training: dict[str, int]) -> Iterator[Row]:
    """Yields the figures of each program.

    Args:
      config: of the model and the data.
      steps: (batch, remat) of each step.
      training: options of the part that trains on clips.
    """
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        compiling: list[tuple[Row, Future[Row]]] = []
        for batch, remat in steps:  # traced one after another, in Python
            begin = time.perf_counter()
            traced = step_of(config, batch=batch, remat=remat)[2].traced
            row = {"batch": batch, "remat": remat, "trace s": time.perf_counter() - begin}
            compiling.append((row, pool.submit(_compile, traced)))
        compiling.append(
            ({"batch": training["batch"], "training on clips": True}, pool.submit(_compile, feeding.trace(config, **training)))
        )
        for row, compiled in compiling:
            yield row | compiled.result()


def _compile(traced: Any) -> Row:
    """Returns the seconds that a compilation takes beside others, which also wait for each other's timing of kernels."""
    begin = time.perf_counter()
    compiled = traced.lower().compile()
    return {"compile s, beside others": time.perf_counter() - begin, "peak GiB as compiled": peak_bytes(compiled) / 2**30}
