"""Converts the operations of jaxprs, one by one: here those that work element by element."""

from typing import Any

import numpy as np

from avmae_jax.errors import ExportError
from avmae_jax.export import arrays
from avmae_jax.export.arrays import Convert, node
from avmae_jax.export.tensors import Tensors
from avmae_jax.export.values import Value, constant, tensor

_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "max": "Max", "min": "Min", "pow": "Pow"}
_BINARY |= {"lt": "Less", "gt": "Greater", "le": "LessOrEqual", "ge": "GreaterOrEqual", "eq": "Equal", "and": "And", "or": "Or"}
_UNARY = {"log": "Log", "exp": "Exp", "sqrt": "Sqrt", "abs": "Abs", "neg": "Neg", "floor": "Floor", "ceil": "Ceil", "sign": "Sign"}
_UNARY |= {"erf": "Erf", "tanh": "Tanh", "logistic": "Sigmoid", "not": "Not", "sin": "Sin", "cos": "Cos"}
_OTHERS = ("div", "ne", "rem", "atan2", "round", "square", "integer_pow", "rsqrt", "select_n", "clamp")
_OTHERS += ("convert_element_type", "stop_gradient", "copy")
_ELEMENTWISE = {*_BINARY, *_UNARY, *_OTHERS}


def folded(equation: Any, given: list[Value]) -> list[Value] | None:
    """Computes an operation on constants; None if it isn't one, or the constants would have to be repeated."""
    if equation.primitive.name == "dim_as_value":
        return None
    if equation.primitive.name not in _ELEMENTWISE:
        if any(value.constant is None or not value.whole for value in given) or not all(map(_fixed, equation.outvars)):
            return None
        found = equation.primitive.bind(*(value.constant for value in given), **equation.params)
        return [constant(np.asarray(each)) for each in (found if equation.primitive.multiple_results else [found])]
    if equation.primitive.name == "select_n" and given[0].constant is not None and len({*given[0].constant.flat}) == 1:
        chosen = given[1 + int(given[0].constant.flat[0])]
        return [chosen] if chosen.shape == equation.outvars[0].aval.shape else None
    if any(value.constant is None for value in given):
        return None
    wide = np.broadcast_arrays(*(value.constant for value in given if value.constant is not None))
    return [constant(np.asarray(equation.primitive.bind(*wide, **equation.params)), equation.outvars[0].aval.shape)]


def _fixed(variable: Any) -> bool:
    return all(isinstance(size, int) for size in variable.aval.shape)


def _broadcast(tensors: Tensors, equation: Any, given: list[Value]) -> list[str]:
    """Names the inputs of an element-wise operation, so that its output has all sizes."""
    shape = equation.outvars[0].aval.shape
    wide = any(value.whole and value.shape == shape for value in given)
    return [*map(tensors.held if wide else tensors.whole, given)]


def _binary(op: str) -> Convert:
    def convert(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
        return node(tensors, equation, op, *_broadcast(tensors, equation, given))

    return convert


def _unary(op: str) -> Convert:
    def convert(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
        (value,), out = given, equation.outvars[0].aval
        return [tensors.make(op, [tensors.held(value)], out.shape, out.dtype, value.held)]

    return convert


def _div(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    """Multiplies by the reciprocal of a constant, as XLA does, so that both round alike."""
    left, right = given
    if right.constant is None or right.dtype.kind != "f":
        return node(tensors, equation, "Div", *_broadcast(tensors, equation, given))
    inverse = constant(np.asarray(1 / right.constant, right.dtype), right.shape)
    return node(tensors, equation, "Mul", *_broadcast(tensors, equation, [left, inverse]))


def _ne(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    return node(tensors, equation, "Not", tensors.graph.one("Equal", *_broadcast(tensors, equation, given)))


def _rem(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    return node(tensors, equation, "Mod", *_broadcast(tensors, equation, given), fmod=1)


def _atan2(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    """Converts the angle of (x, y), for which ONNX has the arc tangent of y / x alone."""
    graph = tensors.graph
    y, x = _broadcast(tensors, equation, given)
    zero, pi = (graph.constant(np.asarray(number, equation.outvars[0].aval.dtype)) for number in (0, np.pi))
    angle = graph.one("Atan", graph.one("Div", y, x))
    turned = graph.one("Where", graph.one("Less", y, zero), graph.one("Sub", angle, pi), graph.one("Add", angle, pi))
    angle = graph.one("Where", graph.one("Less", x, zero), turned, angle)
    nowhere = graph.one("And", graph.one("Equal", x, zero), graph.one("Equal", y, zero))
    return node(tensors, equation, "Where", nowhere, zero, angle)


def _round(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    if equation.params["rounding_method"].name != "TO_NEAREST_EVEN":
        raise ExportError("the model rounds halves away from 0, which can't be exported to ONNX")
    return node(tensors, equation, "Round", tensors.whole(given[0]))


def _square(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    return node(tensors, equation, "Mul", *[tensors.whole(given[0])] * 2)


def _integer_pow(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    if equation.params["y"] == 2:
        return _square(tensors, equation, given)
    power = tensors.graph.constant(np.asarray(equation.params["y"], given[0].dtype))
    return node(tensors, equation, "Pow", tensors.whole(given[0]), power)


def _rsqrt(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    return node(tensors, equation, "Reciprocal", tensors.graph.one("Sqrt", tensors.whole(given[0])))


def _select(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    if len(given) != 3 or given[0].dtype != np.bool_:
        raise ExportError("the model selects among more than two arrays, which can't be exported to ONNX")
    which, if_false, if_true = _broadcast(tensors, equation, given)
    return node(tensors, equation, "Where", which, if_true, if_false)


def _clamp(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    least, value, most = given
    bounded = tensors.graph.one("Max", tensors.whole(value), tensors.held(least))
    return node(tensors, equation, "Min", bounded, tensors.held(most))


def _convert(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    (value,), dtype = given, equation.params["new_dtype"]
    if value.dtype == dtype:
        return given
    return [tensor(tensors.cast(tensors.held(value), dtype), value.shape, dtype, value.held)]


def _same(tensors: Tensors, equation: Any, given: list[Value]) -> list[Value]:
    del tensors, equation
    return given


OPERATIONS: dict[str, Convert] = {
    **arrays.ARRAYS,
    **{name: _binary(op) for name, op in _BINARY.items()},
    **{name: _unary(op) for name, op in _UNARY.items()},
    "div": _div,
    "ne": _ne,
    "rem": _rem,
    "atan2": _atan2,
    "round": _round,
    "square": _square,
    "integer_pow": _integer_pow,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "clamp": _clamp,
    "convert_element_type": _convert,
    **dict.fromkeys(("stop_gradient", "copy", "optimization_barrier", "copy_p"), _same),
}
