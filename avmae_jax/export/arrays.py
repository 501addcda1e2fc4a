"""Converts the operations of jaxprs that arrange, reduce or multiply whole arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np

from avmae_jax.errors import ExportError
from avmae_jax.export.tensors import Tensors
from avmae_jax.export.values import Value, constant, tensor

Convert = Callable[[Tensors, Any, list[Value]], list[Value]]  # (tensors, equation, inputs) -> outputs


def node(tensors: Tensors, equation: Any, op: str, *names: str, **attributes: Any) -> list[Value]:
    """Adds the node that an operation becomes; its output has all sizes."""
    out = equation.outvars[0].aval
    return [tensors.make(op, names, out.shape, out.dtype, **attributes)]


def _broadcast_in_dim(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    """Keeps sizes of 1 where others are asked for; operations that need them repeat the values."""
    value, shape, axes = given[0], equation.params["shape"], equation.params["broadcast_dimensions"]
    held: list[Any] = [1] * len(shape)
    for axis, size in zip(axes, value.held, strict=True):
        held[axis] = size
    if value.constant is not None:
        return [constant(value.constant.reshape(held), shape)]
    name = value.name if tuple(held) == value.held else tensors.reshape(value.name, tuple(held), value.dtype).name
    return [tensor(name, shape, value.dtype, tuple(held))]


def _reshape(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    out = equation.outvars[0].aval
    return [tensors.reshape(tensors.whole(given[0]), out.shape, out.dtype)]


def _transpose(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    order, value = equation.params["permutation"], given[0]
    shape, held = (tuple(sizes[axis] for axis in order) for sizes in (value.shape, value.held))
    return [tensors.make("Transpose", [tensors.held(value)], shape, value.dtype, held, perm=list(order))]


def _concatenate(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    return node(tensors, equation, "Concat", *map(tensors.whole, given), axis=equation.params["dimension"])


def _stack(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    axis = equation.params["axis"]
    parts = [tensors.graph.one("Unsqueeze", tensors.whole(value), tensors.ints(axis)) for value in given]
    return node(tensors, equation, "Concat", *parts, axis=axis)


def _split(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    sizes, axis = [int(size) for size in equation.params["sizes"]], equation.params["axis"]
    name = tensors.whole(given[0])
    if len(sizes) == 1:
        return given
    names = tensors.graph.add("Split", name, tensors.ints(*sizes), outputs=len(sizes), axis=axis)
    return [tensor(each, out.aval.shape, out.aval.dtype) for each, out in zip(names, equation.outvars, strict=True)]


def _slice(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    value, params = given[0], equation.params
    strides = params["strides"] or [1] * len(value.shape)
    cut = [
        (axis, start, limit, stride)
        for axis, (start, limit, stride) in enumerate(zip(params["start_indices"], params["limit_indices"], strides, strict=True))
        if (start, limit, stride) != (0, value.shape[axis], 1)
    ]
    axes, starts, limits, steps = (tensors.ints(*map(int, numbers)) for numbers in zip(*cut, strict=True))
    return node(tensors, equation, "Slice", tensors.whole(value), starts, limits, axes, steps)


def _pad(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    value, filling = given
    low, high, between = zip(*equation.params["padding_config"], strict=True)
    if any(between) or min(*low, *high) < 0:
        raise ExportError("the model pads between values or by less than nothing, which can't be exported to ONNX")
    return node(tensors, equation, "Pad", tensors.whole(value), tensors.ints(*map(int, (*low, *high))), tensors.held(filling))


def _iota(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    """Counts along an axis whose size is known only when the program runs."""
    del given
    graph, out = tensors.graph, equation.outvars[0].aval
    if len(out.shape) != 1:
        raise ExportError("the model counts along one of several axes of unknown sizes, which can't be exported to ONNX")
    zero, one = (graph.constant(np.int64(number)) for number in (0, 1))
    size = graph.one("Squeeze", tensors.size(out.shape[0]))
    return [tensor(tensors.cast(graph.one("Range", zero, size, one), out.dtype), out.shape, out.dtype)]


def _dim_as_value(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    """Converts a size that is known only when the program runs, as a number."""
    del given
    out = equation.outvars[0].aval
    size = tensors.graph.one("Squeeze", tensors.size(equation.params["dim"]))
    return [tensor(tensors.cast(size, out.dtype), out.shape, out.dtype)]


def _reduce(op: str) -> Convert:
    def convert(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
        axes = tensors.ints(*equation.params["axes"])
        return node(tensors, equation, op, tensors.whole(given[0]), axes, keepdims=0)

    return convert


def _gather(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    """Converts what takes whole rows, or one range, by constant indices along one axis or along several neighbouring ones."""
    value, indices = given
    if indices.constant is None:
        raise ExportError("the model takes values from places that it computes, which can't be exported to ONNX")
    numbers, sizes, out = equation.params["dimension_numbers"], equation.params["slice_sizes"], equation.outvars[0].aval
    axes, collapsed, name = numbers.start_index_map, numbers.collapsed_slice_dims, tensors.whole(value)
    where = indices.constant
    if where.ndim == 1 and (len(axes) == 1 or all(size == 1 for size in (sizes[axis] for axis in axes))):  # one range
        limits = [int(start) + int(sizes[axis]) for start, axis in zip(where, axes, strict=True)]
        part = tensors.graph.one("Slice", name, tensors.ints(*map(int, where)), tensors.ints(*limits), tensors.ints(*axes))
        shape = tuple(size for axis, size in enumerate(sizes) if axis not in collapsed)
        return [tensors.reshape(part, shape, out.dtype) if collapsed else tensor(part, out.shape, out.dtype)]
    first, last = axes[0], axes[-1] + 1
    if tuple(axes) != tuple(collapsed) or tuple(axes) != tuple(range(first, last)):
        raise ExportError("the model takes values in an order that can't be exported to ONNX")
    flat = np.ravel_multi_index(np.moveaxis(where, -1, 0), [int(value.shape[axis]) for axis in axes])
    rows = (*value.shape[:first], int(np.prod([value.shape[axis] for axis in axes])), *value.shape[last:])
    name = name if len(axes) == 1 else tensors.reshape(name, rows, value.dtype).name
    found = tensors.graph.one("Gather", name, tensors.graph.constant(flat.astype(np.int64)), axis=first)
    return [_moved(tensors, found, numbers.offset_dims, first, flat.ndim, out)]


def _moved(tensors: Tensors, name: str, offsets: tuple[int, ...], first: int, places: int, out: Any) -> Value:
    """Moves the axes of what was gathered from where ONNX has them, in place of the gathered axis, to where they are asked for."""
    ours = [*range(first), *range(first + places, len(out.shape))]  # the axes of rows in ONNX's result, in order
    others = iter(range(first, first + places))
    rows = dict(zip(offsets, ours, strict=True))
    order = [rows[axis] if axis in rows else next(others) for axis in range(len(out.shape))]
    if order == sorted(order):
        return tensor(name, out.shape, out.dtype)
    return tensors.make("Transpose", [name], out.shape, out.dtype, perm=order)


def _dot_general(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    """Converts a sum of products: both sides are brought to the form of a product of matrices."""
    ((left_inner, right_inner), (left_batch, right_batch)), out = equation.params["dimension_numbers"], equation.outvars[0].aval
    left, right = given
    left_free = [axis for axis in range(len(left.shape)) if axis not in (*left_inner, *left_batch)]
    right_free = [axis for axis in range(len(right.shape)) if axis not in (*right_inner, *right_batch)]
    first = _matrices(tensors, left, (left_batch, left_free, left_inner), joined=bool(left_batch))
    second = _matrices(tensors, right, (right_batch, right_inner, right_free), joined=True)
    product = tensors.graph.one("MatMul", first, second)
    shaped = len(right_free) == 1 and (len(left_free) == 1 or not left_batch)
    if shaped and not (not left_free or not right_free):
        return [tensor(product, out.shape, out.dtype)]
    return [tensors.reshape(product, out.shape, out.dtype)]


def _matrices(tensors: Tensors, value: Value, groups: tuple[Any, Any, Any], *, joined: bool) -> str:
    """Puts the axes of a value into the order of groups, and joins those of the last two groups, each to one axis.

    With `joined` false the middle group stays apart.
    """
    order = [axis for group in groups for axis in group]
    name = tensors.whole(value)
    if order != sorted(order):
        name = tensors.graph.one("Transpose", name, perm=order)
    batch, middle, last = ([value.shape[axis] for axis in group] for group in groups)
    if joined or not middle:
        middle = [_product(middle)]
    shape = (*batch, *middle, _product(last))
    if shape == tuple(value.shape[axis] for axis in order):
        return name
    return tensors.reshape(name, shape, value.dtype).name


def _product(sizes: list[Any]) -> Any:
    found: Any = 1
    for size in sizes:
        found = size * found
    return found


def _rfft(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    """Converts a Fourier transform of real rows to two products with cosines and sines; the result has an axis of both in front."""
    kind, (length,) = equation.params["fft_type"], equation.params["fft_lengths"]
    if str(kind).rpartition(".")[2] not in ("RFFT", "2"):
        raise ExportError(f"the model uses the Fourier transform {kind}, which can't be exported to ONNX")
    out = equation.outvars[0].aval
    turns = np.outer(np.arange(length), np.arange(length // 2 + 1)) % length * (2 * np.pi / length)
    # In float64: what float32 leaves of the quietest bins would be another rounding error than the model's, twice as far from it.
    rows, graph = tensors.cast(tensors.whole(given[0]), np.float64), tensors.graph
    parts = [tensors.cast(graph.one("MatMul", rows, graph.constant(part)), np.float32) for part in (np.cos(turns), -np.sin(turns))]
    return [Value(out.shape, out.dtype, " ".join(parts), held=out.shape)]


def _part(number: int) -> Convert:
    def convert(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
        del tensors
        out = equation.outvars[0].aval
        return [tensor(given[0].name.split()[number], out.shape, out.dtype)]

    return convert


ARRAYS: dict[str, Convert] = {
    "broadcast_in_dim": _broadcast_in_dim,
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshape),
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "iota": _iota,
    "dim_as_value": _dim_as_value,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "gather": _gather,
    "dot_general": _dot_general,
    "fft": _rfft,
    "real": _part(0),
    "imag": _part(1),
}
