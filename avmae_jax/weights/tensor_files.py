"""Reads and writes files of named tensors, .pth and .safetensors.

A file may come from anybody: nothing in it is ever executed, and the sizes that it claims are compared with its own. A written file
appears under its name only when it is complete, and nothing that exists is overwritten.
"""

import importlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save

from avmae_jax.errors import CheckpointError, WeightsError, first_line, some
from avmae_jax.files import replacing

Tensors = dict[str, np.ndarray]

TORCH = (".pth", ".pt", ".bin")
SAFETENSORS = ".safetensors"
_NOTE = "avmae_jax.meta"  # key of our note in the metadata of a safetensors file
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_WRAPPERS = ("model", "state_dict")  # entries that training programs put a state dict under


def read_tensors(path: str | Path) -> Tensors:
    """Reads the floating-point tensors of a .pth, .pt, .bin or .safetensors file: float32 by name.

    A state dict inside "model" or "state_dict" is taken out of it, and "module." before the names is dropped.

    Raises:
      WeightsError: naming the file, if it can't be read, holds anything but data, or holds no such tensors.
    """
    return read_file(Path(path).expanduser())[0]


def read_file(path: Path) -> tuple[Tensors, str]:
    """Reads the tensors of a file, and the note of the config that this project stores in safetensors files; raises as read_tensors."""
    try:
        if path.exists() and not path.is_file():
            raise WeightsError(f"{path}: is not a file; give one, or the folder of a run")
        with path.open("rb") as file:
            if not file.read(1):
                raise WeightsError(f"{path}: is empty (0 bytes)")
    except OSError as error:
        raise WeightsError(f"{path}: can't be read: {error.strerror}") from error
    suffix, note = path.suffix.lower(), ""
    if suffix in TORCH:
        stored, left_out = _load_torch(path)
    elif suffix == SAFETENSORS:
        stored, left_out, note = _load_safetensors(path)
    else:
        raise WeightsError(f"{path}: its suffix doesn't say which format it has; files end in {', '.join((*TORCH, SAFETENSORS))}")
    if left_out:
        logging.info("%s: %d entries that are no floating-point tensors are left out: %s", path, len(left_out), some(left_out))
    if not stored:
        raise WeightsError(f"{path}: holds no floating-point tensors")
    tensors = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
    if len(tensors) < len(stored):
        raise WeightsError(f"{path}: holds some tensors twice, with and without 'module.' before their name")
    return tensors, note


def _load_torch(path: Path) -> tuple[Tensors, list[str]]:
    """Returns tensors by name, and the names of everything else."""
    torch = _torch(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch refuses whatever it warns about
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises anything: KeyError for a text, OSError for a short archive
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            remedy = "where you trust it, save its state dict alone: torch.save(model.state_dict(), FILE)"
            raise WeightsError(f"{path}: holds {code[1]}, which is no tensor but code, and was not run; {remedy}") from error
        raise WeightsError(
            f"{path}: is no PyTorch checkpoint, or a damaged or incomplete one; nothing in it was run. Fetch or save it again"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            logging.info("%s: its entry %r is read; the others are left out: %s", path, wrapper, some(k for k in content if k != wrapper))
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
    tensors, left_out, limit = {}, [], path.stat().st_size
    for name, value in content.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            left_out.append(str(name))
        elif value.numel() > limit:  # a view that repeats one number: a few bytes could claim all memory
            raise WeightsError(f"{path}: {name} claims {value.numel()} values, more than the file has bytes")
        else:
            tensors[str(name)] = value.detach().to(torch.float32).numpy()
    return tensors, left_out


def _load_safetensors(path: Path) -> tuple[Tensors, list[str], str]:
    """Returns tensors by name, the names of everything else, and the note of the config."""
    try:
        with safe_open(path, framework="numpy") as file:
            note = (file.metadata() or {}).get(_NOTE, "")
        # safe_open can't return bfloat16 as NumPy arrays; deserialize returns tensors in random order
        stored = sorted(deserialize(path.read_bytes()), key=lambda item: item[0])
    except SafetensorError as error:
        raise WeightsError(
            f"{path}: is no safetensors file, or a damaged or incomplete one ({first_line(error)}). Fetch or save it again"
        ) from error
    tensors = {
        name: np.frombuffer(entry["data"], jnp.dtype(_FLOATS[entry["dtype"]])).reshape(entry["shape"]).astype(np.float32, copy=False)
        for name, entry in stored
        if entry["dtype"] in _FLOATS
    }
    return tensors, [name for name, _ in stored if name not in tensors], note


def require_new(path: str | Path) -> None:
    """Raises WeightsError unless something can be written to the path without overwriting anything."""
    path = Path(path).expanduser()
    if os.path.lexists(path):
        raise WeightsError(f"{path}: exists already and is not overwritten; choose another name")
    if not path.parent.is_dir():
        raise WeightsError(f"{path}: there is no folder {path.parent}; create it first")


def write_new(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a new file or folder atomically.

    Args:
      path: where nothing is yet.
      write: is called with a temporary path beside it, and writes a file or a folder there.

    Raises:
      WeightsError: if the path exists or can't be written; nothing is left there then.
    """
    require_new(path)
    try:
        with replacing(path) as unfinished:
            try:
                write(unfinished)
                require_new(path)  # somebody else may have written it in the meantime
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)  # a folder; a file is removed by `replacing`
                raise
    except (OSError, RuntimeError, CheckpointError) as error:  # RuntimeError is torch's
        raise WeightsError(f"{path}: can't be written, and nothing was left there: {first_line(error)}") from error


def save_tensors(tensors: Tensors, path: Path, note: str = "") -> None:
    """Writes tensors to a new file.

    Args:
      tensors: name -> array.
      path: .pth, .pt, .bin or .safetensors.
      note: text that is stored in the file's header, which only a .safetensors file has.

    Raises:
      WeightsError: if the path exists or can't be written; nothing is left there then.
    """
    if path.suffix.lower() == SAFETENSORS:
        content = save(tensors, {"format": "pt", _NOTE: note})  # other libraries look for "format"
        write_new(path, lambda unfinished: unfinished.write_bytes(content))
        return
    torch = _torch(path)
    copies = {name: torch.tensor(tensor) for name, tensor in tensors.items()}

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:  # given a path, torch stores its name inside the file
            torch.save(copies, file)

    write_new(path, write)


def _torch(path: Path) -> Any:
    """Imports PyTorch, which only these files need; raises WeightsError that says how to install it."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise WeightsError(f'{path}: PyTorch files need torch, which isn\'t installed: pip install -e ".[parity]"') from error
