"""Packs what one step of a run holds, and checks on reading that it is still what was saved.

`meta` lists every tensor as `[type and shape, checksum]`. The checksum is the sum, modulo 2^32, of the tensor's 32-bit words times odd
weights that depend on their position. It is exact, so it doesn't depend on sharding or on the number of devices, and is computed where the
tensor is; as odd numbers are invertible modulo 2^32, every single flipped bit changes it.
"""

import contextlib
import functools
import gc
import hashlib
import json
import logging
import math
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from avmae_jax.errors import CheckpointMismatchError, DamagedCheckpointError, first_line
from avmae_jax.trees import flatten

Tensors = dict[str, Any]  # dotted path -> jax.Array or jax.ShapeDtypeStruct

_FORM = re.compile(r"[\w<>]+\[(\d{1,18}(, \d{1,18})*)?\]")  # type and shape of a tensor
STEP_NAME = re.compile(r"0|[1-9]\d*")  # of a step's folder
_SHOWN = 10  # tensors listed in an error; the rest is counted
# What Orbax raises for a damaged file, found by flipping bits in all of them; running out of memory is none of these.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError)


def pack(step: int, trees: dict[str, Any], data: dict[str, Any], meta: dict[str, Any]) -> dict[str, ocp.args.CheckpointArgs]:
    """Returns Orbax's save arguments for the items of a step.

    Args:
      step: stored in `meta`.
      trees: item -> pytree of jax arrays; an item without leaves is listed in `meta` and has no folder.
      data: JSON.
      meta: JSON.

    Raises:
      TypeError: if a leaf isn't a jax array, or `data` or `meta` isn't JSON.
    """
    tensors = {item: flatten(tree) for item, tree in trees.items()}
    for item, flat in tensors.items():
        for path, leaf in flat.items():
            if not isinstance(leaf, jax.Array):
                raise TypeError(f"{item}: {path} is a {type(leaf).__name__}; checkpoints hold jax arrays")
    sums = {item: _checksums(flat) for item, flat in tensors.items()}
    signatures = {item: {path: [_form(leaf), sums[item][path]] for path, leaf in flat.items()} for item, flat in tensors.items()}
    content = {"step": step, "tensors": signatures, "data": _digest(data), "meta": meta}
    return {
        **{item: ocp.args.StandardSave(flat) for item, flat in tensors.items() if flat},
        "data": ocp.args.JsonSave(data),
        "meta": ocp.args.JsonSave({"sha256": _digest(content), "content": content}),
    }


def read_meta(folder: pathlib.Path) -> dict[str, Any]:
    """Reads {"step", "tensors", "data", "meta"} of a step.

    Raises:
      DamagedCheckpointError: if it isn't what was saved.
      CheckpointMismatchError: if the folder has the number of another step; one whose name is no number may hold any.
    """
    saved = _read_json(folder, "meta")
    if saved.keys() != {"sha256", "content"} or saved["sha256"] != _digest(saved["content"]):
        raise DamagedCheckpointError(f"{folder}: meta is not what was saved")
    content = saved["content"]
    if not _is_content(content):
        raise DamagedCheckpointError(f"{folder}: meta was written by another program")
    if STEP_NAME.fullmatch(folder.name) and content["step"] != int(folder.name):
        raise CheckpointMismatchError(f"{folder}: holds step {content['step']} under another number; rename it back, or remove this copy")
    return content


def read_data(folder: pathlib.Path, content: dict[str, Any]) -> dict[str, Any]:
    """Reads the state of the data reader at a step; raises DamagedCheckpointError if it isn't what was saved."""
    data = _read_json(folder, "data")
    if _digest(data) != content["data"]:
        raise DamagedCheckpointError(f"{folder}: data is not what was saved")
    return data


def read_tensors(folder: pathlib.Path, content: dict[str, Any], targets: dict[str, Any]) -> dict[str, Any]:
    """Reads and verifies some items of a step.

    Args:
      folder: of the step.
      content: what `read_meta` returned.
      targets: item -> pytree of arrays or `jax.ShapeDtypeStruct`s with shardings, or None for {dotted path: array} on the first device.

    Returns:
      item -> pytree of jax arrays.

    Raises:
      CheckpointMismatchError: if an item holds other tensors than its target.
      DamagedCheckpointError: if an item is missing, unreadable or does not match its checksums.
    """
    abstract = {}
    for item, target in targets.items():
        signatures = content["tensors"].get(item, {})  # steps saved before there was this item don't have it
        flat = _from_signatures(folder, signatures) if target is None else flatten(target)
        _require_same_tensors(folder, item, {path: form for path, (form, _) in signatures.items()}, flat)
        abstract[item] = {path: _with_sharding(leaf) for path, leaf in flat.items()}
    restored = {}
    for item, target in targets.items():
        tensors = _read_item(folder, item, abstract[item]) if abstract[item] else {}
        if other := [path for path in tensors if _form(tensors[path]) != _form(abstract[item][path])]:  # Orbax's note of the type is lost
            raise DamagedCheckpointError(f"{folder}: {item} has another type or shape than was saved in {_listed(other)}")
        sums = _checksums(tensors)
        wrong = [path for path, (_, saved) in content["tensors"].get(item, {}).items() if sums[path] != saved]
        if wrong:
            raise DamagedCheckpointError(f"{folder}: {item} does not match its checksums in {_listed(wrong)}")
        restored[item] = tensors if target is None else jax.tree.unflatten(jax.tree.structure(target), list(tensors.values()))
    return restored


@jax.jit
def checksum(tensor: jax.Array) -> jax.Array:
    """Computes the checksum of one tensor of any shape, type and sharding: uint32[]."""
    if jnp.issubdtype(tensor.dtype, jax.dtypes.prng_key):
        tensor = jax.random.key_data(tensor)
    if tensor.dtype == jnp.bool_:
        tensor = tensor.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(tensor, jnp.dtype(f"uint{min(32, 8 * tensor.dtype.itemsize)}")).astype(jnp.uint32)
    # Positions axis by axis: a reshape would gather a sharded tensor.
    position = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        position += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    # Scrambled, so that swapped blocks don't cancel out (the constants are those of the lowbias32 hash).
    position = (position ^ (position >> 16)) * np.uint32(0x7FEB352D)
    position = (position ^ (position >> 15)) * np.uint32(0x846CA68B)
    weight = (position ^ (position >> 16)) | np.uint32(1)
    return jnp.sum(words * weight, dtype=jnp.uint32)


def _checksums(tensors: Tensors) -> dict[str, int]:
    """Computes the checksum of each tensor."""
    # One after another: on simulated devices, programs that sum over some of them deadlock when several are under way.
    return {path: int(jax.device_get(checksum(leaf))) for path, leaf in tensors.items()}


def _form(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _is_content(content: Any) -> bool:
    """Returns whether a JSON value has the form that `pack` gives to what it stores in `meta`."""
    match content:
        case {"step": int(), "tensors": dict(tensors), "data": str(), "meta": dict()} if all(isinstance(v, dict) for v in tensors.values()):
            entries = [entry for item in tensors.values() for entry in item.values()]
        case _:
            return False
    for entry in entries:
        match entry:
            case [str(form), int()] if _FORM.fullmatch(form):
                continue
        return False
    return True


def _from_signatures(folder: pathlib.Path, signatures: dict[str, Any]) -> Tensors:
    flat = {}
    for path, (form, _) in signatures.items():
        dtype, shape = form.split("[", 1)
        if dtype.startswith("key<"):
            raise CheckpointMismatchError(f"{folder}: {path} is a random key, which can't be restored without a target; give one")
        try:
            kind = jnp.dtype(dtype)
        except TypeError:
            kind = None
        if str(kind) != dtype:
            raise DamagedCheckpointError(f"{folder}: {path} has the unknown type {dtype}")
        flat[path] = jax.ShapeDtypeStruct(json.loads(f"[{shape}"), kind)
    return flat


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding.shard_shape(leaf.shape)  # a sharding that doesn't divide the shape is the caller's mistake, not damage
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _require_same_tensors(folder: pathlib.Path, item: str, saved: dict[str, str], target: Tensors) -> None:
    lines = []
    if missing := [path for path in target if path not in saved]:
        lines.append(f"missing in the checkpoint: {_listed(missing)}")
    if unexpected := [path for path in saved if path not in target]:
        lines.append(f"only in the checkpoint: {_listed(unexpected)}")
    other = [path for path in target if path in saved and saved[path] != _form(target[path])]
    lines += [f"{path}: {saved[path]} in the checkpoint, {_form(target[path])} now" for path in other[:_SHOWN]]
    if len(other) > _SHOWN:
        lines.append(f"and {len(other) - _SHOWN} more of another shape or type")
    if lines:
        raise CheckpointMismatchError(f"{folder}: {item} does not fit; use the config it was saved with:\n  " + "\n  ".join(lines))


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:_SHOWN]) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")


def _read_item(folder: pathlib.Path, item: str, abstract: Tensors) -> Tensors:
    with _orphans_hidden():
        tensors, failure = _try_to_read(folder / item, abstract)
        if failure:
            gc.collect()  # ends the reads that Orbax has given up while they can't be heard
    # A host reads its own shards only: all must take or leave this step together.
    if jax.process_count() > 1 and multihost_utils.process_allgather(np.array(bool(failure))).any():
        failure = failure or "unreadable on another host"
    if failure:
        raise DamagedCheckpointError(f"{folder}: {item} can't be read: {failure}")
    return tensors


def _try_to_read(folder: pathlib.Path, abstract: Tensors) -> tuple[Tensors, str]:
    try:
        restored = ocp.StandardCheckpointHandler().restore(epath.Path(folder), args=ocp.args.StandardRestore(abstract))
        return {path: restored[path] for path in abstract}, ""
    except Exception as error:
        cause = error.__cause__ if type(error) is Exception else error  # Orbax wraps what TensorStore raises in a bare Exception
        if not isinstance(cause, _READ_ERRORS):
            raise
        return {}, first_line(cause)


@contextlib.contextmanager
def _orphans_hidden() -> Iterator[None]:
    """Hides what Orbax's other reads log once one has failed and the event loop is closed: pages on an error that we report in a line."""
    ignore_orphans()
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.disabled, was_disabled = True, asyncio_log.disabled
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
        try:
            yield
        finally:
            asyncio_log.disabled = was_disabled


@functools.cache
def ignore_orphans() -> None:
    """Drops what Orbax's other reads and writes log once one has failed; permanently, since the last of them may come much later."""
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        if str(unraisable.exc_value) != "Event loop is closed" and not (code and "orbax" in pathlib.Path(code.co_filename).parts):
            previous(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(lambda record: not ("never retrieved" in record.getMessage() and "orbax" in record.getMessage()))


def _read_json(folder: pathlib.Path, item: str) -> dict[str, Any]:
    try:
        value = ocp.JsonCheckpointHandler().restore(epath.Path(folder / item))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{folder}: {item} can't be read: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise DamagedCheckpointError(f"{folder}: {item} is not what was saved")
    return value


def _digest(value: Any) -> str:
    """Computes the SHA-256 of a JSON value, which is the same before it is written and after it is read."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode()).hexdigest()
