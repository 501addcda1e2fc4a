"""Times the PyTorch reference's pretraining step: bfloat16 by autocast, attention by scaled_dot_product_attention."""

import copy
from collections.abc import Iterator

from avmae_jax.config import Config

from ..against_torch import random_batch
from .part import Row, await_turn


def measure(config: Config, *, batch: int, compiled: bool, steps: int, turn: str) -> Iterator[Row]:
    """Yields the figures of the eager or the compiled reference. JAX doesn't start a device here, whose memory it would take."""
    from parity import torch_side  # PyTorch is optional

    config = copy.deepcopy(config)
    config.train.batch_size = batch
    found = torch_side.time_pretraining(config, random_batch(config), compiled=compiled, steps=steps, ready=lambda: await_turn(turn))
    yield {"batch": batch, "torch.compile": compiled, "pairs/s": 1e3 * batch / found["ms a step"]} | found
