"""Defines the one training step: gradients of a task's losses over micro-batches, one optimizer update. A pure function, to be jitted."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from avmae_jax.data.fbank import RowByRow, together
from avmae_jax.train.losses import weighted_sum

_DROP = 0x64726F70  # far from the small numbers by which a step's key is split for the masks

Metrics = dict[str, jax.Array]


class State(NamedTuple):
    """Holds everything that a step changes, and the parameters that it leaves alone."""

    params: Any  # nnx.State of the trainable parameters
    frozen: Any  # nnx.State of the others
    opt_state: Any
    extra: Any  # the task's own state, such as averaged weights or a teacher; {} if it has none


class Context(NamedTuple):
    """Holds what a task's losses may depend on besides the model and the batch."""

    key: jax.Array  # of this step and micro-batch
    groups: int  # number of parts into which the mesh cuts the batch
    extra: Any  # State.extra
    training: bool = False  # whether blocks and values are dropped at random; evaluation never does it
    own_rows: Callable[[RowByRow], RowByRow] = together  # lets each device compute a function of rows on those that it holds

    @property
    def drop_key(self) -> jax.Array | None:
        """Returns the key of drop-path and dropout, another than that of the masks; None in evaluation."""
        return jax.random.fold_in(self.key, _DROP) if self.training else None


class Objective(Protocol):
    """Is the part of a task that the step needs."""

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Returns the weight of each loss in the total."""
        ...

    def losses(self, model: Any, batch: Any, context: Context) -> tuple[Metrics, Metrics]:
        """Computes losses by name, not weighted, and further metrics."""
        ...

    def update_extra(self, extra: Any, params: Any, step: jax.Array) -> Any:
        """Computes the extra state after a step."""
        ...


def compiler_options() -> dict[str, str]:
    """Returns the options with which a step is to be compiled: on CPUs XLA keeps the marks of models/layers.computed_once."""
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if jax.default_backend() == "cpu" else {}


def make_loss(graph: Any, objective: Objective) -> Callable[..., tuple[jax.Array, Metrics]]:
    """Returns loss(params, frozen, batch, context) -> (total, metrics), with "loss" and each loss among the metrics.

    Args:
      graph: of nnx.split(model, trainable, ...).
      objective: the task.
    """

    def loss(params: Any, frozen: Any, batch: Any, context: Context) -> tuple[jax.Array, Metrics]:
        losses, metrics = objective.losses(nnx.merge(graph, params, frozen), batch, context)
        total = weighted_sum(losses, objective.loss_weights)
        return total, {"loss": total, **losses, **metrics}

    return loss


def make_step(
    graph: Any,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    micro_batches: int,
    groups: int,
    own_rows: Callable[[RowByRow], RowByRow] = together,
) -> Callable[[State, Any, jax.Array, jax.Array], tuple[State, Metrics]]:
    """Returns the update: gradients of the mean loss over the micro-batches, one optimizer step.

    Args:
      graph: of nnx.split(model, trainable, ...).
      objective: the task.
      optimizer: of the task.
      schedule: its learning rate, for the log.
      micro_batches: number of parts of the batch that are computed one after another.
      groups: number of parts into which the mesh cuts a batch.
      own_rows: lets each device compute a function of rows on those that it holds.

    Returns:
      step(state, batch, key, index) -> (state, metrics), to be jitted; key is the run's, index the number of steps done before. The metrics
      are those of make_loss, "gradient_norm" and "learning_rate".
    """
    loss = make_loss(graph, objective)

    def step(state: State, batch: Any, key: jax.Array, index: jax.Array) -> tuple[State, Metrics]:
        step_key = jax.random.fold_in(key, index)

        def one(number: Any, part: Any) -> tuple[Any, Metrics]:
            context = Context(jax.random.fold_in(step_key, number), groups, state.extra, training=True, own_rows=own_rows)
            (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, state.frozen, part, context)
            return gradients, metrics

        if micro_batches == 1:
            gradients, metrics = one(0, batch)
        else:
            # Row i of part j is row i * n + j of the batch: every device's own share is cut, so that no row moves to another device.
            parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
            first = jax.eval_shape(one, 0, jax.tree.map(lambda x: x[0], parts))
            zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

            def add(total: Any, indexed: Any) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, one(*indexed)), None

            total, _ = jax.lax.scan(add, zero, (jnp.arange(micro_batches), parts))
            gradients, metrics = jax.tree.map(lambda x: x / micro_batches, total)
        metrics |= {"gradient_norm": optax.tree.norm(gradients), "learning_rate": jnp.asarray(schedule(index), jnp.float32)}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        return State(params, state.frozen, opt_state, objective.update_extra(state.extra, params, index)), metrics

    return step
