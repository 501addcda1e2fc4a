"""Turns values into tensors of a graph: shapes that are known only when the program runs, types, and broadcasting."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from avmae_jax.errors import ExportError
from avmae_jax.export.graph import Graph, element_type
from avmae_jax.export.values import Shape, Value, tensor


class Tensors:
    """Makes tensors of values in one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def held(self, value: Value) -> str:
        """Returns the name of the tensor of a value, which may have sizes of 1 to be broadcast."""
        return self.graph.constant(value.constant) if value.constant is not None else value.name

    def whole(self, value: Value) -> str:
        """Returns the name of a tensor with all sizes of a value."""
        name = self.held(value)
        return name if value.whole else self.graph.one("Expand", name, self.sizes(value.shape))

    def make(self, op: str, inputs: Sequence[str], shape: Shape, dtype: Any, held: Shape | None = None, **attributes: Any) -> Value:
        """Adds a node; returns its output as a value."""
        return tensor(self.graph.one(op, *inputs, **attributes), shape, dtype, held)

    def size(self, size: Any) -> str:
        """Returns the name of a tensor int64[1] with a size of a shape.

        Raises:
          ExportError: if it is computed from sizes that are known only when the program runs.
        """
        if isinstance(size, int | np.integer):
            return self.graph.constant(np.array([size], np.int64))
        if str(size) not in self.graph.symbols:
            raise ExportError(f"the model has an array of the size {size}, which can't be exported to ONNX")
        source, axis = self.graph.symbols[str(size)]
        return self.graph.one("Shape", source, start=axis, end=axis + 1)

    def sizes(self, shape: Shape) -> str:
        """Returns the name of a tensor int64[len(shape)] with the sizes of a shape."""
        if all(isinstance(size, int | np.integer) for size in shape):
            return self.graph.constant(np.array(shape, np.int64))
        parts = [self.size(size) for size in shape]
        return parts[0] if len(parts) == 1 else self.graph.one("Concat", *parts, axis=0)

    def reshape(self, name: str, shape: Shape, dtype: Any) -> Value:
        """Reshapes a tensor that has all of its sizes."""
        symbolic = [size for size in shape if not isinstance(size, int | np.integer)]
        computed = [size for size in symbolic if str(size) not in self.graph.symbols]
        if len(symbolic) == 1:
            sizes = self.graph.constant(np.array([size if isinstance(size, int | np.integer) else -1 for size in shape], np.int64))
        elif len(computed) == 1:
            sizes = self.sizes(tuple(-1 if size is computed[0] else size for size in shape))
        else:
            sizes = self.sizes(shape)
        return self.make("Reshape", [name, sizes], shape, dtype)

    def cast(self, name: str, dtype: Any) -> str:
        """Converts a tensor to another type."""
        return self.graph.one("Cast", name, to=element_type(dtype))

    def ints(self, *numbers: int) -> str:
        """Returns the name of a constant int64 tensor."""
        return self.graph.constant(np.array(numbers, np.int64))
