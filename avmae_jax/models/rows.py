"""Draws random numbers for the rows of a batch, so that they don't depend on the parts in which it is computed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PartKey:
    """Is the random key of one part of a batch, with which each row draws what it would draw in the whole batch.

    Row i of part j is row i * parts + j of the batch.
    """

    key: Any  # jax.Array of the whole batch; Any, since JAX also builds pytrees with placeholders, as for recomputed blocks
    part: Any  # jax.Array, j
    parts: int = dataclasses.field(metadata={"static": True})


RowKey = jax.Array | PartKey  # a key of jax.random is that of a whole batch


def draw(sample: Callable[[jax.Array, tuple[int, ...]], jax.Array], key: RowKey, shape: tuple[int, ...]) -> jax.Array:
    """Draws random values for the rows that are computed.

    Args:
      sample: (key, shape) -> values, such as jax.random.uniform.
      key: of a batch or of a part of one.
      shape: of the values, rows first.
    """
    if not isinstance(key, PartKey):
        return sample(key, shape)
    whole = sample(key.key, (shape[0] * key.parts, *shape[1:]))
    return whole.reshape(shape[0], key.parts, *shape[1:])[:, key.part]


def fold_in(key: RowKey, number: int) -> RowKey:
    """Derives another key from a key and a number, as jax.random.fold_in."""
    if isinstance(key, PartKey):
        return dataclasses.replace(key, key=jax.random.fold_in(key.key, number))
    return jax.random.fold_in(key, number)


def split(key: RowKey, count: int) -> list[RowKey]:
    """Derives several keys from one, as jax.random.split."""
    if isinstance(key, PartKey):
        return [dataclasses.replace(key, key=one) for one in jax.random.split(key.key, count)]
    return list(jax.random.split(key, count))
