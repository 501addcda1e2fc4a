"""Writes PyTorch files by hand, so that tests need no PyTorch, and so that a file can claim what PyTorch never writes."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

STORAGES = {"<f4": "FloatStorage", "<f2": "HalfStorage", "<f8": "DoubleStorage", "<i8": "LongStorage"}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    content = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def named(name: str) -> bytes:
    module, _, own = name.rpartition(".")
    return f"c{module}\n{own}\n".encode()


def tensor(key: str, length: int, shape: Sequence[int], strides: Sequence[int], offset: int = 0, kind: str = "FloatStorage") -> bytes:
    """Returns the part of a pickle that describes a tensor."""
    storage = b"(" + text("storage") + named(f"torch.{kind}") + text(key) + text("cpu") + number(length) + b"tQ"
    more = b"\x89" + named("collections.OrderedDict") + b")R"  # requires no gradient, has no hooks
    return named("torch._utils._rebuild_tensor_v2") + b"(" + storage + number(offset) + numbers(shape) + numbers(strides) + more + b"tR"


def mapping(entries: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(name) + entry for name, entry in entries.items()) + b"u"


def archive(content: bytes, storages: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED, root: str = "w") -> bytes:
    """Makes a file of a pickle's content and of storages by key."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as members:
        members.writestr(f"{root}/data.pkl", b"\x80\x02" + content + b".")
        members.writestr(f"{root}/byteorder", "little")
        for key, values in storages.items():
            members.writestr(f"{root}/data/{key}", values)
        members.writestr(f"{root}/version", "3\n")
    return file.getvalue()


def described(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Returns the part of a pickle that describes a state dict, with the storages 0, 1, ..."""
    entries = {}
    for key, (name, x) in enumerate(tensors.items()):
        strides = [stride // x.itemsize for stride in np.ascontiguousarray(x).strides]
        entries[name] = tensor(str(key), x.size, x.shape, strides, kind=STORAGES[x.dtype.str])
    return mapping(entries)


def stored(tensors: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {str(key): x.tobytes() for key, x in enumerate(tensors.values())}


def torch_file(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Makes the file that torch.save writes of a state dict."""
    return archive(described(tensors), stored(tensors))
