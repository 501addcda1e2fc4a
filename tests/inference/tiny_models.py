"""Offers what tests of predictions share: a tiny model and its random weights."""

from typing import Any

import numpy as np

from avmae_jax.config import ModelConfig
from avmae_jax.weights.io import Weights
from avmae_jax.weights.notes import Notes
from tests.support import made

SMALL = ModelConfig(
    width=16, heads=2, depth=2, decoder_width=8, decoder_heads=2, decoder_depth=1, audio_frames=160, mel_bins=32, image_size=32
)


NAMES = ("harp", "oboe [x]", "lute", "horn")


def weights(classes: int, seed: int = 0, **notes: Any) -> Weights:
    random = made(SMALL, classes, seed)
    params = {name: value * np.float32(0.3) for name, value in random.params.items()}
    return random._replace(params=params, notes=Notes(**notes))
