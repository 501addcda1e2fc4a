"""The one training step: gradients of a loss over micro-batches, one optimizer update. A pure function, to be jitted."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

Metrics = dict[str, jax.Array]


class State(NamedTuple):
    """What a step changes, and the parameters it leaves alone."""

    params: Any  # nnx.State of the trainable parameters
    frozen: Any  # nnx.State of the others
    opt_state: Any


def make_step(
    graph: Any, loss: Callable[..., tuple[jax.Array, Metrics]], optimizer: optax.GradientTransformation, *, micro_batches: int, groups: int
) -> Callable[[State, Any, jax.Array], tuple[State, Metrics]]:
    """The update: gradients of the mean loss over the micro-batches, one optimizer step.

    Args:
      graph: of nnx.split(model, trainable, ...).
      loss: Task.loss.
      optimizer: of optim.adam.
      micro_batches: into how many parts the batch is cut and computed one after another.
      groups: on how many devices a batch lies in parts.

    Returns:
      step(state, batch, key) -> (state, metrics), to be jitted; the metrics are those of the loss and "gradient_norm".
    """

    def of_params(params: Any, frozen: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        return loss(nnx.merge(graph, params, frozen), batch, key, groups)

    def step(state: State, batch: Any, key: jax.Array) -> tuple[State, Metrics]:
        def one(index: Any, part: Any) -> tuple[Any, Metrics]:
            part_key = jax.random.fold_in(key, index)
            (_, metrics), gradients = jax.value_and_grad(of_params, has_aux=True)(state.params, state.frozen, part, part_key)
            return gradients, metrics

        if micro_batches == 1:
            gradients, metrics = one(0, batch)
        else:
            # Row i of part j is row i * n + j of the batch: each device's share is cut, so that no row moves to another device.
            parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
            first = jax.eval_shape(one, 0, jax.tree.map(lambda x: x[0], parts))
            zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

            def add(total: Any, indexed: Any) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, one(*indexed)), None

            total, _ = jax.lax.scan(add, zero, (jnp.arange(micro_batches), parts))
            gradients, metrics = jax.tree.map(lambda x: x / micro_batches, total)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), state.frozen, opt_state), metrics

    return step
