"""Builds graphs of ONNX whose large constants lie in one file that several graphs share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from avmae_jax.export.store import Store

OPSET = 20  # of the operators; the first one with Gelu
_IR = 10  # version of the file's form, read by onnxruntime 1.19 and newer
_INLINE = 1024  # bytes of a constant that stays in the graph's own file


def element_type(dtype: Any) -> int:
    """Returns ONNX's number of a type of NumPy."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class Graph:
    """Collects the nodes of one graph. A node that is there already is not added again."""

    def __init__(self, store: Store) -> None:
        """Starts without nodes; large constants go to the store."""
        self._store = store
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._known: dict[Any, tuple[str, ...]] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self.symbols: dict[str, tuple[str, int]] = {}  # name of a size that is known when the program runs -> input and axis that has it

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        """Adds an input; names in its shape are sizes that are known when the program runs."""
        self._inputs.append(helper.make_tensor_value_info(name, element_type(dtype), shape))
        for axis, size in enumerate(shape):
            if isinstance(size, str):
                self.symbols.setdefault(size, (name, axis))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> tuple[str, ...]:
        """Adds a node; returns the names of its outputs."""
        key = (op, inputs, outputs, repr(sorted(attributes.items())))
        if key not in self._known:
            names = tuple(f"{op.lower()}_{len(self._nodes)}{f'_{number}' if number else ''}" for number in range(outputs))
            self._nodes.append(helper.make_node(op, inputs, names, name=names[0], **attributes))
            self._known[key] = names
        return self._known[key]

    def one(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output; returns its name."""
        return self.add(op, *inputs, **attributes)[0]

    def constant(self, array: Any) -> str:
        """Adds a constant; returns its name."""
        array = np.asarray(array)
        if array.nbytes <= _INLINE:
            key = ("constant", array.dtype.str, array.shape, array.tobytes())
            if key not in self._known:
                self._known[key] = (f"constant_{len(self._constants)}",)
                self._constants[self._known[key][0]] = numpy_helper.from_array(np.asarray(array), self._known[key][0])
            return self._known[key][0]
        found, begin = self._store.add(array)
        if found not in self._constants:
            tensor = TensorProto(name=found, data_type=element_type(array.dtype), dims=array.shape, data_location=TensorProto.EXTERNAL)
            for entry, value in (("location", self._store.path.name), ("offset", begin), ("length", array.nbytes)):
                tensor.external_data.add(key=entry, value=str(value))
            self._constants[found] = tensor
        return found

    def model(self, outputs: Mapping[str, tuple[str, Any, Sequence[int | str]]]) -> onnx.ModelProto:
        """Returns the finished model; `outputs` are, by the name that they shall have, the name of the node's output, type and shape."""
        declared = [helper.make_tensor_value_info(name, element_type(dtype), shape) for name, (_, dtype, shape) in outputs.items()]
        last = [helper.make_node("Identity", [source], [name], name=name) for name, (source, _, _) in outputs.items()]
        graph = helper.make_graph([*self._nodes, *last], "program", self._inputs, declared, [*self._constants.values()])
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="avmae-jax")
