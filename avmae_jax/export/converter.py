"""Converts traced functions of JAX to graphs of ONNX.

A function is traced to a jaxpr, and each of its operations becomes one or a few nodes. What depends on constants alone is computed here,
so that the graph holds results. Three functions of models/ aren't converted operation by operation, but to the operators that ONNX has for
them: attention, a LayerNorm with the layer behind it, and a GELU with the one behind it.
"""

from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.extend import core

from avmae_jax.errors import ExportError
from avmae_jax.export import operations, whole
from avmae_jax.export.graph import Graph
from avmae_jax.export.layers import Product
from avmae_jax.export.tensors import Tensors
from avmae_jax.export.values import Value, constant

_CALLS = {"jit": "jaxpr", "custom_vjp_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr"}


class Converter:
    """Converts the operations of a jaxpr to nodes of a graph."""

    def __init__(self, graph: Graph, product: Product) -> None:
        """Takes the graph, and what writes the matrix products of layers."""
        self._tensors, self._product = Tensors(graph), product

    def __call__(self, closed: Any, arguments: Sequence[Value]) -> list[Value]:
        """Converts a closed jaxpr whose inputs are `arguments`; returns its outputs.

        Raises:
          ExportError: if there is an operation that can't be converted; names it.
        """
        with jax.enable_x64(True):  # pyright: ignore[reportAttributeAccessIssue] - constants keep their types
            return self._run(closed.jaxpr, [constant(np.asarray(value)) for value in closed.consts], arguments)

    def tensor(self, value: Value) -> str:
        """Returns the name of the tensor of a value, with all of its sizes."""
        return self._tensors.whole(value)

    def _run(self, jaxpr: Any, constants: Sequence[Value], arguments: Sequence[Value]) -> list[Value]:
        values: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

        def read(atom: Any) -> Value:
            return constant(np.asarray(atom.val, cast(Any, atom.aval).dtype)) if isinstance(atom, core.Literal) else values[atom]

        for equation in _needed(jaxpr):
            given = [read(atom) for atom in equation.invars]
            values.update(zip(equation.outvars, self._apply(equation, given), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, equation: Any, given: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        if name == "platform_index":  # no platform has its own way here
            return [constant(np.int32(params["platforms"].index(None)))]
        if name == "cond":
            if given[0].constant is None:
                raise ExportError("the model chooses between operations when it runs, which can't be exported to ONNX")
            chosen = params["branches"][int(given[0].constant)]
            return self._run(chosen.jaxpr, [constant(np.asarray(value)) for value in chosen.consts], given[1:])
        if name in _CALLS:
            called = params[_CALLS[name]]
            if found := whole.FUNCTIONS.get(_name_of(called, params)):
                return found(self._tensors, self._product, called, given)
            inner, constants = (called.jaxpr, called.consts) if hasattr(called, "jaxpr") else (called, [])
            return self._run(inner, [constant(np.asarray(value)) for value in constants], given)
        if folded := operations.folded(equation, given):
            return folded
        convert = operations.OPERATIONS.get(name)
        if convert is None:
            raise ExportError(f"the model uses the operation {name}, which can't be exported to ONNX; export it to stablehlo")
        return convert(self._tensors, equation, given)


def _needed(jaxpr: Any) -> list[Any]:
    """Lists the operations whose results are used."""
    used, kept = {atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}, []
    for equation in reversed(jaxpr.eqns):
        if used.intersection(equation.outvars):
            kept.append(equation)
            used.update(atom for atom in equation.invars if not isinstance(atom, core.Literal))
    return kept[::-1]


def _name_of(called: Any, params: dict[str, Any]) -> str:
    """Returns the name of the function that a call is of."""
    return params.get("name") or str(called.jaxpr.debug_info.func_src_info or "").partition(" ")[0]
