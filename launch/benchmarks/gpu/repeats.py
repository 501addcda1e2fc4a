"""Trains the same steps twice with train.deterministic, each time in a new process, and compares the weights bit for bit."""

import tempfile
from collections.abc import Iterator

from avmae_jax.config import Config

from . import part
from .program import few_blocks


def measure(config: Config, *, batch: int, steps: int, seconds: float) -> Iterator[part.Row]:
    """Yields whether both processes end with the same weights, of a model with few blocks, since each compiles for itself."""
    config = few_blocks(config)
    config.train.deterministic = True
    with tempfile.TemporaryDirectory() as folder:
        config.train.workdir = folder  # where the first start keeps which kernels XLA chose
        once = part.Part("once", "repeats_once", {"batch": batch, "steps": steps})
        found = [part.run(once, config, seconds / 2) for _ in range(2)]
    if any(each.ended != "done" for each in found):
        raise RuntimeError("; ".join(each.ended for each in found))
    (first,), (second,) = (each.rows for each in found)
    yield {
        "batch": batch,
        "blocks": config.model.depth,
        "steps": steps,
        "same": first["weights"] == second["weights"],
        "loss": first["loss"],
    }
