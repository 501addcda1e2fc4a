"""Reads and writes the weights of models: files of tensors, pretrained folders, models of a hub, and the checkpoints of a run.

    .pth, .safetensors --tensor_files.py--> tensors by official names --named_tensors.py--> Weights --write--> any of these
    pretrained folders, models of a hub ----folder.py--------------------------------------^
    checkpoints of a run ------------------------------------------------------------------^

A file may come from anybody: nothing in it is executed, and its own description of the model is compared with its tensors. A written file
appears under its name only when it is complete, and nothing that exists is overwritten.
"""

import dataclasses
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from avmae_jax.errors import CheckpointError, WeightsError, some
from avmae_jax.files import require_local
from avmae_jax.models.registry import Model, kind_of
from avmae_jax.trees import flatten
from avmae_jax.weights import folder, named_tensors, places
from avmae_jax.weights.build import described, require_fits
from avmae_jax.weights.calibration import read_beside, require_of
from avmae_jax.weights.model_weights import Weights, computing_in, made, with_audio_frames
from avmae_jax.weights.notes import from_meta, model_config, to_meta
from avmae_jax.weights.official import is_unused
from avmae_jax.weights.official_sizes import infer_sizes
from avmae_jax.weights.tensor_files import (
    SAFETENSORS,
    TORCH,
    Tensors,
    is_torch,
    read_file,
    require_known_suffix,
    require_new,
    require_usable,
    save_tensors,
    write_new,
)

__all__ = ["Weights", "computing_in", "load_pretrained", "made", "read", "read_uncalibrated", "save_torch", "with_audio_frames", "write"]

_CLEANUPS = 20  # removals of a folder after a failed save, a tenth of a second apart


def read(path: str | Path, *, heads: int = 0, decoder_heads: int = 0, mel_bins: int = 128, audio_frames: int | None = None) -> Weights:
    """Reads the weights of a file or a run.

    Args:
      path: .pth, .pt, .bin or .safetensors of a CAV-MAE, pretrained or fine-tuned, of an image MAE with its decoder, or of an AST; or a
        run's folder, its checkpoints folder or one step of it; or a folder of save_pretrained, or the id of one on a hub, "owner/name" or
        "owner/name@revision"; or the name of a model in the box.
      heads: of the encoder, for files that don't store it; 0: those of the published model of this width.
      decoder_heads: of the decoder, for files that don't store it; 0: those of the published model of this width.
      mel_bins: M, for files that don't store it.
      audio_frames: T of the model that is returned, to which with_audio_frames interpolates; None: T of the file.

    Raises:
      WeightsError: naming the file and what is wrong: it can't be read, it is another model's, it contradicts the sizes given, its
        calibration can't be used, or the model can't have audio_frames.
    """
    return _read(path, heads, decoder_heads, mel_bins, audio_frames, calibrated=True)


def read_uncalibrated(
    path: str | Path, *, heads: int = 0, decoder_heads: int = 0, mel_bins: int = 128, audio_frames: int | None = None
) -> Weights:
    """Reads weights as `read`, without a classifier's calibration, which may belong to other weights."""
    return _read(path, heads, decoder_heads, mel_bins, audio_frames, calibrated=False)


def _read(path: str | Path, heads: int, decoder_heads: int, mel_bins: int, audio_frames: int | None, *, calibrated: bool) -> Weights:
    require_local(path)
    path = places.located(path)
    if min(heads, decoder_heads) < 0 or mel_bins < 1:
        raise WeightsError(f"heads is {heads}, decoder_heads {decoder_heads} and mel_bins {mel_bins}; give 0 or more, and at least 1")
    if places.is_pretrained(path):
        weights = folder.read(path)
    elif path.is_dir():
        weights = _read_run(path)
    else:
        weights = _read_file(path, heads, decoder_heads, mel_bins)
    stored = {"heads": weights.config.shape.heads, "decoder_heads": weights.config.shape.decoder_heads, "mel_bins": weights.config.mel_bins}
    for name, given, default in (("heads", heads, 0), ("decoder_heads", decoder_heads, 0), ("mel_bins", mel_bins, 128)):
        if given not in (default, stored[name]) and not (name == "decoder_heads" and weights.classes):  # a classifier has no decoder
            raise WeightsError(f"{path}: {name} is {stored[name]} there and {given} was given; give the same or leave it out")
    weights = _calibrated(weights, path) if calibrated else weights._replace(notes=dataclasses.replace(weights.notes, calibration=None))
    if audio_frames is None:
        return weights
    try:
        return with_audio_frames(weights, audio_frames)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def write(weights: Weights, path: str | Path, *, half: bool = False, prefix: str = "") -> None:
    """Writes weights to a new file or folder.

    Args:
      weights: of any kind; a file of PyTorch holds CAV-MAE and its classifier alone, as no tensor shows all settings of the others.
      path: its suffix says which format: .pth, .pt, .bin, .ckpt and .pth.tar hold the official tensors alone, .safetensors the config as
        well. Without a suffix it becomes a folder of checkpoints with one step, 0, which `restore_params` reads.
      half: store float16, half the size, in a .safetensors file.
      prefix: put before every name in a file of PyTorch: "module." as in those that the authors published.

    Raises:
      WeightsError: if the path exists or has another suffix, the model has no official names, or another file shall have a prefix.
      WriteError: if the disk is full or the folder can't be written; nothing is left there then.
    """
    path = Path(path).expanduser()
    require_new(path)
    require_known_suffix(path)
    if half and path.suffix.lower() != SAFETENSORS:
        raise WeightsError(f"{path}: float16 is stored in {SAFETENSORS} files alone; choose such a name or leave float16 out")
    if prefix and not is_torch(path):
        raise WeightsError(f"{path}: only the names in files of PyTorch get a prefix, {prefix!r}; leave it out, or write a .pth")
    meta = to_meta(weights.config, weights.notes)
    if not path.name.lower().endswith((*TORCH, SAFETENSORS)):
        write_new(path, partial(_save_run, weights.params, meta))
        return
    if is_torch(path) and kind_of(weights.config).names != "cavmae":
        raise WeightsError(f"{path}: only CAV-MAE and its classifier are written so; write this model to a {SAFETENSORS} or a folder")
    tensors = named_tensors.to_tensors(weights.config, weights.classes, weights.params)
    save_tensors({f"{prefix}{name}": tensor for name, tensor in tensors.items()}, path, json.dumps(meta), half=half)
    if is_torch(path):
        _log_lost(path, weights, tensors)


def load_pretrained(path: str | Path, audio_frames: int | None = None, **sizes: int) -> Model:
    """Loads the flax.nnx module of a file or a run, which is also the `module` of what `avmae_jax.load` returns.

    Args:
      path: of a file or a run, as for `read`.
      audio_frames: T of the audio that the model shall take, 10 ms each and a multiple of the patch: 96, 400 or 3008 for 1, 4 or 30 s.
        Positions are interpolated along time. None: as in the file.
      **sizes: heads, decoder_heads, mel_bins, for files that don't store them.

    Raises:
      WeightsError: if the file can't be read, or belongs to another model; names the file and what is wrong.
    """
    return made(computing_in("float32", read_uncalibrated(path, audio_frames=audio_frames, **sizes)))


def save_torch(model: Model, path: str | Path) -> None:
    """Writes a model as a state dict of the original: float32, official names, including the norms that the original never uses.

    Args:
      model: a CAV-MAE or its classifier, with all parameters on this host.
      path: a new .pth, .pt or .bin file.

    Raises:
      WeightsError: if the path exists, can't be written or has another suffix, or the original has no such model.
    """
    path = Path(path).expanduser()
    if not is_torch(path):
        raise WeightsError(f"{path}: a state dict of PyTorch ends in {', '.join(TORCH)}")
    params = flatten(nnx.state(model, nnx.Param))
    if "encoder.norm.main.scale" not in params:
        raise WeightsError(f"{path}: only CAV-MAE and its classifier have such a state dict; save this model to a folder")
    save_tensors(named_tensors.to_cavmae(params), path)


def _read_file(path: Path, heads: int, decoder_heads: int, mel_bins: int) -> Weights:
    """Reads a file of tensors, with the config that it stores; if it stores none, sizes are read from the tensors."""
    tensors, note = read_file(path)
    try:
        named = named_tensors.noted(tensors, _parse(note)) if note else named_tensors.unnoted(tensors, heads, decoder_heads, mel_bins)
    except (ValueError, OverflowError) as error:  # the latter of a number in its note that no float can hold
        raise WeightsError(f"{path}: {error}") from error
    _log_unused(path, tensors, ours=bool(note))
    return named


def _read_run(path: Path) -> Weights:
    """Reads the weights of a run's folder, its checkpoints or one step."""
    from avmae_jax.checkpoint.manager import restore_params  # Orbax: files of tensors are read without it

    checkpoints = path / "checkpoints"
    try:
        restored = restore_params(checkpoints if checkpoints.is_dir() else path)
        params = {name: np.asarray(leaf, np.float32) for name, leaf in restored.params.items()}
        classes = next((value.size for name, value in params.items() if name.startswith("head.") and name.endswith(".linear.bias")), 0)
        config = model_config(restored.meta, classifies=classes > 0)
        require_fits(described(config, classes), params)
        require_usable(params, path)
        return Weights(config, classes, params, from_meta(restored.meta, classes), restored.step)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def _calibrated(weights: Weights, path: Path) -> Weights:
    """Adds the calibration beside the weights, or keeps that of their notes; raises WeightsError for one of other weights."""
    found = (read_beside(path, weights.classes) if weights.classes else None) or weights.notes.calibration
    if found:
        require_of(found, weights.params, path)
    return weights._replace(notes=dataclasses.replace(weights.notes, calibration=found))


def _parse(note: str) -> dict[str, Any]:
    """Returns the JSON object in a file's note; an empty one if there is none."""
    try:
        meta = json.loads(note)
    except (ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _log_unused(path: Path, tensors: Tensors, *, ours: bool) -> None:
    """Logs the norms that the original stores and never uses, which Weights leave out, of a file that was not written here."""
    unused = [name for name in tensors if is_unused(name)]
    if unused and not ours:
        logging.info("%s: %d norm tensors that the original never uses are left out: %s", path, len(unused), some(unused))
    if changed := [name for name in unused if (tensors[name] != name.endswith("weight")).any()]:
        said = "%s: %d of them are not as they are initialised, and would be written back as if they were: %s"
        logging.warning(said, path, len(changed), some(changed))


def _log_lost(path: Path, weights: Weights, tensors: Tensors) -> None:
    """Logs which settings a file without config loses: those that can't be read from the tensors."""
    config, shape = weights.config, weights.config.shape
    found = infer_sizes(tensors, heads=shape.heads, decoder_heads=shape.decoder_heads, mel_bins=config.mel_bins)
    in_tensors = {*shape._fields, "size", "mlp_ratio", "compute_dtype"}  # the last is a matter of who applies them
    settings = {name: value for name, value in vars(config).items() if name not in in_tensors and value != getattr(found, name)}
    published = named_tensors.published_notes(config)
    settings |= {name: value for name, value in vars(weights.notes).items() if value != getattr(published, name)}
    lost = [f"{name}={value}" for name, value in settings.items()]
    logging.info(
        "%s: holds no config; read it with heads=%d, decoder_heads=%d, mel_bins=%d", path, shape.heads, shape.decoder_heads, config.mel_bins
    )
    if lost:
        logging.warning("%s: these settings are lost, which a .safetensors or a folder would keep: %s", path, ", ".join(lost))


def _save_run(params: Tensors, meta: dict[str, Any], path: Path) -> None:
    """Writes a folder of checkpoints with one step."""
    from avmae_jax.checkpoint.manager import Checkpoints

    try:
        with Checkpoints(path) as checkpoints:
            arrays = {name: jnp.asarray(tensor) for name, tensor in params.items()}
            checkpoints.save(0, params=arrays, meta=meta)
    except CheckpointError:
        for _ in range(_CLEANUPS):  # Orbax's other writers don't learn of the failure and create the folder again
            shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.1)
        raise
