"""Computes the gradient of a batch from micro-batches, also of losses that compare all of its clips.

A loss that compares clips, such as the contrastive one, is not a mean over micro-batches. It depends on each clip by its vectors alone,
though, so that its exact gradient takes two passes, as in GradCache (Gao et al., arXiv 2101.06983):

  1. The vectors of all micro-batches are computed without a gradient, then the loss between them and its slope at each vector: [B, D].
  2. Each micro-batch is computed again with its gradient. The slopes are multiplied by how the vectors change with the parameters.

Both passes draw the same random numbers, see models/rows.py. Memory is that of one micro-batch and of the vectors and slopes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from avmae_jax.train.losses import weighted_sum

Metrics = dict[str, jax.Array]


def cut(batch: Any, count: int) -> Any:
    """Cuts arrays [B, ...] into [count, B / count, ...]; row i of part j is row i * count + j.

    Every device's own share is cut, so that no row moves to another device.
    """
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)


def joined(parts: Any) -> Any:
    """Puts what `cut` has cut together again."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)


def mean(compute: Callable[[Any, Any], Any], parts: Any) -> Any:
    """Computes the mean of compute(number, part) over all parts, one after another."""
    numbers = jnp.arange(len(jax.tree.leaves(parts)[0]))
    first = jax.eval_shape(compute, numbers[0], jax.tree.map(lambda x: x[0], parts))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

    def add(total: Any, indexed: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, compute(*indexed)), None

    total, _ = jax.lax.scan(add, zero, (numbers, parts))
    return jax.tree.map(lambda x: x / len(numbers), total)


def compared_gradient(
    own: Callable[[Any, Any, Any], tuple[Metrics, Any]],
    compared: Callable[[Any], tuple[Metrics, Metrics]],
    weights: Mapping[str, float],
    params: Any,
    parts: Any,
) -> tuple[Any, Metrics]:
    """Computes the gradient of means over micro-batches plus losses that compare all clips of the batch.

    Args:
      own: (params, number, part) -> (losses that are means over clips, not weighted; vectors of the part's clips, a pytree of [b, ...]).
      compared: vectors of the whole batch, [B, ...] -> (losses by name, not weighted; further metrics).
      weights: of each loss in the total.
      params: at which the gradient is computed.
      parts: micro-batches as `cut` makes them.

    Returns:
      (gradient, metrics), the latter with "loss" and each loss.
    """
    count = len(jax.tree.leaves(parts)[0])
    vectors = jax.lax.map(lambda numbered: own(params, *numbered)[1], (jnp.arange(count), parts))

    def between(vectors: Any) -> tuple[jax.Array, tuple[Metrics, Metrics]]:
        losses, metrics = compared(joined(vectors))
        return weighted_sum(losses, weights), (losses, metrics)

    (total, (losses, further)), slopes = jax.value_and_grad(between, has_aux=True)(vectors)

    def one(number: Any, part: Any) -> tuple[Any, Metrics]:
        def surrogate(params: Any) -> tuple[jax.Array, Metrics]:
            means, vectors = own(params, number, part[0])
            linear = sum(jnp.vdot(*pair) for pair in zip(jax.tree.leaves(part[1]), jax.tree.leaves(vectors), strict=True))
            mean_total = weighted_sum(means, weights)
            return mean_total + count * linear, {"loss": mean_total, **means}

        gradient, metrics = jax.grad(surrogate, has_aux=True)(params)
        return gradient, metrics

    gradient, metrics = mean(one, (parts, slopes))
    return gradient, {**metrics, "loss": metrics["loss"] + total, **losses, **further}


def compared_losses(
    own: Callable[[Any, Any], tuple[Metrics, Any]],
    compared: Callable[[Any], tuple[Metrics, Metrics]],
    weights: Mapping[str, float],
    parts: Any,
) -> Metrics:
    """Computes the same losses without a gradient: "loss", each loss and the further metrics; own takes (number, part)."""
    numbers = jnp.arange(len(jax.tree.leaves(parts)[0]))
    means, vectors = jax.lax.map(lambda numbered: own(*numbered), (numbers, parts))
    losses, further = compared(joined(vectors))
    losses = {name: values.mean() for name, values in means.items()} | losses
    return {"loss": weighted_sum(losses, weights), **losses, **further}
