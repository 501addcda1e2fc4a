"""Compares losses and gradients of this machine's accelerator with those of its CPU, which the folder parity/ compares with PyTorch."""

import copy
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding

from avmae_jax.config import Config
from avmae_jax.models import registry
from avmae_jax.train.precision import matmul_precision
from avmae_jax.train.program import batch_shapes, task_of
from avmae_jax.train.step import Context, make_loss
from avmae_jax.trees import flatten
from parity.rows import BFLOAT16_TOLERANCE, GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, compare

from .part import Row
from .program import CLASSES, few_blocks, random_batch

# (dtype, precision of float32 products, tolerances of losses and of gradients); None: none is promised
_KINDS = (
    ("float32", "highest", (OUTPUT_TOLERANCE, GRADIENT_TOLERANCE)),
    ("bfloat16", None, (BFLOAT16_TOLERANCE, BFLOAT16_TOLERANCE)),
    ("float32", None, None),  # as XLA multiplies by default: TF32 on the GPUs that have it
)


def measure(config: Config, *, batch: int) -> Iterator[Row]:
    """Yields the largest relative error of a loss, and that of all gradients together, for each kind of arithmetic."""
    config = few_blocks(config)  # of all of them a CPU would need minutes
    exact_losses, exact_gradients = _compute(config, "float32", "highest", batch, jax.devices("cpu")[0])
    for dtype, precision, tolerances in _KINDS:
        losses, gradients = _compute(config, dtype, precision, batch, jax.devices()[0])
        errors = {name: compare(name, value, exact_losses[name], np.inf).relative for name, value in losses.items()}
        together = compare("gradients", gradients, exact_gradients, np.inf).relative
        within = tolerances is None or (max(errors.values()) <= tolerances[0] and together <= tolerances[1])
        yield {
            "dtype": dtype,
            "products": precision or "default",
            "losses": max(errors.values()),
            "gradients": together,
            "tolerances": tolerances,
            "within": within,
        }


def _compute(config: Config, dtype: str, precision: Any, batch: int, device: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the losses by name, and all gradients in a row, computed on a device."""
    config = copy.deepcopy(config)
    config.model.compute_dtype, config.train.matmul_precision = dtype, precision
    task = task_of(config, CLASSES)
    with jax.default_device(device), matmul_precision(config):
        model = registry.build(config.model, len(task.label_names), rngs=nnx.Rngs(0))
        graph, params, frozen = nnx.split(model, task.trainable(), ...)
        loss, place = make_loss(graph, task), SingleDeviceSharding(device)
        inputs = random_batch(batch_shapes(config, task, batch, place))
        context = Context(jax.random.key(0), groups=1, extra={})
        compute = jax.jit(jax.value_and_grad(lambda params: loss(params, frozen, inputs, context), has_aux=True))
        (_, metrics), gradients = compute(params)
    losses = {name: np.asarray(metrics[name]) for name in ("loss", *task.loss_weights)}
    return losses, np.concatenate([np.ravel(leaf) for leaf in flatten(gradients).values()])
