"""Sets the weights that a run starts from: those of a CAV-MAE of the same sizes, or of an image MAE by the rule of vit_sources.py.

The length of the audio may differ. A model that is fine-tuned takes the encoder of the pretrained one and leaves its decoder behind; its
head starts fresh.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from flax import nnx

from avmae_jax.config import SIZES, ModelConfig
from avmae_jax.errors import WeightsError, require_none
from avmae_jax.files import require_local
from avmae_jax.models.layers import Position
from avmae_jax.models.registry import KINDS, kind_of
from avmae_jax.trees import flatten
from avmae_jax.weights import folder, io, places
from avmae_jax.weights.build import set_params
from avmae_jax.weights.model_weights import AUDIO_POSITIONS
from avmae_jax.weights.official import is_official
from avmae_jax.weights.tensor_files import is_torch, read_tensors
from avmae_jax.weights.vit import initialise

# Either the model or the file may lack these. The others are what a model of pairs has beside the encoder of a CAV-MAE.
_PARTS = {
    "decoder": "decoder.",
    "head": "head.",
    "class tokens": ("encoder.audio.prefix", "encoder.image.prefix"),
    "registers": ("encoder.audio.registers", "encoder.image.registers"),
    "blocks for the contrast": "encoder.contrast.",
}
_QUERY = {"head.query"}  # what a head has or lacks according to its pooling


def initialise_from(config: ModelConfig, model: nnx.Module, path: str | Path) -> None:
    """Sets a fresh model's parameters in place to those of a file, and logs what was taken from where.

    Args:
      config: of the model.
      model: of any kind, before it is placed on devices.
      path: a run's folder, a pretrained one or the id of one on a hub, a file of the original CAV-MAE, or an image MAE's
        (facebookresearch/mae, timm or transformers); .pth, .pt, .bin or .safetensors.

    Raises:
      WeightsError: naming the path and what is wrong; if tensors don't fit, all of them are listed.
    """
    require_local(path)
    path = places.located(path)
    tensors = folder.vit_tensors_of(path) if places.is_pretrained(path) else {} if path.is_dir() else read_tensors(path)
    try:
        official = is_official(tensors) or (path.is_dir() and not tensors)
        lines = _take_all(config, model, path) if official else initialise(config, model, tensors)
    except WeightsError as error:
        raise WeightsError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    logging.info("weights from %s", path)
    for line in lines:
        logging.info("  %s", line)


def take(model: nnx.Module, params: Mapping[str, Any]) -> list[str]:
    """Sets a model's parameters in place to those of another model; returns lines for the log.

    Either may lack one of _PARTS; a head of other classes or of another form stays fresh. All other parameters must be in both.

    Args:
      model: whose parameters are set.
      params: dotted path -> array.

    Raises:
      WeightsError: listing every missing, unexpected and misshapen parameter.
    """
    wanted = {path: leaf.shape for path, leaf in flatten(nnx.state(model, nnx.Param)).items()}
    given = {path: np.shape(value) for path, value in params.items()}
    lines: list[str] = []
    for part, names in _PARTS.items():
        here, there = ({path: shape for path, shape in shapes.items() if path.startswith(names)} for shapes in (wanted, given))
        other_form = part == "head" and here != there and (here.keys() ^ there.keys() <= _QUERY or not here.keys() & there.keys())
        if here and (not there or other_form):
            lines.append(f"fresh: {part}, {'of other classes or of another form' if there else 'missing'} in the file")
        elif there and not here:
            lines.append(f"left out: {part}, which this model doesn't have")
        else:
            continue
        wanted = {path: shape for path, shape in wanted.items() if path not in here}
        given = {path: shape for path, shape in given.items() if path not in there}
    problems = [f"missing: {path}" for path in wanted if path not in given]
    problems += [f"unexpected: {path}" for path in given if path not in wanted]
    both = [path for path in wanted if path in given]
    require_none(problems + [f"misshapen: {p} is {given[p]}, the model's is {wanted[p]}" for p in both if given[p] != wanted[p]])
    set_params(model, {path: params[path] for path in wanted})
    return [f"all of {', '.join(dict.fromkeys(path.split('.')[0] for path in wanted))}", *lines]


def _take_all(config: ModelConfig, model: nnx.Module, path: Path) -> list[str]:
    """Sets parameters to those of a run or an official file. What no tensor shows, such as the number of heads, must agree."""
    spec, shape = kind_of(config), config.shape
    takes_audio = "audio" in spec.inputs(config)
    unstored = (config.decoder_heads or 0) if is_torch(path) else 0  # a classifier leaves the decoder out, however many heads it has
    sizes = {"heads": shape.heads, "decoder_heads": shape.decoder_heads if spec.task == "pretraining" else unstored}
    sizes["mel_bins"] = config.mel_bins if takes_audio else 128
    found = io.read_uncalibrated(path, **({} if path.is_dir() else sizes))
    _require_sizes(config, found.config)
    lines: list[str] = []
    if takes_audio and spec.pairs and not kind_of(found.config).pairs and found.config.audio_frames != config.audio_frames:
        # a window is a part of such audio, not all of it in fewer columns: its own positions count the same 10 ms
        fresh = flatten(nnx.state(model, Position))
        found = found._replace(params=found.params | {name: fresh[name] for name in AUDIO_POSITIONS if name in fresh})
        lines = [f"fresh: audio positions, those in the file are of {found.config.audio_frames} frames"]
    elif takes_audio:
        found = io.with_audio_frames(found, config.audio_frames)
    return take(model, found.params) + lines


def _require_sizes(config: ModelConfig, there: ModelConfig) -> None:
    """Raises WeightsError, with the options that help, if the encoder of the weights has other sizes than the model's, or more parts."""
    spec, other = kind_of(config), kind_of(there)
    if other.pairs and not spec.pairs:
        right = next(kind for kind, row in KINDS.items() if row.pairs and row.task == spec.task)
        raise WeightsError(
            f"holds a {other.title} with {there.registers} registers a modality and class_token {there.class_token}, and model.kind is "
            f"{config.kind!r}, which has no place for them; give --config.model.kind={right}, or a recipe for it"
        )
    inputs = spec.inputs(config)
    both = ["class_token", "registers"] if other.pairs else []
    names = [*both, "modality", "patch", *(["mel_bins"] if "audio" in inputs else []), *(["image_size"] if "image" in inputs else [])]
    sizes, wanted = (
        {name: getattr(c.shape, name) for name in ("depth", "width", "heads")} | {name: getattr(c, name) for name in names}
        for c in (there, config)
    )
    if not (different := [name for name in sizes if sizes[name] != wanted[name]]):
        return
    given = {name: sizes[name] for name in different}
    if "width" in given and there.shape.width in (published := {size.width: size.heads for size in SIZES.values()}):
        given["heads"] = published[there.shape.width]
    lines = [f"model.{name} is {sizes[name]}, this one's is {wanted[name]}" for name in different]
    options = " ".join(f"--config.model.{name}={value}" for name, value in given.items())
    raise WeightsError(
        f"holds a model whose {'; '.join(lines)}. Give {options}, or take a recipe of its size, for base finetune_pretrained"
    )
