"""Writes the file of weights that a model's programs share."""

import hashlib
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

FILE = "weights.bin"
_ALIGNED = 4096  # bytes to which arrays are aligned, so that they can be mapped into memory


class Store:
    """Writes arrays one behind the other, each content once. The file begins with a line that says which contents follow."""

    def __init__(self, path: Path) -> None:
        """Creates the file, which is closed after a with block."""
        self.path, self.digest = path, hashlib.sha256()
        self._file: BinaryIO = path.open("wb")
        self._file.write(bytes(_ALIGNED))
        self._end = _ALIGNED
        self._places: dict[tuple[str, tuple[int, ...], bytes], tuple[str, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, array: np.ndarray) -> tuple[str, int]:
        """Writes an array, unless the same content is there already; returns the name of the content and where it begins."""
        content = np.ascontiguousarray(array)
        own = hashlib.sha256(content.reshape(-1).view(np.uint8).data).digest()
        key = (content.dtype.str, content.shape, own)
        if key not in self._places:
            self._file.write(content.reshape(-1).view(np.uint8).data)
            self.digest.update(own)
            self._places[key] = f"weight_{len(self._places)}", self._end
            self._end += content.nbytes
            filling = -self._end % _ALIGNED
            self._file.write(bytes(filling))
            self._end += filling
        return self._places[key]

    def finish(self) -> str:
        """Writes the first line, which no other contents have, and returns it."""
        line = f"avmae-jax weights {self.digest.hexdigest()}"
        self._file.seek(0)
        self._file.write(f"{line}\n".encode())
        self._file.flush()
        return line
