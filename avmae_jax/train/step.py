"""Defines the one training step: gradients of a task's losses over micro-batches, one optimizer update. A pure function, to be jitted."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from avmae_jax.data.fbank import RowByRow, together
from avmae_jax.models.rows import PartKey, RowKey, fold_in
from avmae_jax.train.losses import weighted_sum
from avmae_jax.train.micro_batches import Metrics, compared_gradient, compared_losses, cut, mean

_DROP = 0x64726F70  # far from the small numbers by which a step's key is split for the masks


class State(NamedTuple):
    """Holds everything that a step changes, and the parameters that it leaves alone."""

    params: Any  # nnx.State of the trainable parameters
    frozen: Any  # nnx.State of the others
    opt_state: Any
    extra: Any  # the task's own state, such as averaged weights or a teacher; {} if it has none


class Context(NamedTuple):
    """Holds what a task's losses may depend on besides the model and the batch."""

    key: RowKey  # of this step, or of a micro-batch of it
    groups: int  # number of parts into which the mesh cuts the batch
    extra: Any  # State.extra
    training: bool = False  # whether blocks and values are dropped at random; evaluation never does it
    own_rows: Callable[[RowByRow], RowByRow] = together  # lets each device compute a function of rows on those that it holds

    @property
    def drop_key(self) -> RowKey | None:
        """Returns the key of drop-path and dropout, another than that of the masks; None in evaluation."""
        return fold_in(self.key, _DROP) if self.training else None


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


class Comparing(Objective, Protocol):
    """Is the same part of a task whose losses compare the clips of a batch with each other."""

    def own_losses(self, model: Any, batch: Any, context: Context) -> tuple[Metrics, Any]:
        """Computes the losses that are means over clips, and the vectors that are compared: a pytree of [B, ...]."""
        ...

    def compared(self, vectors: Any, groups: int) -> tuple[Metrics, Metrics]:
        """Computes the other losses from the vectors of the whole batch, and further metrics."""
        ...


def compiler_options(platform: str) -> dict[str, Any]:
    """Returns the options with which a step is compiled for a platform.

    On CPUs XLA keeps the marks of models/projection.computed_once. LLVM works at its first level there, or, where JAX is told to optimize
    little, as it then does: compiling the base model's step takes 1.4 s of CPU time less of 17, and the step takes the same time.
    """
    if platform != "cpu":
        return {}
    level = {} if jax.config.read("jax_disable_most_optimizations") else {"xla_backend_optimization_level": 1}
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} | level


def merged(graph: Any, params: Any, frozen: Any) -> Any:
    """Returns the model with variables of its own, which recomputed blocks may set also inside a loop over micro-batches."""
    return nnx.merge(graph, params, frozen, copy=True)


def make_loss(graph: Any, objective: Objective) -> Callable[..., tuple[jax.Array, Metrics]]:
    """Returns loss(params, frozen, batch, context) -> (total, metrics), with "loss" and each loss among the metrics.

    Args:
      graph: of nnx.split(model, trainable, ...).
      objective: the task.
    """

    def loss(params: Any, frozen: Any, batch: Any, context: Context) -> tuple[jax.Array, Metrics]:
        losses, metrics = objective.losses(merged(graph, params, frozen), batch, context)
        total = weighted_sum(losses, objective.loss_weights)
        return total, {"loss": total, **losses, **metrics}

    return loss


def make_evaluation(
    graph: Any,
    objective: Objective,
    *,
    micro_batch: int,
    groups: int,
    own_rows: Callable[[RowByRow], RowByRow] = together,
    comparing: Comparing | None = None,
) -> Callable[[State, Any, jax.Array], Metrics]:
    """Returns evaluate(state, batch, key) -> metrics, those of make_loss; the arguments are those of make_step.

    Where a task compares all clips of a batch, no more than `micro_batch` are computed at once.
    """
    loss = make_loss(graph, objective)

    def evaluate(state: State, batch: Any, key: jax.Array) -> Metrics:
        def context(own: RowKey) -> Context:
            return Context(own, groups, state.extra, own_rows=own_rows)

        rows = len(jax.tree.leaves(batch)[0])
        parts = next(count for count in range(1, rows + 1) if rows % count == 0 and rows // count <= micro_batch)
        if comparing is None or parts == 1:
            return loss(state.params, state.frozen, batch, context(key))[1]
        task = comparing

        def own(number: Any, part: Any) -> tuple[Metrics, Any]:
            model = merged(graph, state.params, state.frozen)
            return task.own_losses(model, part, context(PartKey(key, number, parts)))

        return compared_losses(own, lambda vectors: task.compared(vectors, groups), objective.loss_weights, cut(batch, parts))

    return evaluate


def make_step(
    graph: Any,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    micro_batches: int,
    groups: int,
    own_rows: Callable[[RowByRow], RowByRow] = together,
    comparing: Comparing | None = None,
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
      comparing: the task, if it compares all clips of a batch that is computed in micro-batches; None: those of each micro-batch.

    Returns:
      step(state, batch, key, index) -> (state, metrics), to be jitted; key is the run's, index the number of steps done before. The metrics
      are those of make_loss, "gradient_norm" and "learning_rate".
    """
    loss = make_loss(graph, objective)

    def gradient(state: State, batch: Any, key: jax.Array) -> tuple[Any, Metrics]:
        def context(own: RowKey) -> Context:
            return Context(own, groups, state.extra, training=True, own_rows=own_rows)

        def one(number: Any, part: Any) -> tuple[Any, Metrics]:
            gradients, metrics = jax.grad(loss, has_aux=True)(
                state.params, state.frozen, part, context(PartKey(key, number, micro_batches))
            )
            return gradients, metrics

        if micro_batches == 1:
            return jax.grad(loss, has_aux=True)(state.params, state.frozen, batch, context(key))
        if comparing is None:
            return mean(one, cut(batch, micro_batches))
        task = comparing

        def own(params: Any, number: Any, part: Any) -> tuple[Metrics, Any]:
            model = merged(graph, params, state.frozen)
            return task.own_losses(model, part, context(PartKey(key, number, micro_batches)))

        def compared(vectors: Any) -> tuple[Metrics, Metrics]:
            return task.compared(vectors, groups)

        return compared_gradient(own, compared, objective.loss_weights, state.params, cut(batch, micro_batches))

    def step(state: State, batch: Any, key: jax.Array, index: jax.Array) -> tuple[State, Metrics]:
        step_key = jax.random.fold_in(jax.random.fold_in(key, index), 0)  # twice: so that a run goes on as earlier versions began it
        gradients, metrics = gradient(state, batch, step_key)
        metrics |= {"gradient_norm": optax.tree.norm(gradients), "learning_rate": jnp.asarray(schedule(index), jnp.float32)}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        return State(params, state.frozen, opt_state, objective.update_extra(state.extra, params, index)), metrics

    return step
