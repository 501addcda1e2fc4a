"""Keeps traced functions of a model beside JAX's compiled programs, so that a program that is started again needn't trace.

Tracing and lowering take half a second for the base model, of the four in which launch.predict answers. What is kept is StableHLO, which
JAX then finds compiled.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.export
from flax import nnx

from avmae_jax.files import replacing

_SUM = 32  # bytes of the checksum before the trace
_PACKAGE = Path(__file__).parents[1]

Function = Callable[[Any, Mapping[str, jax.Array]], Any]


def compiled(function: Function, model: Any, batch: Mapping[str, jax.Array], identity: str) -> Function:
    """Returns a compiled function of a model and a batch, traced now or by an earlier process.

    Args:
      function: to be compiled.
      model: of the structure, shapes and types that the function will be given.
      batch: likewise.
      identity: with the structure of both says what the function computes; "": it is traced, and not kept.
    """
    folder: str = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if not (identity and folder and jax.default_backend() == "cpu"):  # a GPU's attention is a call that JAX doesn't promise to keep
        return nnx.jit(function)
    graph, state = nnx.split(model)
    leaves, structure = jax.tree.flatten(state)

    def on_leaves(leaves: Any, batch: Any) -> Any:
        return function(nnx.merge(graph, jax.tree.unflatten(structure, leaves)), batch)

    path = Path(folder) / f"trace-{_key(identity, jax.tree.map(jax.typeof, (state, dict(batch))))}"
    trace = _read(path)
    if trace is None:
        trace = jax.export.export(jax.jit(on_leaves))(leaves, batch)
        _write(path, trace.serialize())
    call = jax.jit(trace.call)
    return lambda model, batch: call(jax.tree.leaves(nnx.state(model)), batch)


def _key(identity: str, shapes: Any) -> str:
    """Returns a name that changes with everything that a trace may depend on."""
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")]
    sources = sorted((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in _PACKAGE.rglob("*.py"))
    settings = sorted(jax.config.values.items())
    return hashlib.sha256(repr((identity, shapes, versions, sources, settings)).encode()).hexdigest()


def _read(path: Path) -> jax.export.Exported | None:
    """Returns a trace; None if it isn't there or isn't as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if content[:_SUM] != hashlib.sha256(content[_SUM:]).digest():
        return None
    return jax.export.deserialize(bytearray(content[_SUM:]))


def _write(path: Path, trace: bytearray) -> None:
    """Keeps a trace if the folder can be written; JAX's own warning says so otherwise, of the compiled program."""
    with suppress(OSError), replacing(path) as unfinished:
        unfinished.write_bytes(hashlib.sha256(trace).digest() + trace)
