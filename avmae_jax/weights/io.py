"""Reads and writes the weights of models: .pth and .safetensors files under their authors' names, and the checkpoints of a run.

    .pth, .safetensors --read_file--> tensors of a CAV-MAE --official.py--> Weights --write--> .pth, .safetensors, checkpoints
                                  or of an MAE or AST ------vit.py--------^
    checkpoints of a run -------------------------------------------------^

A file may come from anybody: nothing in it is executed, and its own description of the model is compared with its tensors. A written file
appears under its name only when it is complete, and nothing that exists is overwritten.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from avmae_jax.checkpoint.manager import Checkpoints, restore_params
from avmae_jax.config import ModelConfig
from avmae_jax.errors import CheckpointError, WeightsError, require_none, some
from avmae_jax.files import require_local
from avmae_jax.models.patches import grid_of, interpolate_columns
from avmae_jax.models.precision import fast_dtype
from avmae_jax.models.registry import Model, kind_of
from avmae_jax.trees import flatten
from avmae_jax.weights import box, vit, vit_config
from avmae_jax.weights.build import described, fill, require_fits
from avmae_jax.weights.calibration import read_beside, require_of
from avmae_jax.weights.notes import Notes, from_meta, model_config, to_meta
from avmae_jax.weights.official import HEADS, count_classes, from_official, infer_sizes, is_official, is_unused, to_official
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

# Numbers of axes of the tensors that give the sizes.
_RANKS = {"patch_embed_v.proj.weight": 4, "blocks_u.0.mlp.fc1.weight": 2, "decoder_embed.weight": 2}
_RANKS |= {"pos_embed_a": 3, "pos_embed_v": 3, **dict.fromkeys(HEADS, 2)}
_AUDIO_POSITIONS = ("encoder.audio.positions", "decoder.ends.audio.positions", "tower.positions")
_CLEANUPS = 20  # removals of a folder after a failed save, a tenth of a second apart
_SIZED = ("kind", "modality", "joint_depth", "audio_frames", "mel_bins", "image_size", "patch", "head_pool")


class Weights(NamedTuple):
    """Holds a model's parameters and what is needed to build it."""

    config: ModelConfig
    classes: int  # C of a classifier; 0: a pretraining model
    params: Tensors  # dotted path -> float32
    notes: Notes = Notes()
    step: int | None = None  # of the checkpoint that they were read from, if it is one of a run
    noted: bool = True  # whether they were stored with notes; False: the notes are the original's defaults


def read(path: str | Path, *, heads: int = 0, decoder_heads: int = 0, mel_bins: int = 128, audio_frames: int | None = None) -> Weights:
    """Reads the weights of a file or a run.

    Args:
      path: .pth, .pt, .bin or .safetensors of a CAV-MAE, pretrained or fine-tuned, of an image MAE with its decoder, or of an AST; or a
        run's folder, its checkpoints folder or one step of it; or the name of a model in the box.
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
    path = box.located(path)
    if min(heads, decoder_heads) < 0 or mel_bins < 1:
        raise WeightsError(f"heads is {heads}, decoder_heads {decoder_heads} and mel_bins {mel_bins}; give 0 or more, and at least 1")
    if path.is_dir():
        weights = _read_run(path)
    else:
        tensors, note = read_file(path)
        try:
            if is_official(tensors):
                weights = _from_tensors(tensors, note, heads, decoder_heads, mel_bins)
            else:
                weights = _from_vit(tensors, heads, decoder_heads, mel_bins)
        except ValueError as error:
            raise WeightsError(f"{path}: {error}") from error
        _log_unused(path, tensors, ours=bool(note))
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


def with_audio_frames(weights: Weights, audio_frames: int) -> Weights:
    """Returns the weights of a model for longer or shorter audio: positions are interpolated along time, all else is the same.

    The positions of the whole audio are stretched or shrunk to the new length (interpolate_columns), so that the model gets no position
    beyond those that it has learned. Fixed sin-cos positions are interpolated as well, whereas a fresh model numbers its columns from 0.

    Args:
      weights: of a model that takes audio; they are not changed.
      audio_frames: T, 10 ms each, a multiple of the patch.

    Raises:
      WeightsError: if the model takes no audio, or the length doesn't fit the patch.
    """
    before = weights.config
    if audio_frames == before.audio_frames:
        return weights
    spec = kind_of(before)
    if "audio" not in spec.inputs(before):
        raise WeightsError(f"holds a model of images alone, which can't have audio_frames {audio_frames}")
    config = dataclasses.replace(before, audio_frames=audio_frames)
    try:
        config.validate()
    except ValueError as error:
        raise WeightsError(str(error)) from error
    grid, new_grid = (grid_of(*sizes.input_shape("audio")[:2], sizes.patch, spec.stride) for sizes in (before, config))
    tables = {name: interpolate_columns(weights.params[name], grid, new_grid[1]) for name in _AUDIO_POSITIONS if name in weights.params}
    logging.info(
        "audio positions interpolated from %d to %d columns of time (%d to %d frames): %s",
        grid[1], new_grid[1], before.audio_frames, audio_frames, ", ".join(tables),
    )  # fmt: skip
    if weights.notes.calibration:
        logging.warning("the calibration was fitted to audio of %d frames and is left out", before.audio_frames)
    notes = dataclasses.replace(weights.notes, calibration=None)
    return weights._replace(config=config, params={**weights.params, **tables}, notes=notes)


def write(weights: Weights, path: str | Path, *, half: bool = False) -> None:
    """Writes weights to a new file or folder.

    Args:
      weights: of a CAV-MAE or its classifier; other kinds have no official names and are written to folders only.
      path: its suffix says which format: .pth, .pt, .bin, .ckpt and .pth.tar hold the official tensors alone, .safetensors the config as
        well. Without a suffix it becomes a folder of checkpoints with one step, 0, which `restore_params` reads.
      half: store float16, half the size, in a .safetensors file.

    Raises:
      WeightsError: if the path exists or has another suffix, or the model has no official names.
      WriteError: if the disk is full or the folder can't be written; nothing is left there then.
    """
    path = Path(path).expanduser()
    require_new(path)
    require_known_suffix(path)
    if half and path.suffix.lower() != SAFETENSORS:
        raise WeightsError(f"{path}: float16 is stored in {SAFETENSORS} files alone; choose such a name or leave float16 out")
    meta = to_meta(weights.config, weights.notes)
    if not path.name.lower().endswith((*TORCH, SAFETENSORS)):
        write_new(path, partial(_save_run, weights.params, meta))
        return
    save_tensors(_official(weights.params), path, json.dumps(meta), half=half)
    if is_torch(path):
        _log_lost(path, weights.config, weights.notes)


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


def computing_in(compute_dtype: str, weights: Weights) -> Weights:
    """Sets the dtype of matrix products of a model that is applied; "auto" is bfloat16 where the devices have it.

    Raises:
      ConfigError: if there is no such dtype.
    """
    config = dataclasses.replace(weights.config, compute_dtype=compute_dtype)
    config.validate()
    if compute_dtype == "auto":
        config.compute_dtype, _ = fast_dtype(jax.devices())
    return weights._replace(config=config)


def made(weights: Weights) -> Model:
    """Builds the model that weights belong to."""
    return fill(described(weights.config, weights.classes), weights.params)


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
    save_tensors(_official(flatten(nnx.state(model, nnx.Param))), path)


def _read_run(path: Path) -> Weights:
    """Reads the weights of a run's folder, its checkpoints or one step."""
    checkpoints = path / "checkpoints"
    try:
        restored = restore_params(checkpoints if checkpoints.is_dir() else path)
        params = {name: np.asarray(leaf, np.float32) for name, leaf in restored.params.items()}
        classes = next((params[name].size for name in ("head.linear.bias", "head.audio.linear.bias") if name in params), 0)
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


def _from_tensors(tensors: Tensors, note: str, heads: int, decoder_heads: int, mel_bins: int) -> Weights:
    """Converts official tensors, with the config that the file stores; if it stores none, sizes are read from the tensors."""
    odd = [name for name, rank in _RANKS.items() if name in tensors and (tensors[name].ndim != rank or not tensors[name].size)]
    if odd:
        raise WeightsError(f"these are no weights of a CAV-MAE: {', '.join(f'{name} {tensors[name].shape}' for name in odd)}")
    classes = count_classes(tensors)
    if note:
        meta = _parse(note)
        config, notes = model_config(meta, classifies=classes > 0), from_meta(meta, classes)
        _require_sizes(config, tensors)
    else:
        config, notes = infer_sizes(tensors, heads=heads, decoder_heads=decoder_heads, mel_bins=mel_bins), Notes()
        config.validate()
    shapes = {path: leaf.shape for path, leaf in flatten(described(config, classes)).items()}
    return Weights(config, classes, from_official(tensors, shapes), notes, noted=bool(note))


def _from_vit(tensors: Tensors, heads: int, decoder_heads: int, mel_bins: int) -> Weights:
    """Converts the weights of an MAE or an AST, by the names of timm, facebookresearch/mae or transformers."""
    found = vit_config.identify(tensors, heads=heads, decoder_heads=decoder_heads, mel_bins=mel_bins)
    pulled = vit.pull(found.config, described(found.config, found.classes), tensors)
    require_none([f"missing: the file has nothing for {path}" for path in pulled.fresh])
    return Weights(found.config, found.classes, pulled.params, found.notes)


def _parse(note: str) -> dict[str, Any]:
    """Returns the JSON object in a file's note; an empty one if there is none."""
    try:
        meta = json.loads(note)
    except (ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _require_sizes(config: ModelConfig, tensors: Tensors) -> None:
    """Raises WeightsError if the stored config has other sizes than the tensors, before a model of its sizes takes any memory."""
    shape = config.shape
    found = infer_sizes(tensors, heads=shape.heads, decoder_heads=shape.decoder_heads, mel_bins=config.mel_bins)
    stored, has = (sizes.shape._asdict() | {name: getattr(sizes, name) for name in _SIZED} for sizes in (config, found))
    different = [name for name in stored if stored[name] != has[name] and ("decoder_embed.weight" in tensors or "decoder_" not in name)]
    lines = [f"model.{name} is {stored[name]}, by its tensors {has[name]}" for name in different]
    if not abs(config.mlp_ratio - found.mlp_ratio) * has["width"] < 1:  # a hidden width is rounded down
        lines.append(f"model.mlp_ratio is {config.mlp_ratio}, by its tensors {found.mlp_ratio}")
    if lines:
        raise WeightsError("the config that it stores is another model's:\n  " + "\n  ".join(lines))


def _log_unused(path: Path, tensors: Tensors, *, ours: bool) -> None:
    """Logs the norms that the original stores and never uses, which Weights leave out, of a file that was not written here."""
    unused = [name for name in tensors if is_unused(name)]
    if unused and not ours:
        logging.info("%s: %d norm tensors that the original never uses are left out: %s", path, len(unused), some(unused))
    if changed := [name for name in unused if (tensors[name] != name.endswith("weight")).any()]:
        said = "%s: %d of them are not as they are initialised, and would be written back as if they were: %s"
        logging.warning(said, path, len(changed), some(changed))


def _log_lost(path: Path, config: ModelConfig, notes: Notes) -> None:
    """Logs which settings a file without config loses: those that can't be read from the tensors."""
    shape, default = config.shape, ModelConfig()
    in_tensors = {*shape._fields, *_SIZED, "size", "mlp_ratio", "compute_dtype"}  # the last is a matter of who applies them
    settings = {name: value for name, value in vars(config).items() if name not in in_tensors and value != getattr(default, name)}
    settings |= {name: value for name, value in vars(notes).items() if value != getattr(Notes, name)}
    lost = [f"{name}={value}" for name, value in settings.items()]
    logging.info(
        "%s: holds no config; read it with heads=%d, decoder_heads=%d, mel_bins=%d", path, shape.heads, shape.decoder_heads, config.mel_bins
    )
    if lost:
        logging.warning("%s: these settings are lost, which a .safetensors or a folder would keep: %s", path, ", ".join(lost))


def _official(params: Mapping[str, Any]) -> Tensors:
    """Converts our parameters to official tensors, and logs the norms that are added, which the original never uses."""
    if "encoder.norm.main.scale" not in params:
        raise WeightsError("only CAV-MAE and its classifier have official names; write this model to a folder, without a suffix")
    tensors = to_official({name: np.asarray(leaf, np.float32) for name, leaf in params.items()})
    if added := [name for name in tensors if is_unused(name)]:
        logging.info(
            "%d norm tensors that the original stores and never uses are added as initialised: %s", len(added), some(sorted(added))
        )
    return tensors


def _save_run(params: Tensors, meta: dict[str, Any], path: Path) -> None:
    """Writes a folder of checkpoints with one step."""
    try:
        with Checkpoints(path) as checkpoints:
            arrays = {name: jnp.asarray(tensor) for name, tensor in params.items()}
            checkpoints.save(0, params=arrays, meta=meta)
    except CheckpointError:
        for _ in range(_CLEANUPS):  # Orbax's other writers don't learn of the failure and create the folder again
            shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.1)
        raise
