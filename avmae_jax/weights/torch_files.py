"""Reads the tensors of PyTorch files with NumPy: archives, and the older files that are a row of pickles with the values after them.

An archive holds a CRC of each of its members, which is compared for every member that is read; an older file has no checksum at all.
Sizes that a file claims are compared with its own before memory is taken.
"""

import io
import math
import mmap
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from avmae_jax.errors import WeightsError, first_line
from avmae_jax.weights.torch_pickle import Storage, Tensor, read_pickle

_SIGNATURE = b"PK\x03\x04"  # of an archive
_MAGIC = 0x1950A86A20F9469CFC6C  # first number of an older file
_PICKLE = 1 << 26  # bytes of an archive's pickle; one of a model has less than a megabyte
_INFLATED = 4  # how many times its own size an archive may hold; weights hardly compress
_REPEATED = 2  # values for each byte of a file, in views that share a storage
_DTYPES = {
    "Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bfloat16", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1",
    "Byte": "u1", "Bool": "?", "ComplexFloat": "c8", "ComplexDouble": "c16", "Untyped": "u1",
    "QInt8": "i1", "QUInt8": "u1", "QInt32": "i4",
}  # fmt: skip
_FLOATS = ("Float", "Double", "Half", "BFloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_DTYPES |= {name: name for name in _FLOATS[4:]}
Order = Literal["<", ">"]  # of a number's bytes, as NumPy names it: the lowest or the highest first
# What a damaged file makes zipfile, zlib, pickletools and the functions below raise.
_DAMAGES = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    OverflowError, RecursionError, NotImplementedError, RuntimeError, MemoryError,
)  # fmt: skip


def load_torch(path: Path, choose: Callable[[Any], Mapping[Any, Any]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads the floating-point tensors of a state dict as float32.

    Args:
      path: of the file.
      choose: is called with the file's content and returns the state dict in it.

    Returns:
      The tensors by name, and the names of everything else.

    Raises:
      WeightsError: if the file is damaged, or holds code.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                with zipfile.ZipFile(file) as archive:
                    return _convert(_Archive(archive, path.stat().st_size), choose)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _convert(_Older(content), choose)
    except WeightsError:
        raise
    except _DAMAGES as error:
        said = "is no PyTorch checkpoint, or a damaged or incomplete one; nothing in it was run. Fetch or save it again"
        raise WeightsError(f"{said} ({first_line(error)})") from error


class _Archive:
    """Reads an archive: data.pkl, and a member for each storage."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.size = size
        self._archive, self._left = archive, _INFLATED * size
        members = archive.infolist()
        self._counts = Counter(member.filename for member in members)
        pickles = [name for name in self._counts if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} members named data.pkl")
        if not any(member.CRC for member in members):
            raise WeightsError("was saved without checksums, so that damage can't be noticed; save it with set_crc32_options(True)")
        self._root = pickles[0].removesuffix("data.pkl")
        order = self._read("byteorder") if f"{self._root}byteorder" in self._counts else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"its byte order is {order[:20]!r}")
        self.order: Order = "<" if order == b"little" else ">"
        self.content = read_pickle(io.BytesIO(self._read("data.pkl", _PICKLE))).content

    def read(self, storage: Storage) -> bytes:
        """Returns the bytes of a storage."""
        return self._read(f"data/{storage.key}")

    def _read(self, name: str, limit: int | None = None) -> bytes:
        """Returns a member's content after its size and with its CRC compared; raises ValueError if it is larger than it can be."""
        member = self._archive.getinfo(self._root + name)
        if self._counts[member.filename] > 1:
            raise ValueError(f"it has the member {name!r} twice")
        self._left -= member.file_size
        if self._left < 0 or member.file_size > (limit or member.file_size):
            raise ValueError(f"its member {name!r} claims {member.file_size} bytes, and the file has {self.size}")
        content = self._archive.read(member)
        if len(content) != member.file_size:
            raise ValueError(f"its member {name!r} has {len(content)} of {member.file_size} bytes")
        return content


class _Older:
    """Reads a file of before archives: five pickles, of which the fourth is the content, and the storages in the order of the last."""

    order: Order = "<"

    def __init__(self, file: mmap.mmap) -> None:
        self.size = file.size()
        if read_pickle(file).content != _MAGIC:  # another program's pickle; it was read, so that code in it is named
            raise ValueError("its first pickle isn't PyTorch's")
        _, _, (self.content, storages), (keys, _) = (read_pickle(file) for _ in range(4))
        self._file, self._places = file, {}
        at = file.tell()
        for key in keys:
            (length,) = struct.unpack_from("<q", file, at)
            end = at + 8 + length * _dtype(storages[key].kind).itemsize
            if length != storages[key].length or end > self.size:
                raise ValueError(f"its storage {key!r} doesn't fit the file")
            self._places[key], at = (at + 8, end), end

    def read(self, storage: Storage) -> bytes:
        """Returns the bytes of a storage."""
        return self._file[slice(*self._places[storage.key])]


def _convert(opened: _Archive | _Older, choose: Callable[[Any], Mapping[Any, Any]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns float32 arrays by name, and the names of all that is no floating-point tensor."""
    tensors: dict[str, np.ndarray] = {}
    left_out: list[str] = []
    stored: dict[str, Any] = {}
    values = 0
    for name, tensor in choose(opened.content).items():
        if not isinstance(tensor, Tensor) or tensor.kind not in _FLOATS:
            left_out.append(str(name))
            continue
        values += math.prod(tensor.shape)
        if values > _REPEATED * opened.size:  # views that repeat one number: a few bytes could claim all memory
            raise WeightsError(f"{name} claims {math.prod(tensor.shape)} values, more than the file has bytes")
        key = tensor.storage.key
        if key not in stored:
            stored[key] = opened.read(tensor.storage)
        tensors[str(name)] = _array(tensor, stored[key], opened.order)
    return tensors, left_out


def _array(tensor: Tensor, content: Any, order: Order) -> np.ndarray:
    """Returns the values of a tensor; raises ValueError if they don't lie inside its storage."""
    dtype = _dtype(tensor.kind)
    dtype = dtype.newbyteorder(order) if dtype.itemsize > 1 else dtype
    shape, strides, start = tensor.shape, tensor.strides, tensor.offset
    claimed = tensor.storage.length * _dtype(tensor.storage.kind).itemsize
    if len(content) != claimed:
        raise ValueError(f"its storage {tensor.storage.key!r} has {len(content)} bytes instead of {claimed}")
    if not math.prod(shape):
        return np.zeros(shape, np.float32)
    stored = np.frombuffer(content, f"u{dtype.itemsize}")  # as whole numbers: as_strided doesn't know every type of ml_dtypes
    if start + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) >= len(stored):
        raise ValueError(f"a tensor of shape {shape} doesn't fit its storage of {len(stored)} values")
    view = np.lib.stride_tricks.as_strided(stored[start:], shape, [stride * dtype.itemsize for stride in strides], writeable=False)
    with np.errstate(over="ignore"):  # values that float32 can't hold become infinite, which is refused by name
        return np.array(view.view(dtype), np.float32, copy=None, order="C")


def _dtype(kind: str) -> np.dtype:
    """Returns NumPy's type for the name of one of torch's; raises ValueError for one that is unknown."""
    if kind not in _DTYPES:
        raise ValueError(f"{kind} is no type of PyTorch's values")
    return jnp.dtype(_DTYPES[kind])
