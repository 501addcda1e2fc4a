"""Trains some steps with train.deterministic: one of the two processes that repeats.py compares."""

import hashlib
from collections.abc import Iterator

import jax
import numpy as np

from avmae_jax.config import Config
from avmae_jax.train.determinism import prepare_devices

from .part import Row
from .program import Program


def measure(config: Config, *, batch: int, steps: int) -> Iterator[Row]:
    """Yields a digest of the weights after the steps, and the last loss."""
    prepare_devices(config)  # before JAX starts
    program = Program(config, batch=batch).compile().fill()
    loss, _ = program.train(steps)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(program.state.params):
        digest.update(np.asarray(leaf).tobytes())
    yield {"weights": digest.hexdigest(), "loss": loss}
