"""Finds by trial what no array of a file says: the possible values are few, and the one that fits best is taken.

A wrong choice can't pass, since gradients and weights are compared afterwards.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from parity.rows import OUTPUT_TOLERANCE, compare

C = TypeVar("C")


def best(config: C, field: str, values: Sequence[Any], error: Callable[[C], float]) -> C:
    """Finds the value of a field for which `error` is smallest; stops at the first within the tolerance of outputs."""
    errors = {}
    for value in values:
        errors[value] = error(dataclasses.replace(config, **{field: value}))  # pyright: ignore[reportArgumentType]
        if errors[value] <= OUTPUT_TOLERANCE:
            break
    return dataclasses.replace(config, **{field: min(errors, key=errors.__getitem__)})  # pyright: ignore[reportArgumentType]


def error_of(model: nnx.Module, pick: Callable[..., jax.Array], inputs: Any, reference: np.ndarray) -> float:
    """Returns the relative error of what `pick(model, *inputs)` computes; NaN, which fits nothing, counts as infinite."""
    graph, weights = nnx.split(model)
    once = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiling takes longest
    trial = jax.jit(lambda weights, inputs: pick(nnx.merge(graph, weights), *inputs), compiler_options=once)
    error = compare("trial", trial(weights, inputs), reference, OUTPUT_TOLERANCE).relative
    return error if np.isfinite(error) else np.inf


def head_counts(width: int) -> list[int]:
    """Lists possible numbers of heads, heads of 64 channels first and then the nearest sizes: most models use those."""
    divisors = [heads for heads in range(1, width + 1) if width % heads == 0]
    return sorted(divisors, key=lambda heads: abs(np.log(width / heads / 64)))


def digits_of(value: float) -> int:
    """Returns the number of significant digits that a recorded weight needs; its float32 loss gives it to about five."""
    return next((digits for digits in range(1, 7) if abs(_round(value, digits) - value) <= OUTPUT_TOLERANCE * abs(value)), 7)


def typed(value: float) -> float:
    """Rounds a weight to what somebody would have typed."""
    return _round(value, min(digits_of(value), 5))


def _round(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
