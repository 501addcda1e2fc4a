"""Times a training step and measures its memory against what the compiler said."""

from collections.abc import Iterator

import jax

from avmae_jax.config import Config
from avmae_jax.train import memory
from avmae_jax.train.program import peak_bytes

from .part import Row
from .program import Program


def measure(config: Config, *, batch: int, remat: bool, steps: int) -> Iterator[Row]:
    """Yields the figures of one program: steps are dispatched one after another, and waited for at the end, as in training."""
    program = Program(config, batch=batch, remat=remat)
    program.train(3)  # the first ones allocate
    loss, seconds = program.train(steps)
    seconds /= steps
    measured = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    _, sending = program.train(steps, anew=True)
    flops = memory.step_flops(config) * batch
    yield {
        "batch": batch,
        "remat": remat,
        "dtype": program.config.model.compute_dtype,
        "ms a step": 1e3 * seconds,
        "ms with a batch that is sent": 1e3 * sending / steps,
        "pairs/s": batch / seconds,
        "TFLOP/s by formula": flops / seconds / 1e12,
        "peak GiB": None if measured is None else measured / 2**30,
        "peak GiB as compiled": peak_bytes(program.compiled) / 2**30,
        "loss": loss,
    }
