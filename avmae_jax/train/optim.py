"""Defines the optimizer and the schedule of its rate.

The published recipe is the default: torch.optim.Adam with L2 inside the gradient, and MultiStepLR in epochs. What else tuners expect are
options of config.optim, all of them off: AdamW, a warm-up, a cosine, clipping, and lower rates for lower blocks.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from avmae_jax.config import ModelConfig, OptimConfig
from avmae_jax.models.layers import Position
from avmae_jax.trees import dotted

_MAX_DECAYS = 150  # a rate halved this often is 0 in float32
_BLOCK = re.compile(r"(?P<stack>encoder|encoder\.audio|encoder\.image|tower)\.blocks\.(?P<number>\d+)\.")
_EMBEDDING = re.compile(r"(encoder\.audio|encoder\.image|tower)\.")  # of what is left of a tower: patches, positions, tokens of no patch


def trainable(config: ModelConfig) -> Any:
    """Returns the nnx filter of what pretraining changes: every parameter that it uses, positions only if they are learned.

    If the contrastive streams run through the last joint block alone, their norms in the other joint blocks are unused. Unused parameters
    have zero gradient, but L2 would still move them: Adam rescales even that tiny gradient to a full-size step.
    """
    kept = nnx.Param if config.learned_positions else nnx.All(nnx.Param, nnx.Not(Position))
    if not config.unchained_contrastive or config.joint_depth == 1:
        return kept
    skipped = [f"encoder.blocks.{number}." for number in range(config.joint_depth - 1)]

    def unused(path: Sequence[Any], _: Any) -> bool:
        name = dotted(path)
        return name.startswith(tuple(skipped)) and any(f".{modality}." in name for modality in ("audio", "image"))

    return nnx.All(kept, nnx.Not(unused))


def learning_rate(config: OptimConfig, steps_per_epoch: float, total_steps: int = 0) -> optax.Schedule:
    """Returns the rate of each step: a warm-up where one is asked for, then the decay in steps or along a cosine.

    In steps, the rate is constant, then times `decay_rate` after epoch `decay_start` and after every `decay_every` more. The cosine begins
    after the warm-up and reaches `cosine_floor` of the rate with the end of the last step. Step n of a warm-up of N steps, counted from 1,
    has n / N of the rate.

    Args:
      config: rate, warm-up and decay.
      steps_per_epoch: optimizer steps in one pass over the data.
      total_steps: of the run; only the cosine and a warm-up that is a share of it need it.

    Returns:
      A function of the step, counted from 0: int[] -> float32[].

    Raises:
      ValueError: if the rate would decay before the start, or never stop decaying; if the run is shorter than the warm-up; or if the run
        has no end that a cosine or a share could be of.
    """
    if config.decay_every <= 0 or config.decay_start < 0:
        raise ValueError(
            f"optim.decay_start is {config.decay_start} and optim.decay_every {config.decay_every}; give at least 0 and at least 1"
        )
    if 0 < total_steps < config.warmup_steps:
        raise ValueError(f"optim.warmup_steps is {config.warmup_steps}, but the run has {total_steps} steps; change one of them")
    if config.schedule == "cosine" and total_steps < 1:
        raise ValueError(f"optim.schedule is cosine, which ends with the run, but the run has {total_steps} steps")
    if config.warmup_share and total_steps < 1:
        raise ValueError(f"optim.warmup_share is {config.warmup_share:g} of the run, but the run has {total_steps} steps")
    warmup = config.warmup_steps or int(config.warmup_share * total_steps)
    decayed = _cosine(config, warmup, total_steps) if config.schedule == "cosine" else _in_steps(config, steps_per_epoch)
    if not warmup:
        return decayed
    return lambda step: decayed(step) * jnp.minimum(1.0, (jnp.asarray(step) + 1).astype(jnp.float32) / warmup)


def _in_steps(config: OptimConfig, steps_per_epoch: float) -> optax.Schedule:
    def schedule(step: Any) -> Any:
        # in exact integers: a float32 quotient would move the boundary of an epoch by a step
        boundaries = [round(steps_per_epoch * (config.decay_start + config.decay_every * n)) for n in range(_MAX_DECAYS)]
        decays = (jnp.asarray(step) >= jnp.asarray(boundaries)).sum()
        return config.learning_rate * jnp.float32(config.decay_rate) ** decays.astype(jnp.float32)

    return schedule


def _cosine(config: OptimConfig, warmup: int, total_steps: int) -> optax.Schedule:
    half = config.learning_rate * 0.5 * (1 - config.cosine_floor)

    def schedule(step: Any) -> Any:
        done = (jnp.asarray(step) - warmup).astype(jnp.float32) / max(1, total_steps - warmup)
        return config.learning_rate * config.cosine_floor + half * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))

    return schedule


class Layers(NamedTuple):
    """Counts the encoder blocks of a model, to say how deep each parameter lies."""

    depth: int  # encoder blocks that a token goes through
    separate: int  # those of them that come before the joint ones

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """Counts the blocks of a config's model."""
        return cls(config.shape.depth, config.shape.depth - config.joint_depth)

    def below_head(self, name: str) -> int:
        """Returns how many layers lie from a parameter up to the head.

        It is 0 for the head, the decoder and the norm after the last block, 1 for the last block, and depth + 1 for the embedding.
        """
        if block := _BLOCK.match(name):
            number = int(block["number"]) + (self.separate if block["stack"] == "encoder" else 0)
            return self.depth - number
        return self.depth + 1 if _EMBEDDING.match(name) else 0


def adam(
    config: OptimConfig, schedule: optax.Schedule, *, head_ratio: float = 1.0, layers: Layers | None = None
) -> optax.GradientTransformation:
    """Returns Adam as torch computes it, or AdamW.

    L2 of "adam" is added to the gradient, so that it goes through the moments. The weight decay of "adamw" is added behind them, to kernels
    alone: biases, norms, positions and tokens have none. A gradient that is too long is shortened before anything else.

    Args:
      config: decay and moments.
      schedule: the learning rate of each step.
      head_ratio: factor by which the rate of a classifier's head is higher.
      layers: of the model; needed where lower layers have lower rates.

    Raises:
      ValueError: if lower layers are to have lower rates and `layers` isn't given.
    """
    if config.layer_decay != 1 and layers is None:
        raise ValueError(f"optim.layer_decay is {config.layer_decay}, for which the model's layers must be given")

    def factor(name: str) -> float:
        own = head_ratio if name.startswith("head.") else 1.0
        return own if layers is None else own * config.layer_decay ** layers.below_head(name)

    moments = optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps)
    apart = config.kind == "adamw"
    return optax.chain(
        *([optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []),
        *([moments, _decay_kernels(config.weight_decay)] if apart else [optax.add_decayed_weights(config.weight_decay), moments]),
        optax.scale_by_learning_rate(schedule),
        *([] if head_ratio == config.layer_decay == 1 else [_scale_by_name(factor)]),
    )


def averaged(before: Any, params: Any, decay: float | jax.Array) -> Any:
    """Computes the exponential moving average of weights after a step: decay * before + (1 - decay) * params."""
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, before, params)


def _scale_by_name(factor: Callable[[str], float]) -> optax.GradientTransformation:
    """Multiplies each update by a factor of its parameter's dotted name."""

    def scale(path: Sequence[Any], update: Any) -> Any:
        return update * factor(dotted(path))

    return optax.stateless(lambda updates, _: jax.tree.map_with_path(scale, updates))


def _decay_kernels(rate: float) -> optax.GradientTransformation:
    """Adds `rate` times the weight to the update of each kernel."""

    def add(path: Sequence[Any], update: Any, param: Any) -> Any:
        return update + rate * param if dotted(path).endswith("kernel") else update

    return optax.stateless(lambda updates, params: jax.tree.map_with_path(add, updates, params))
