"""Reads and writes files of named tensors, .pth and .safetensors.

A file may come from anybody: nothing in it is ever executed, and the sizes that it claims are compared with its own. A written file
appears under its name only when it is complete, and nothing that exists is overwritten.
"""

import importlib
import io
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from avmae_jax.errors import CheckpointError, WeightsError, WriteError, first_line, some
from avmae_jax.files import full_disk, replacing, require_local
from avmae_jax.weights import safetensors_files
from avmae_jax.weights.tensor_names import own_names
from avmae_jax.weights.torch_files import load_torch
from avmae_jax.weights.torch_pickle import Tensor

Tensors = dict[str, np.ndarray]

TORCH = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
SAFETENSORS = ".safetensors"
# Activations of these models lie between 1 and 100, and the norms hold them there; weights above this would swamp them. Weights in half
# precision can't exceed 65504. A flipped high bit of the exponent makes .02 to 8e7 or more.
_LARGEST = 1e4
# Entries that training programs put a state dict under; where there are several, the first is read.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "module", "encoder")
_WEB_PAGE = (b"<!doctype html", b"<html")
_NAME = 200  # letters of a tensor's name
_NESTED = 3  # such entries inside each other


def is_torch(path: Path) -> bool:
    """Returns whether a path has a suffix of PyTorch's files."""
    return path.name.lower().endswith(TORCH)


def read_tensors(path: str | Path) -> Tensors:
    """Reads the floating-point tensors of a .pth, .pt, .bin or .safetensors file: float32 by name.

    A state dict inside "model", "state_dict" and the like is taken out of it, and so are prefixes such as "module." off the names.

    Raises:
      WeightsError: naming the file, if it can't be read, holds anything but data, or holds no such tensors.
    """
    require_local(path)
    return read_file(Path(path).expanduser())[0]


def read_file(path: Path) -> tuple[Tensors, str]:
    """Reads the tensors of a file, and the note of the config that this project stores in safetensors files; raises as read_tensors."""
    try:
        if path.exists() and not path.is_file():
            raise WeightsError(f"{path}: is not a file; give one, or the folder of a run")
        with path.open("rb") as file:
            if not (begin := file.read(64)):
                raise WeightsError(f"{path}: is empty (0 bytes)")
    except OSError as error:
        raise WeightsError(f"{path}: can't be read: {error.strerror}") from error
    if begin.lstrip().lower().startswith(_WEB_PAGE):
        raise WeightsError(f"{path}: is a web page, which the server sent in place of the file; download it again in a browser")
    note, verify = "", None
    if is_torch(path):
        stored, left_out = _load_torch(path)
    elif path.suffix.lower() == SAFETENSORS:
        stored, left_out, note, verify = safetensors_files.load(path)
    else:
        formats = ", ".join((*TORCH, SAFETENSORS))
        raise WeightsError(f"{path}: its suffix doesn't say which format it has; files end in {formats}; rename it")
    peaks = _peaks(stored)
    if verify:
        verify()
    if left_out:
        names = some(map(_shown, left_out))
        logging.info("%s: %d entries that are no floating-point tensors are left out: %s", path, len(left_out), names)
    if odd := [name for name in stored if not name.isprintable() or len(name) > _NAME]:
        raise WeightsError(f"{path}: holds a tensor whose name is no name of one: {_shown(odd[0])}")
    if not stored:
        raise WeightsError(f"{path}: holds no floating-point tensors")
    try:
        _require_usual(peaks, path)
        return {new: stored[name] for name, new in own_names(stored).items()}, note
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def require_usable(tensors: Mapping[str, np.ndarray], place: str | Path) -> None:
    """Compares the values of weights with those of trained models.

    Args:
      tensors: float32 by name.
      place: where they come from, for the log; a warning names the tensors with a magnitude above _LARGEST.

    Raises:
      WeightsError: naming the tensors with NaN or infinite values.
    """
    _require_usual(_peaks(tensors), place)


def _peaks(tensors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the largest magnitude in each tensor by name; NaN if one of its values is."""
    return {name: max(abs(float(tensor.max())), abs(float(tensor.min()))) for name, tensor in tensors.items() if tensor.size}


def _require_usual(peaks: Mapping[str, float], place: str | Path) -> None:
    if broken := [name for name, peak in peaks.items() if not math.isfinite(peak)]:
        raise WeightsError(
            f"has values that are NaN or infinite, in {some(broken)}; training diverged or the file is damaged, take another"
        )
    if large := [f"{name} ({peak:.1e})" for name, peak in peaks.items() if peak > _LARGEST]:
        logging.warning("%s: has values larger than those of any trained model, a sign of damage: %s", place, some(large))


def _load_torch(path: Path) -> tuple[Tensors, list[str]]:
    """Returns tensors by name, and the names of everything else."""

    def choose(content: Any) -> Mapping[Any, Any]:
        for _ in range(_NESTED):
            inside = [name for name in _WRAPPERS if isinstance(content, dict) and _holds_tensors(content.get(name))]
            if inside:
                others = some(_shown(name) for name in content if name != inside[0])
                logging.info("%s: its entry %r is read; the others are left out: %s", path, inside[0], others)
                content = content[inside[0]]
        if not isinstance(content, dict):
            raise WeightsError(f"holds a {type(content).__name__}, not a state dict")
        return content

    try:
        return load_torch(path, choose)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _shown(name: Any) -> str:
    """Returns a name that may be anything, as it can be printed."""
    return str(name)[:_NAME].encode("unicode_escape").decode()


def _holds_tensors(content: Any, depth: int = _NESTED) -> bool:
    """Returns whether something is a state dict, or has one in one of the known entries."""
    if not isinstance(content, dict) or not depth:
        return False
    inside = (content.get(name) for name in _WRAPPERS)
    return any(isinstance(value, Tensor) for value in content.values()) or any(_holds_tensors(value, depth - 1) for value in inside)


def require_new(path: str | Path) -> None:
    """Raises WeightsError unless something can be written to the path without overwriting anything."""
    require_local(path)
    path = Path(path).expanduser()
    if os.path.lexists(path):
        raise WeightsError(f"{path}: exists already and is not overwritten; choose another name")
    if not path.parent.is_dir():
        raise WeightsError(f"{path}: there is no folder {path.parent}; create it first")


def require_known_suffix(path: str | Path) -> None:
    """Raises WeightsError for a suffix that is no format of weights; a number after a dot, as in `lr0.001`, is part of a folder's name."""
    path = Path(path)
    if path.suffix and not path.suffix[1:].isdigit() and not path.name.lower().endswith((*TORCH, SAFETENSORS)):
        formats = ", ".join((*TORCH, SAFETENSORS))
        raise WeightsError(f"{path}: {path.suffix} is no format of weights; files end in {formats}, a folder's name has no suffix")


def write_new(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a new file or folder atomically.

    Args:
      path: where nothing is yet.
      write: is called with a temporary path beside it, and writes a file or a folder there.

    Raises:
      WeightsError: if the path exists or can't be written; nothing is left there then.
      WriteError: if the disk is full or the folder can't be written; nothing is left there then.
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
    except WriteError:
        raise
    except (OSError, CheckpointError) as error:
        if reason := full_disk(error):
            raise WriteError(*reason, os.fspath(path)) from error
        raise WeightsError(f"{path}: can't be written, and nothing was left there: {first_line(error)}") from error


def save_tensors(tensors: Tensors, path: Path, note: str = "", *, half: bool = False) -> None:
    """Writes tensors to a new file.

    Args:
      tensors: name -> float32 array.
      path: .pth, .pt, .bin or .safetensors.
      note: text that is stored in the file's header, which only a .safetensors file has.
      half: store them as float16, which only a .safetensors file may.

    Raises:
      WeightsError: if a value doesn't fit float16, or the path exists or can't be written; nothing is left there then.
    """
    if path.suffix.lower() == SAFETENSORS:
        if half:
            if large := [name for name, tensor in tensors.items() if np.abs(tensor).max(initial=0) > np.finfo(np.float16).max]:
                raise WeightsError(f"{path}: float16 can't hold the values of {some(large)}; write float32")
            tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
        content = safetensors_files.content_of(tensors, note)
        write_new(path, lambda unfinished: unfinished.write_bytes(content))
        return
    torch = _torch(path)
    copies = {name: torch.tensor(tensor) for name, tensor in tensors.items()}

    content = io.BytesIO()  # torch would hide the system's error behind one of its own, and stores the name of a file inside it
    torch.save(copies, content)
    write_new(path, lambda unfinished: unfinished.write_bytes(content.getbuffer()))


def _torch(path: Path) -> Any:
    """Imports PyTorch, which only writing its files needs; raises WeightsError that says how to install it."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise WeightsError(f'{path}: PyTorch files need torch to be written, which isn\'t installed: pip install -e ".[torch]"') from error
