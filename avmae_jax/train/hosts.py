"""Holds everything that the processes of a run, on one host or several, say to each other; joining.py brings them together.

Every process runs the same program. All of them take part in every computation that spans their devices, and in every function of this
module that says so; files are written by the first process alone. Alone, every function returns what a single process would use anyway.
"""

import contextlib
import functools
import io
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax._src import distributed  # jax.process_index() would start the devices
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from avmae_jax.errors import AvmaeError, HostsError, first_line
from avmae_jax.files import write_bytes
from avmae_jax.settings import flatten_fields

# How XLA's errors begin; running out of memory isn't one of these, and concerns this process.
_FAILED = re.compile(r"(UNKNOWN|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|FAILED_PRECONDITION): ")
_VISIBLE = 30  # seconds that a file may need to be seen on other hosts


def is_first() -> bool:
    """Returns whether this process writes the files of the run; starts no device, so that train/determinism.py can still set flags."""
    return distributed.global_state.process_id == 0


def gather(value: Any) -> list[Any]:
    """Collects a JSON value from every process, in their order; every process must call it, and waits for the others."""
    if jax.process_count() == 1:
        return [value]
    return [json.loads(content) for content in _gather_bytes(json.dumps(value).encode())]


def of_first(value: Any) -> Any:
    """Returns the first process's JSON value; every process must call it, and the others' values don't count."""
    return gather(value)[0]


def gather_rows(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins the rows of every process, in their order; one without rows gives an empty mapping. Every process must call it."""
    if jax.process_count() == 1:
        return dict(rows)
    file = io.BytesIO()
    np.savez(file, **rows)  # pyright: ignore[reportArgumentType] - its other argument is named
    parts = [dict(np.load(io.BytesIO(content))) for content in _gather_bytes(file.getvalue())]
    filled = [part for part in parts if part]
    return {name: np.concatenate([part[name] for part in filled]) for name in (filled[0] if filled else {})}


def share(count: int) -> range:
    """Returns those of `count` clips that this process evaluates."""
    index, processes = jax.process_index(), jax.process_count()
    return range(index * count // processes, (index + 1) * count // processes)


def local(model: nnx.Module) -> Any:
    """Returns a model with whole parameters on this process's own first device, for programs that it runs by itself.

    Every process must call it: parameters that are cut are gathered. A process that is alone gets the model as it is.
    """
    if jax.process_count() == 1:
        return model
    graph, state = nnx.split(model)
    leaves, structure = jax.tree.flatten(state)
    if leaves[0].is_fully_addressable:
        return model
    whole = _gathering(leaves[0].sharding.mesh)(leaves)
    return nnx.merge(graph, jax.tree.unflatten(structure, [leaf.addressable_data(0) for leaf in whole]))


def require_same(**values: Any) -> None:
    """Compares JSON values, such as a config, in all processes; every process must call it.

    Raises:
      HostsError: in every process, naming each field that differs, and where.
    """
    own = {name: value for group, given in values.items() for name, value in _named(group, given)}
    all_of = gather({"host": socket.gethostname(), "fields": own})
    first = all_of[0]
    lines = [
        f"{name} is {first['fields'].get(name)!r} in process 0 on {first['host']}, and {other['fields'].get(name)!r} in process {number} "
        f"on {other['host']}"
        for number, other in enumerate(all_of)
        for name in sorted(first["fields"] | other["fields"])
        if first["fields"].get(name) != other["fields"].get(name)
    ]
    if lines:
        raise HostsError("the processes of a run differ; start all with the same command and versions:\n  " + "\n  ".join(lines))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends every process if the block fails in one; every process must enter it, and none may wait for the others in it.

    Raises:
      HostsError: if the block failed in other processes alone.
    """
    try:
        yield
    except Exception as error:
        gather(f"{type(error).__name__}: {error}")
        raise
    for number, problem in enumerate(gather("")):
        if problem:
            raise HostsError(f"process {number} of {jax.process_count()} can't go on: {problem}")


def require_shared(folder: Path) -> None:
    """Raises HostsError, in every process, unless all of them see the same folder; every process must call it."""
    if jax.process_count() == 1:
        return
    file = folder / f".{of_first(uuid.uuid4().hex)}"
    if is_first():
        write_bytes(file, b"")
    gather(None)
    with together():
        begin = time.monotonic()
        while file.name not in os.listdir(folder):  # noqa: PTH208 - which asks a file server again
            if time.monotonic() - begin > _VISIBLE:
                raise HostsError(
                    f"train.workdir {folder} on {socket.gethostname()} isn't the folder that the first process writes; "
                    "give a folder that all hosts share"
                )
            time.sleep(0.5)
    if is_first():
        file.unlink()


def keep_programs(folder: Path) -> None:
    """Lets several processes keep compiled programs in a folder that they share, unless $JAX_COMPILATION_CACHE_DIR names another.

    It must be one folder: on GPUs the processes share the work of timing kernels, so that one that finds no program would wait for those
    that do. The first process alone writes.
    """
    if jax.process_count() == 1 or jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return
    for name, value in {"dir": str(folder), "min_compile_time_secs": 0, "min_entry_size_bytes": -1}.items():
        jax.config.update(f"jax_{'compilation' if name == 'dir' else 'persistent'}_cache_{name}", value)


@contextlib.contextmanager
def losses_explained() -> Iterator[None]:
    """Turns what JAX raises in the block when another process is gone into a HostsError; alone it does nothing."""
    try:
        yield
    except AvmaeError:
        raise
    except (RuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not _FAILED.match(str(error)):
            raise
        raise HostsError(
            f"another process of this run has ended or can't be reached ({first_line(error)}); its own output says why. "
            "Nothing up to the newest checkpoint is lost: the same command in every process resumes there"
        ) from error


@functools.cache
def _gathering(mesh: Mesh) -> Callable[[list[jax.Array]], list[jax.Array]]:
    """Compiles a program that copies arrays whole to every device."""
    return jax.jit(lambda leaves: leaves, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _named(group: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield group, value
        return
    for name, field in flatten_fields(json.loads(json.dumps(value))).items():
        yield f"{group}.{name}", field


def _gather_bytes(content: bytes) -> list[bytes]:
    lengths = np.ravel(multihost_utils.process_allgather(np.array([len(content)], np.int32)))
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]
