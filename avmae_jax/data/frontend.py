"""The part of data preparation that runs on the device: bytes of a batch to what a model sees."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from avmae_jax.config import Config
from avmae_jax.data import augment
from avmae_jax.data.fbank import padded_fbank

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def model_inputs(batch: Mapping[str, jax.Array], config: Config) -> dict[str, jax.Array]:
    """Computes what a model sees of a batch of data/batches.py.

    Returns:
      "audio" -> normalised log-mel float32[B, T, M] and "image" -> normalised float32[B, H, W, 3], as far as the batch carries them.
      What is drawn at random follows from the clips' own seeds and partners in the batch, no matter into which parts it is cut. Evaluation
      batches carry neither.
    """
    inputs = {"audio": _fbank(batch, config)} if "waveform" in batch else {}
    return inputs | ({"image": _image(batch)} if "image" in batch else {})


def _fbank(batch: Mapping[str, jax.Array], config: Config) -> jax.Array:
    model, data, options = config.model, config.data, config.augment
    waveform, samples = batch["waveform"], batch["samples"]
    if "mix" in batch:
        waveform = augment.mix_waveforms(waveform, batch["waveform_b"], batch["mix"], samples, batch["samples_b"])
    fbank = padded_fbank(waveform, samples, model.audio_frames, model.mel_bins)
    if "augment_seed" not in batch:
        return (fbank - data.audio_mean) / data.audio_std
    span_keys, noise_keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)), out_axes=1)(batch["augment_seed"])
    fbank = (augment.spec_augment(fbank, span_keys, options.specaug_freq, options.specaug_time) - data.audio_mean) / data.audio_std
    return augment.noise_and_roll(fbank, noise_keys) if options.noise else fbank


def _image(batch: Mapping[str, jax.Array]) -> jax.Array:
    mixed = "mix" in batch
    image = augment.mix_images(batch["image"], batch["image_b"], batch["mix"]) if mixed else batch["image"].astype(jnp.float32)
    mean, std = (jnp.array(values)[None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image / 255 - mean) / std
