"""Describes the values between the operations of a program that is being converted."""

import dataclasses
from typing import Any

import numpy as np

Shape = tuple[Any, ...]  # sizes: int, or jax's expression of one that is known when the program runs


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """Holds a constant or names a tensor of a graph.

    The tensor may have a size of 1 where the value has another one: operations that work element by element broadcast it anyway.
    """

    shape: Shape  # of the value
    dtype: np.dtype[Any]
    name: str = ""  # of the tensor; "": a constant
    constant: np.ndarray | None = None
    held: Shape = ()  # the shape of the tensor or the constant

    @property
    def whole(self) -> bool:
        """Returns whether no size of the tensor has to be broadcast."""
        return self.held == self.shape


def constant(array: Any, shape: Shape | None = None) -> Value:
    """Makes a constant; `shape` is that of the value, if it has sizes that the array doesn't have."""
    array = np.asarray(array)
    return Value(array.shape if shape is None else shape, array.dtype, constant=array, held=array.shape)


def tensor(name: str, shape: Shape, dtype: Any, held: Shape | None = None) -> Value:
    """Makes the value of a tensor of the graph."""
    return Value(shape, np.dtype(dtype), name, held=shape if held is None else held)
