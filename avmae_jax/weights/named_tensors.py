"""Converts the tensors of a file, under their authors' names, to a model's weights and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from avmae_jax.config import ModelConfig
from avmae_jax.errors import require_none, some
from avmae_jax.models.registry import kind_of
from avmae_jax.trees import flatten
from avmae_jax.weights import sizes, vit, vit_config
from avmae_jax.weights.build import described
from avmae_jax.weights.model_weights import Weights
from avmae_jax.weights.notes import Notes, from_meta, model_config
from avmae_jax.weights.official import from_official, is_official, is_unused, to_official
from avmae_jax.weights.official_sizes import PUBLISHED_FRAMES, count_classes, infer_sizes
from avmae_jax.weights.tensor_files import Tensors
from avmae_jax.weights.vit_official import to_vit


def noted(tensors: Tensors, meta: Mapping[str, Any]) -> Weights:
    """Converts tensors beside which this project has stored what it must know, as notes.to_meta returns it.

    Raises:
      ValueError: naming the field, if the config has an unknown field or an impossible value, or isn't that of the tensors.
      WeightsError: listing every missing, unexpected and misshapen tensor.
    """
    classes = sizes.classes_of(tensors)
    config, notes = model_config(meta, classifies=classes > 0), from_meta(meta, classes)
    sizes.require_sizes(config, tensors)
    return Weights(config, classes, _params(config, classes, tensors), notes)


def unnoted(tensors: Tensors, heads: int, decoder_heads: int, mel_bins: int) -> Weights:
    """Converts the tensors of a CAV-MAE, an MAE or an AST that others have stored; the sizes are read from them.

    Raises:
      ValueError: as noted.
      WeightsError: as noted, or if the tensors belong to none of these models.
    """
    if not is_official(tensors):
        found = vit_config.identify(tensors, heads=heads, decoder_heads=decoder_heads, mel_bins=mel_bins)
        return Weights(found.config, found.classes, _params(found.config, found.classes, tensors), found.notes)
    sizes.require_ranks(tensors)
    config = infer_sizes(tensors, heads=heads, decoder_heads=decoder_heads, mel_bins=mel_bins)
    config.validate()
    classes = count_classes(tensors)
    return Weights(config, classes, _params(config, classes, tensors), published_notes(config), noted=False)


def published_notes(config: ModelConfig) -> Notes:
    """Returns the notes of the original's weights, which no tensor shows."""
    return Notes(frames=PUBLISHED_FRAMES if kind_of(config).pairs else 0)


def to_tensors(config: ModelConfig, classes: int, params: Mapping[str, Any]) -> Tensors:
    """Converts our parameters to official tensors by name."""
    if kind_of(config).names == "cavmae":
        return to_cavmae(params)
    return to_vit(config, described(config, classes), {name: np.asarray(leaf, np.float32) for name, leaf in params.items()})


def to_cavmae(params: Mapping[str, Any]) -> Tensors:
    """Converts the parameters of a CAV-MAE to official tensors, and logs the norms that are added, which the original never uses."""
    tensors = to_official({name: np.asarray(leaf, np.float32) for name, leaf in params.items()})
    if added := [name for name in tensors if is_unused(name)]:
        logging.info(
            "%d norm tensors that the original stores and never uses are added as initialised: %s", len(added), some(sorted(added))
        )
    return tensors


def _params(config: ModelConfig, classes: int, tensors: Tensors) -> Tensors:
    model = described(dataclasses.replace(config, compute_dtype="float32"), classes)  # shapes are the same; most models are applied in it
    if is_official(tensors):
        return from_official(tensors, {path: leaf.shape for path, leaf in flatten(model).items()})
    pulled = vit.pull(config, model, tensors)
    if pulled.fresh:
        require_none([f"missing: the file has nothing for {path}" for path in pulled.fresh])
    return pulled.params
