"""Offers what tests of predictions share: a tiny model and its random weights."""

import dataclasses
from typing import Any

import numpy as np

from avmae_jax.config import ModelConfig
from avmae_jax.weights.io import Weights
from avmae_jax.weights.notes import Notes
from tests.support import made

SMALL = ModelConfig(
    width=16, heads=2, depth=2, decoder_width=8, decoder_heads=2, decoder_depth=1, audio_frames=160, mel_bins=32, image_size=32
)
# Windows of .64 s in clips of 1.6 s, as long as SMALL's audio; with the class token of either modality.
SYNC = dataclasses.replace(SMALL, kind="sync", audio_frames=64, clip_frames=160, class_token=True, registers=2)
TUNED_SYNC = dataclasses.replace(SYNC, kind="sync_classifier")

NAMES = ("harp", "oboe [x]", "lute", "horn")


def weights(classes: int, seed: int = 0, config: ModelConfig = SMALL, **notes: Any) -> Weights:
    random = made(config, classes, seed)
    params = {name: value * np.float32(0.3) for name, value in random.params.items()}
    return random._replace(params=params, notes=Notes(**notes))
