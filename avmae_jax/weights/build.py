"""Builds models with given parameters, without initialising them first.

`described` returns a model's structure with shapes in place of arrays, which the parameters must fit.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.errors import require_none
from avmae_jax.models import registry
from avmae_jax.models.registry import Model
from avmae_jax.trees import flatten
from avmae_jax.weights.official import from_official

M = TypeVar("M", bound=nnx.Module)


class AnyKey(nnx.Rngs):
    """Returns the same key every time, for models of which only the shapes are needed.

    nnx.Rngs counts its keys and reads the sharding of the counter at each one. Under a trace JAX answers that with an error that explains
    where the counter comes from, which takes a second for a base model.
    """

    def params(self) -> jax.Array:  # noqa: D102 - a stream of Rngs
        return jax.random.key(0)


def described(config: ModelConfig, classes: int = 0) -> Model:
    """Returns the model of a config with shapes in place of arrays; the last few are cached."""
    return _described(dataclasses.astuple(config), classes)


@lru_cache(maxsize=4)
def _described(fields: tuple[Any, ...], classes: int) -> Model:
    return nnx.eval_shape(partial(registry.build, ModelConfig(*fields), classes, rngs=AnyKey()))


def build(make: Callable[[], M], params: Mapping[str, Any]) -> M:
    """Builds a model with given parameters, without initialising it first.

    Args:
      make: returns a fresh model, of which only the structure is used.
      params: dotted path -> array, as in `flatten(model)`.

    Raises:
      WeightsError: listing every missing, unexpected and misshapen parameter.
    """
    return fill(nnx.eval_shape(make), params)


def fill(model: M, params: Mapping[str, Any]) -> M:
    """Returns a copy of a model that has shapes in place of arrays, with given parameters; raises as `build`."""
    require_fits(model, params)
    graph, state = nnx.split(model)
    leaves = [jnp.asarray(params[path], leaf.dtype) for path, leaf in flatten(state).items()]
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), leaves))


def set_params(model: nnx.Module, params: Mapping[str, Any]) -> None:
    """Sets some of a model's parameters in place, by dotted path; each keeps its dtype."""
    state = nnx.state(model, nnx.Param)
    leaves = [jnp.asarray(params.get(path, leaf), leaf.dtype) for path, leaf in flatten(state).items()]
    nnx.update(model, jax.tree.unflatten(jax.tree.structure(state), leaves))


def require_fits(model: nnx.Module, params: Mapping[str, Any]) -> None:
    """Raises WeightsError that lists every missing, unexpected and misshapen parameter."""
    wanted = flatten(nnx.state(model, nnx.Param))
    problems = [f"missing: {path}" for path in wanted if path not in params] + [
        f"unexpected: {path}" for path in params if path not in wanted
    ]
    problems += [
        f"misshapen: {path} is {params[path].shape}, the model's is {leaf.shape}"
        for path, leaf in wanted.items()
        if path in params and params[path].shape != leaf.shape
    ]
    require_none(problems)


def build_official(make: Callable[[], M], tensors: Mapping[str, np.ndarray]) -> M:
    """Builds a model with the weights of an official state dict; raises as `build` and `from_official`."""
    shapes = {path: leaf.shape for path, leaf in flatten(nnx.eval_shape(make)).items()}
    return build(make, from_official(tensors, shapes))
