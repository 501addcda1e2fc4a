"""Converts the functions of models/ for which ONNX has operators, as wholes.

They are found by their names in the trace. A test compares the results of an exported model with those of the model.

Axis letters: B batch, L tokens, N heads, d channels of a head, D width.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jax.extend import core

from avmae_jax.errors import ExportError
from avmae_jax.export.layers import Product
from avmae_jax.export.tensors import Tensors
from avmae_jax.export.values import Value


def _attention(tensors: Tensors, product: Product, called: Any, given: list[Value]) -> list[Value]:
    """Converts attention of query, key and value [B, L, N, d]."""
    del product, called
    graph, shape = tensors.graph, given[0].shape
    scale = graph.constant(np.float32(shape[3] ** -0.5))
    query, key, value = map(tensors.whole, given)
    query = graph.one("Mul", graph.one("Transpose", query, perm=[0, 2, 1, 3]), scale)
    logits = graph.one("MatMul", query, graph.one("Transpose", key, perm=[0, 2, 3, 1]))
    out = graph.one("MatMul", graph.one("Softmax", logits, axis=-1), graph.one("Transpose", value, perm=[0, 2, 1, 3]))
    return [tensors.make("Transpose", [out], shape, given[0].dtype, perm=[0, 2, 1, 3])]


def _norm_and_project(tensors: Tensors, product: Product, called: Any, given: list[Value]) -> list[Value]:
    """Converts a LayerNorm and the linear layer behind it."""
    tokens, scale, shift, kernel, bias = given
    epsilon = next(_epsilons(called.jaxpr))
    normed = tensors.graph.one(
        "LayerNormalization", tensors.whole(tokens), *map(tensors.held, (scale, shift)), axis=-1, epsilon=float(epsilon)
    )
    multiplied = product(tensors, normed, _matrix(kernel, 1))
    flat = tensors.graph.one("Add", multiplied, tensors.graph.constant(_array(bias).reshape(-1)))
    shape = (*tokens.shape[:-1], *bias.shape)
    if bias.constant is not None and len(bias.shape) == 1:
        return [Value(shape, tokens.dtype, flat, held=shape)]
    return [tensors.reshape(flat, shape, tokens.dtype)]


def _project(tensors: Tensors, product: Product, called: Any, given: list[Value]) -> list[Value]:
    """Converts a product of rows [R, *inner] and a kernel [*inner, *outer]."""
    del called
    rows, kernel = given
    axes = len(rows.shape) - 1
    inner, outer = kernel.shape[:axes], kernel.shape[axes:]
    flat = tensors.whole(rows) if axes == 1 else tensors.reshape(tensors.whole(rows), (rows.shape[0], _count(inner)), rows.dtype).name
    multiplied, shape = product(tensors, flat, _matrix(kernel, axes)), (rows.shape[0], *outer)
    return [Value(shape, rows.dtype, multiplied, held=shape) if len(outer) == 1 else tensors.reshape(multiplied, shape, rows.dtype)]


def _project_gelu(tensors: Tensors, product: Product, called: Any, given: list[Value]) -> list[Value]:
    """Converts the product of the GELU of rows [R, H] and a kernel [H, D]."""
    del called
    rows, kernel = given
    activated = tensors.graph.one("Gelu", tensors.whole(rows))
    shape = (rows.shape[0], kernel.shape[1])
    return [Value(shape, rows.dtype, product(tensors, activated, _matrix(kernel, 1)), held=shape)]


def _epsilons(jaxpr: Any) -> Iterator[float]:
    """Yields what is added before each inverse square root: the epsilon of a norm."""
    made = {out: equation for equation in jaxpr.eqns for out in equation.outvars}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "rsqrt":
            yield from (atom.val for atom in made[equation.invars[0]].invars if isinstance(atom, core.Literal))
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple) else (value,):
                if hasattr(inner, "jaxpr"):
                    yield from _epsilons(inner.jaxpr)


def _count(sizes: tuple[int, ...]) -> int:
    return int(np.prod(sizes))


def _array(value: Value) -> np.ndarray:
    """Returns a parameter, which doesn't depend on the inputs.

    Raises:
      ExportError: if it does.
    """
    if value.constant is None:
        raise ExportError("the model computes the kernel of a layer from its inputs, which can't be exported to ONNX")
    return value.constant


def _matrix(kernel: Value, axes: int) -> np.ndarray:
    """Returns a kernel as [inner, outer]; `axes` is the number of its inner axes."""
    return _array(kernel).reshape(_count(kernel.shape[:axes]), -1)


FUNCTIONS: dict[str, Callable[..., list[Value]]] = {
    "_whole": _attention,
    "norm_and_project": _norm_and_project,
    "_project": _project,
    "_project_gelu": _project_gelu,
}
