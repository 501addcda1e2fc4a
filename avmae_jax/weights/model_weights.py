"""Holds a model's weights with all that is needed to build it, builds it, and fits it to audio of another length."""

import dataclasses
from typing import NamedTuple

import jax
from absl import logging

from avmae_jax.config import ModelConfig
from avmae_jax.errors import WeightsError
from avmae_jax.models.patches import grid_of, interpolate_columns
from avmae_jax.models.precision import fast_dtype
from avmae_jax.models.registry import Model, kind_of
from avmae_jax.weights.build import described, fill
from avmae_jax.weights.facts import Facts
from avmae_jax.weights.notes import Notes
from avmae_jax.weights.tensor_files import Tensors

AUDIO_POSITIONS = ("encoder.audio.positions", "decoder.ends.audio.positions", "tower.positions")


class Weights(NamedTuple):
    """Holds a model's parameters and what is needed to build it."""

    config: ModelConfig
    classes: int  # C of a classifier; 0: a pretraining model
    params: Tensors  # dotted path -> float32
    notes: Notes = Notes()
    step: int | None = None  # of the checkpoint that they were read from, if it is one of a run
    noted: bool = True  # whether they were stored with notes; False: the notes are the original's defaults
    facts: Facts | None = None  # what a pretrained folder knows of them; None: they are of none


def made(weights: Weights) -> Model:
    """Builds the model that weights belong to."""
    return fill(described(weights.config, weights.classes), weights.params)


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
    tables = {name: interpolate_columns(weights.params[name], grid, new_grid[1]) for name in AUDIO_POSITIONS if name in weights.params}
    logging.info(
        "audio positions interpolated from %d to %d columns of time (%d to %d frames): %s",
        grid[1], new_grid[1], before.audio_frames, audio_frames, ", ".join(tables),
    )  # fmt: skip
    if weights.notes.calibration:
        logging.warning("the calibration was fitted to audio of %d frames and is left out", before.audio_frames)
    notes, facts = dataclasses.replace(weights.notes, calibration=None), weights.facts
    facts = facts and facts._replace(measured=())
    return weights._replace(config=config, params={**weights.params, **tables}, notes=notes, facts=facts)
