"""The part of data preparation that runs on the device: bytes of a batch to what a model sees."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from avmae_jax.config import Config
from avmae_jax.data.fbank import normalised_fbank

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def model_inputs(batch: Mapping[str, jax.Array], config: Config) -> tuple[jax.Array, jax.Array]:
    """What the model sees of a batch of data/pipeline.py: float32[B, T, M] and float32[B, H, W, 3], both normalised."""
    model, data = config.model, config.data
    fbank = normalised_fbank(
        batch["waveform"], batch["samples"], model.audio_frames, mel_bins=model.mel_bins, mean=data.audio_mean, std=data.audio_std
    )
    image = batch["image"].astype(jnp.float32) / 255
    return fbank, (image - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)
