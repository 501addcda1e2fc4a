"""Writes a model's programs as ONNX."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx

from avmae_jax.export import layers
from avmae_jax.export.converter import Converter
from avmae_jax.export.graph import Graph
from avmae_jax.export.program import BATCH, Entry, specs
from avmae_jax.export.store import FILE, Store
from avmae_jax.export.values import tensor
from avmae_jax.weights.trained import Trained


def write(trained: Trained, entries: Mapping[str, Entry], folder: Path, quantize: str | None) -> dict[str, Any]:
    """Writes GIVEN.onnx for each entry and weights.bin, which they share; returns what config.json says of the latter.

    Raises:
      ExportError: if the model uses an operation that ONNX lacks; names it.
    """
    with Store(folder / FILE) as store:
        models = {given: _model(trained, entry, Graph(store), quantize) for given, entry in entries.items()}
        line = store.finish()
    for given, model in models.items():
        onnx.helper.set_model_props(model, {"weights": line})
        (folder / f"{given}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    return {"file": FILE, "begins_with": line, "bytes": (folder / FILE).stat().st_size, "arrays": []}


def _model(trained: Trained, entry: Entry, graph: Graph, quantize: str | None) -> onnx.ModelProto:
    """Converts one entry."""
    given = specs(entry)
    names, traced = list(given), jax.make_jaxpr(lambda *arrays: entry.function(trained.module, dict(zip(given, arrays, strict=True))))
    closed = traced(*given.values())
    inputs = [tensor(graph.input(name, *entry.inputs[name]), tuple(given[name].shape), given[name].dtype) for name in names]
    convert = Converter(graph, layers.PRODUCTS[quantize])
    results = dict(zip(sorted(entry.outputs), convert(closed, inputs), strict=True))  # jax sorts the keys of a dict
    outputs = {name: (convert.tensor(results[name]), np.float32, [BATCH, size]) for name, size in entry.outputs.items()}
    return graph.model(outputs)
