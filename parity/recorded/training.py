"""Repeats the optimizer steps of a file: gradients of the first one, the loss of each, and the weights after those that the file holds."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from avmae_jax.config import ModelConfig, OptimConfig
from avmae_jax.errors import some
from avmae_jax.train import optim
from avmae_jax.trees import flatten
from parity.recorded.arrays import Arrays, GoldenError, has, part
from parity.recorded.tensors import gradient_rows, weight_rows
from parity.rows import OUTPUT_TOLERANCE, Row, compare

ADAM = OptimConfig(learning_rate=1e-3)  # the steps in the files were made with this rate and the recipe's other values


def step_suffixes(arrays: Arrays) -> list[str]:
    """Lists what the names of each step's noise end in: "" for the first step, then "_step1" or "_step2" and so on, as they were counted.

    Raises:
      GoldenError: if the file has weights after more steps than it has noise for.
    """
    numbers = sorted({int(found[1]) for name in arrays if (found := re.fullmatch(r"in\.noise_audio_step(\d+)", name))})
    after = max((int(found[1]) for name in arrays if (found := re.match(r"after(\d+)\.", name))), default=0)
    if after > len(numbers) + 1:
        raise GoldenError(f"it has weights after {after} steps, but noise for {len(numbers) + 1}: in.noise_audio_step* are missing")
    return ["", *(f"_step{number}" for number in numbers)]


def training_rows(arrays: Arrays, model: nnx.Module, config: ModelConfig, total: Callable[[Any, str], jax.Array]) -> Iterator[Row]:
    """Compares gradients of the first step, the loss of each step, and the weights after those steps that the file holds.

    Args:
      arrays: of the file.
      model: with the file's weights.
      config: of the model.
      total: computes the total loss of a model on the inputs of the step whose noise has this suffix.
    """
    graph, weights, rest = nnx.split(model, optim.trainable(config), ...)
    frozen = flatten(rest)
    optimizer = optim.adam(ADAM, optim.learning_rate(ADAM, steps_per_epoch=1_000))
    before, recorded = part(arrays, "param."), part(arrays, "grad.")

    def step(weights: Any, moments: Any, suffix: str) -> Any:
        loss, gradients = jax.value_and_grad(lambda weights: total(nnx.merge(graph, weights, rest), suffix))(weights)
        updates, moments = optimizer.update(gradients, moments, weights)
        return optax.apply_updates(weights, updates), moments, loss, gradients

    step, moments = jax.jit(step, static_argnums=2), optimizer.init(weights)
    extra = [name for name in arrays if (found := re.match(r"after\d+\.", name)) and name[found.end() :] not in before]
    if extra:
        raise GoldenError(f"it has {some(extra)}, but no param.* of the same name; record the weights before the steps too")
    for number, suffix in enumerate(step_suffixes(arrays), start=1):
        weights, moments, loss, gradients = step(weights, moments, suffix)
        if number == 1 and recorded:
            untrained = {path: np.zeros(value.shape) for path, value in frozen.items()}
            yield from gradient_rows("grad.", flatten(gradients) | untrained, recorded)
        name = f"out.loss{suffix or '_step0'}"
        if name in arrays:
            yield compare(name, loss, arrays[name], OUTPUT_TOLERANCE)
        if has(arrays, prefix := f"after{number}."):
            after = part(arrays, prefix)
            moved = recorded or {name: value for name, value in after.items() if (value != before[name]).any()}
            yield from weight_rows(prefix, flatten(weights) | frozen, before, after, moved)
