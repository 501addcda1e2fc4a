"""Turns the bytes of a batch into the inputs of a model: the part of data preparation that runs on the device."""

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
      Batches of several frames a clip give [B, F, H, W, 3], and with audio="per_frame" [B, F, T, M].
      What is drawn at random follows from the clips' own seeds and partners in the batch, no matter into which parts it is cut. Evaluation
      batches carry neither.
    """
    inputs = {"audio": _fbank(batch, config)} if "waveform" in batch else {}
    return inputs | ({"image": _image(batch)} if "image" in batch else {})


def _rows(value: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """Flattens the axes `lead`; a value that only has the first of them, one number a clip, is repeated for the others."""
    value = value if value.ndim >= len(lead) else jnp.broadcast_to(value.reshape(value.shape + (1,) * (len(lead) - value.ndim)), lead)
    return value.reshape(-1, *value.shape[len(lead) :])


def _fbank(batch: Mapping[str, jax.Array], config: Config) -> jax.Array:
    model, data, options = config.model, config.data, config.augment
    mean, std = data.normalisation
    lead = batch["samples"].shape  # (B,) or (B, F)
    waveform, samples = _rows(batch["waveform"], lead), _rows(batch["samples"], lead)
    if "mix" in batch:
        partner, partner_samples, share = (_rows(batch[name], lead) for name in ("waveform_b", "samples_b", "mix"))
        waveform = augment.mix_waveforms(waveform, partner, share, samples, partner_samples)
    fbank = padded_fbank(waveform, samples, model.audio_frames, model.mel_bins)
    if "augment_seed" in batch:
        span_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(_keys(batch["augment_seed"], lead))
        fbank = augment.spec_augment(fbank, span_keys, options.specaug_freq, options.specaug_time)
        fbank = (fbank - mean) / std
        fbank = augment.noise_and_roll(fbank, noise_keys) if options.noise else fbank
    else:
        fbank = (fbank - mean) / std
    return fbank.reshape(*lead, *fbank.shape[1:])


def _keys(seeds: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """Makes a random key for each row of the axes `lead` from each clip's seed; the windows of one clip are changed independently."""
    keys = jax.vmap(jax.random.key)(seeds)
    if len(lead) == 1:
        return keys
    return jax.vmap(lambda key: jax.vmap(lambda window: jax.random.fold_in(key, window))(jnp.arange(lead[1])))(keys).reshape(-1)


def _image(batch: Mapping[str, jax.Array]) -> jax.Array:
    lead = batch["image"].shape[:-3]
    image = _rows(batch["image"], lead)
    if "mix" in batch:
        image = augment.mix_images(image, _rows(batch["image_b"], lead), _rows(batch["mix"], lead))
    mean, std = (jnp.array(values)[None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    image = (image.astype(jnp.float32) / 255 - mean) / std
    return image.reshape(*lead, *image.shape[1:])
