"""Times the PyTorch reference's pretraining step beside ours: bfloat16 by autocast, attention by scaled_dot_product_attention."""

import copy
import time
from collections.abc import Iterator

from avmae_jax.config import Config

from .part import Row


def measure(config: Config, *, batch: int, compiled: bool, steps: int) -> Iterator[Row]:
    """Yields the figures of the eager or the compiled reference. JAX isn't started: it would take the GPU's memory."""
    import torch  # pyright: ignore[reportMissingImports] - optional

    from parity import torch_side

    from ..against_torch import random_batch

    config = copy.deepcopy(config)
    config.train.batch_size = batch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    step = torch_side.pretraining_step(config, random_batch(config), device=device, compiled=compiled)
    begin = time.perf_counter()
    for _ in range(3):
        step().item()
    first, begin = time.perf_counter() - begin, time.perf_counter()
    for _ in range(steps):
        loss = step()
    last = loss.item()  # waits for the device
    seconds = (time.perf_counter() - begin) / steps
    yield {
        "batch": batch,
        "torch.compile": compiled,
        "ms a step": 1e3 * seconds,
        "pairs/s": batch / seconds,
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "first steps s": first,
        "loss": last,
    }
