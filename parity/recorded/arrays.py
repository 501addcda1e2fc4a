"""Reads files of recorded values and selects parts of them."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.errors import some

Arrays = Mapping[str, np.ndarray]


class GoldenError(ValueError):
    """Says that a file can't be compared, and why."""


class Recording(dict[str, np.ndarray]):
    """Holds the arrays of a file by name; one that is missing is named by a GoldenError."""

    def __missing__(self, name: str) -> np.ndarray:
        raise GoldenError(f"{name} is missing; record it too")


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a file; nothing in it is executed. Raises GoldenError."""
    if not path.is_file():
        raise GoldenError("there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise GoldenError("not an .npz file of plain arrays") from error


def part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """Selects the arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def has(arrays: Arrays, *prefixes: str) -> bool:
    """Returns True if the name of an array begins with one of the prefixes."""
    return any(name.startswith(prefixes) for name in arrays)


def require(arrays: Arrays, title: str, names: Iterable[str]) -> None:
    """Raises GoldenError that lists what a file lacks; `title` says what the file is of. A name that ends in * is a prefix."""
    missing = [name for name in names if not (has(arrays, name[:-1]) if name.endswith("*") else name in arrays)]
    if missing:
        raise GoldenError(
            f"it has values of a {title}, but {some(missing)} {'is' if len(missing) == 1 else 'are'} missing; record them too"
        )


def inputs_of(audio: np.ndarray, image: np.ndarray) -> dict[str, jax.Array]:
    """Converts inputs, of which images are recorded as [..., 3, H, W] and some files have float16, to those of a model."""
    return {"audio": jnp.asarray(audio, jnp.float32), "image": jnp.asarray(np.moveaxis(image, -3, -1), jnp.float32)}
