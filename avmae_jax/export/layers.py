"""Writes the matrix products of a model's layers, whose kernels are nearly all of its weights: in float32, or with smaller kernels.

Everything else, such as the log-mel, the norms and attention, is computed in float32 always.
"""

from collections.abc import Callable, Mapping

import numpy as np

from avmae_jax.export.tensors import Tensors

_LARGEST = 63  # of a whole number in a kernel. Up to 127 would fit; processors without VNNI would cut off sums of two products then.

Product = Callable[[Tensors, str, np.ndarray], str]  # (tensors, tokens, kernel float32[inner, outer]) -> the name of their product


def _float32(tensors: Tensors, tokens: str, kernel: np.ndarray) -> str:
    """Multiplies tokens by a kernel."""
    return tensors.graph.one("MatMul", tokens, tensors.graph.constant(kernel))


def _float16(tensors: Tensors, tokens: str, kernel: np.ndarray) -> str:
    """Stores a kernel in half precision, which is converted to float32 when the program is loaded."""
    stored = tensors.graph.constant(kernel.astype(np.float16))
    return tensors.graph.one("MatMul", tokens, tensors.cast(stored, np.float32))


def _int8(tensors: Tensors, tokens: str, kernel: np.ndarray) -> str:
    """Multiplies whole numbers of a byte: of the tokens by their range in each call, of the kernel by the range of each column.

    The nodes are those that onnxruntime joins to one.
    """
    graph = tensors.graph
    scale = np.maximum(np.abs(kernel).max(axis=0), np.finfo(np.float32).tiny) / np.float32(_LARGEST)
    whole = np.rint(kernel / scale).astype(np.int8)
    rounded, unit, zero = graph.add("DynamicQuantizeLinear", tokens, outputs=3)
    zeros = graph.constant(np.zeros(len(scale), np.int8))
    product = tensors.cast(graph.one("MatMulInteger", rounded, graph.constant(whole), zero, zeros), np.float32)
    return graph.one("Mul", product, graph.one("Mul", unit, graph.constant(scale)))


PRODUCTS: Mapping[str | None, Product] = {None: _float32, "float16": _float16, "int8": _int8}
