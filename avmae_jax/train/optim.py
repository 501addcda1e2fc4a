"""Defines the optimizer of the recipe: torch.optim.Adam with L2 inside the gradient, and MultiStepLR in epochs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from avmae_jax.config import ModelConfig, OptimConfig
from avmae_jax.models.layers import Position
from avmae_jax.trees import dotted


def trainable(config: ModelConfig) -> Any:
    """Returns the nnx filter of what training changes: every parameter, positions only if they are learned."""
    return nnx.Param if config.learned_positions else nnx.All(nnx.Param, nnx.Not(Position))


def learning_rate(config: OptimConfig, steps_per_epoch: float) -> optax.Schedule:
    """Returns the rate of each step: constant, then times `decay_rate` after epoch `decay_start` and after every `decay_every` more.

    Args:
      config: rate and decay.
      steps_per_epoch: optimizer steps in one pass over the data.

    Returns:
      A function of the step, counted from 0: int[] -> float32[].

    Raises:
      ValueError: if the rate would decay before the start, or never stop decaying.
    """
    if config.decay_every <= 0 or config.decay_start < 0:
        raise ValueError(
            f"optim.decay_start is {config.decay_start} and optim.decay_every {config.decay_every}; give at least 0 and at least 1"
        )

    def schedule(step: Any) -> Any:
        # in exact integers: a float32 quotient would move the boundary of an epoch by a step
        boundaries = [round(steps_per_epoch * (config.decay_start + config.decay_every * n)) for n in range(_MAX_DECAYS)]
        decays = (jnp.asarray(step) >= jnp.asarray(boundaries)).sum()
        return config.learning_rate * jnp.float32(config.decay_rate) ** decays.astype(jnp.float32)

    return schedule


_MAX_DECAYS = 150  # a rate halved this often is 0 in float32


def adam(config: OptimConfig, schedule: optax.Schedule, *, head_ratio: float = 1.0) -> optax.GradientTransformation:
    """Returns Adam as torch computes it: L2 is added to the gradient, so that it goes through the moments (this is not AdamW).

    Args:
      config: decay and moments.
      schedule: the learning rate of each step.
      head_ratio: factor by which the rate of a classifier's head is higher.
    """

    def scale(path: Sequence[Any], update: Any) -> Any:
        return update * head_ratio if dotted(path).startswith("head.") else update

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps),
        optax.scale_by_learning_rate(schedule),
        *([] if head_ratio == 1 else [optax.stateless(lambda updates, _: jax.tree.map_with_path(scale, updates))]),
    )
