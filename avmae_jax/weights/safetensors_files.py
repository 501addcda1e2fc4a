"""Reads and writes safetensors files, with a note of the model and a checksum of everything in their metadata."""

import hashlib
import json
import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from avmae_jax.errors import WeightsError, first_line

_NOTE, _SUM = "avmae_jax.meta", "avmae_jax.sha256"  # keys in the metadata: our note, and the checksum of all
_HEX = 64  # digits of a checksum
_ALIGNED = 64  # bytes; JAX on a CPU takes arrays that begin at a multiple of this as they are
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def load(path: Path) -> tuple[dict[str, np.ndarray], list[str], str, Callable[[], None]]:
    """Returns tensors by name, the names of everything else, the note of the config, and what raises WeightsError for a wrong checksum.

    A thread computes the checksum, which takes long for a large file.
    """
    try:
        with safe_open(path, framework="numpy") as file:  # compares the header with the file's size; bfloat16 it can't return
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(
            f"{path}: is no safetensors file, or a damaged or incomplete one ({first_line(error)}). Fetch or save it again"
        ) from error
    entries, note = _entries(path), metadata.get(_NOTE, "")
    thread = ThreadPoolExecutor(1)
    checksum = thread.submit(_checksum, note, entries) if _SUM in metadata else None
    thread.shutdown(wait=False)

    def verify() -> None:
        if (checksum and metadata[_SUM] != checksum.result()) or _lost_checksum(metadata):
            remedy = f"fetch it again; if another program changed it on purpose, it must leave out {_SUM}"
            raise WeightsError(f"{path}: is not what was written, its checksum differs; {remedy}")

    tensors = {
        name: np.frombuffer(data, jnp.dtype(_FLOATS[dtype])).reshape(shape).astype(np.float32, copy=False)
        for name, dtype, shape, data in entries
        if dtype in _FLOATS
    }
    return tensors, [name for name, *_ in entries if name not in tensors], note, verify


def content_of(tensors: Mapping[str, np.ndarray], note: str) -> bytes:
    """Returns the bytes of a safetensors file: the same for the same tensors, of float32 or float16, and the same note."""
    kinds = {np.dtype(dtype): kind for kind, dtype in _FLOATS.items() if kind in ("F16", "F32")}
    entries = ((name, kinds[tensor.dtype], tensor.shape, np.ascontiguousarray(tensor)) for name, tensor in sorted(tensors.items()))
    return _ordered(save(dict(tensors), {"format": "pt", _NOTE: note, _SUM: _checksum(note, entries)}))  # other libraries look for "format"


def _entries(path: Path) -> list[tuple[str, str, list[int], memoryview]]:
    """Returns the tensors of a safetensors file that safe_open accepts, by name: name, type, shape, bytes.

    The file is mapped into memory, and the bytes are views of it. Nothing is copied, also where JAX on a CPU takes them as weights. So a
    file in use must be replaced, as every program here does, and not be written into.
    """
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    begin = 8 + int.from_bytes(content[:8], "little")  # of the data, behind the length of the header and the header
    header = json.loads(bytes(content[8:begin]))
    header.pop("__metadata__", None)
    places = ((name, entry, [begin + offset for offset in entry["data_offsets"]]) for name, entry in sorted(header.items()))
    return [(name, entry["dtype"], entry["shape"], content[first:end]) for name, entry, (first, end) in places]


def _lost_checksum(metadata: Mapping[str, str]) -> bool:
    """Returns whether a file of this project has a checksum under a damaged name; files of before there was one have nothing like it."""
    return _NOTE in metadata and _SUM not in metadata and any(len(metadata[name]) == _HEX for name in metadata.keys() - {_NOTE, "format"})


def _checksum(note: str, entries: Iterable[tuple[str, str, Sequence[int], Any]]) -> str:
    """Computes the SHA-256 of a note and of tensors, in the order of their names: name, type, shape, bytes."""
    digest = hashlib.sha256(json.dumps(note).encode())
    for name, dtype, shape, data in entries:
        digest.update(json.dumps([name, dtype, list(shape)]).encode())
        digest.update(data)
    return digest.hexdigest()


def _ordered(content: bytes) -> bytes:
    """Sorts the metadata of a safetensors file, which the library writes in a random order: the same tensors give the same bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))
