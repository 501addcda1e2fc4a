"""Times training steps and measures their memory against what the compiler said."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.errors import JaxRuntimeError

from avmae_jax.config import Config
from avmae_jax.errors import first_line
from avmae_jax.train import memory
from avmae_jax.train.program import peak_bytes

from . import feeding
from .part import Row, await_turn
from .program import Program


def measure(config: Config, *, sizes: Sequence[tuple[int, bool]], steps: int, training: Mapping[str, Any], turn: str) -> Iterator[Row]:
    """Yields the figures of each step, the one that needs the least memory first, since the peak that a process is told only grows.

    Args:
      config: of the model and the data.
      sizes: (batch, model.remat) of each.
      steps: that are timed.
      training: options of feeding.py, which finds its step among the kept programs afterwards.
      turn: of part.await_turn.
    """
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # traced one after another, in Python, and compiled side by side
        compiling = [(program := Program(config, batch=batch, remat=remat), pool.submit(program.compile)) for batch, remat in sizes]
        kept = pool.submit(lambda: feeding.trace(config, **training).lower().compile())
    await_turn(turn)
    for program, compiled in sorted(compiling, key=lambda each: _peak(each[0])):
        row = {"batch": program.config.train.batch_size, "remat": program.config.model.remat}
        try:
            compiled.result()
            yield row | _time(program, steps)
        except JaxRuntimeError as error:  # too little memory, as a rule, which costs this program alone
            yield row | {"failed": first_line(error)}
        finally:
            program.clear()
    kept.result()  # what fails there costs no figures


def _peak(program: Program) -> float:
    return math.inf if program.compiled is None else peak_bytes(program.compiled)


def _time(program: Program, steps: int) -> Row:
    """Measures a program: steps are dispatched one after another, and waited for at the end, as in training."""
    program.fill().train(3)  # the first ones allocate
    loss, seconds = program.train(steps)
    seconds /= steps
    measured = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    _, sending = program.train(steps, anew=True)
    config = program.config
    batch = config.train.batch_size
    return {
        "dtype": config.model.compute_dtype,
        "ms a step": 1e3 * seconds,
        "ms with a batch that is sent": 1e3 * sending / steps,
        "pairs/s": batch / seconds,
        "TFLOP/s by formula": memory.step_flops(config) * batch / seconds / 1e12,
        "peak GiB": None if measured is None else measured / 2**30,
        "peak GiB as compiled": peak_bytes(program.compiled) / 2**30,
        "loss": loss,
    }
