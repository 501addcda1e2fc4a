"""Turns the bytes of a batch into the inputs of a model: the part of data preparation that runs on the device."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from avmae_jax.config import Applied
from avmae_jax.data import augment
from avmae_jax.data.fbank import RowByRow, num_frames, padded_fbank, together

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
_LEAST = 1e-3  # deviation of a clip's log-mel, at least: that of digital silence is 0
_AUDIO, _COLOURS, _CUTOUT = 0x61756469, 0x636F6C6F, 0x63757420  # far from the small numbers by which a clip's key is split for the others


def model_inputs(
    batch: Mapping[str, jax.Array], config: Applied, own_rows: Callable[[RowByRow], RowByRow] = together
) -> dict[str, jax.Array]:
    """Computes what a model sees of a batch of data/batches.py.

    The log-mel is normalised by the numbers of the data set or, with data.normalise "clip", by each clip's own (normalisation); what holds
    no audio, and what SpecAugment hides, is 0 before the former and after the latter. Matrix products are those of float32 on every device.

    Args:
      batch: on the device.
      config: of model, data and augmentation.
      own_rows: lets each device compute a function of rows on those that it holds; see padded_fbank.

    Returns:
      "audio" -> normalised log-mel float32[B, T, M] and "image" -> normalised float32[B, H, W, 3], as far as the batch carries them.
      Batches of several images a clip give [B, F, H, W, 3], and those that carry "window" give [B, F, T, M]: pieces of the spectrogram of
      the whole clip, which is filled up, normalised and changed at random before it is cut. Only the noise comes after that, since the
      roll that belongs to it would part audio and image.
      What is drawn at random follows from the clips' own seeds and partners in the batch, no matter into which parts it is cut. Evaluation
      batches carry neither.
    """
    with jax.default_matmul_precision("highest"):
        inputs = {"audio": _fbank(batch, config, own_rows)} if "waveform" in batch else {}
        return inputs | ({"image": _image(batch, config)} if "image" in batch else {})


def normalisation(batch: Mapping[str, jax.Array], config: Applied) -> tuple[jax.Array, jax.Array]:
    """Returns mean and deviation by which the log-mel of each clip of an evaluation batch is normalised: float32[B, 1, 1] each.

    With data.normalise "clip" they are those of all its values in frames that hold audio.
    """
    fbank, held = _log_mel(batch, config)
    if config.data.normalise == "clip":
        return _own_statistics(fbank, held)
    mean, std = (jnp.full((len(fbank), 1, 1), value, jnp.float32) for value in config.data.normalisation)
    return mean, std


def _own_statistics(fbank: jax.Array, held: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes mean and deviation of each row's values in the frames `held`: float32[B, 1, 1] each."""
    inside = held[..., None]
    count = jnp.maximum(held.sum(axis=1), 1).astype(jnp.float32)[:, None, None] * fbank.shape[2]
    mean = jnp.where(inside, fbank, 0.0).sum(axis=(1, 2), keepdims=True) / count
    variance = jnp.where(inside, jnp.square(fbank - mean), 0.0).sum(axis=(1, 2), keepdims=True) / count
    return mean, jnp.maximum(jnp.sqrt(variance), _LEAST)


def _rows(value: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """Flattens the axes `lead`; a value that only has the first of them, one number a clip, is repeated for the others."""
    value = value if value.ndim >= len(lead) else jnp.broadcast_to(value.reshape(value.shape + (1,) * (len(lead) - value.ndim)), lead)
    return value.reshape(-1, *value.shape[len(lead) :])


def _log_mel(
    batch: Mapping[str, jax.Array], config: Applied, own_rows: Callable[[RowByRow], RowByRow] = together
) -> tuple[jax.Array, jax.Array]:
    """Computes the log-mel of whole clips before normalisation, float32[B, L, M], and which frames hold audio, bool[B, L]."""
    frames, waveform, samples = config.model.spectrogram_frames, batch["waveform"], batch["samples"]
    if "mix" in batch:
        waveform = augment.mix_waveforms(waveform, batch["waveform_b"], batch["mix"], samples, batch["samples_b"])
    held = jnp.arange(frames)[None] < num_frames(samples)[:, None]
    return padded_fbank(waveform, samples, frames, config.model.mel_bins, own_rows), held


def _fbank(batch: Mapping[str, jax.Array], config: Applied, own_rows: Callable[[RowByRow], RowByRow]) -> jax.Array:
    options = config.augment
    fbank, held = _log_mel(batch, config, own_rows)
    if "augment_seed" not in batch:
        return _cut(_normalise(fbank, held, config), batch, config)
    keys = jax.vmap(jax.random.key)(batch["augment_seed"])
    span_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    if any((options.mel_shift, options.equaliser, options.gain, options.noise_floor)):
        fbank = augment.alter_audio(fbank, held, _part(keys, _AUDIO), options)
    spans = options.specaug_freq, options.specaug_time
    if config.data.normalise == "clip":
        fbank = augment.spec_augment(_normalise(fbank, held, config), span_keys, *spans)
    else:
        fbank = _normalise(augment.spec_augment(fbank, span_keys, *spans), held, config)
    cut = _cut(fbank, batch, config)
    if not options.noise:
        return cut
    if "window" not in batch:
        return augment.noise_and_roll(cut, noise_keys)
    lead = batch["window"].shape
    return augment.noise_and_roll(_rows(cut, lead), _each(noise_keys, lead)).reshape(cut.shape)


def _cut(fbank: jax.Array, batch: Mapping[str, jax.Array], config: Applied) -> jax.Array:
    """Cuts the window of each image out of the spectrogram of its clip: float32[B, L, M] -> [B, F, T, M]; without windows all is kept."""
    if "window" not in batch:
        return fbank

    def window(clip: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(clip, start, config.model.audio_frames)

    return jax.vmap(jax.vmap(window, in_axes=(None, 0)))(fbank, batch["window"])


def _normalise(fbank: jax.Array, held: jax.Array, config: Applied) -> jax.Array:
    if config.data.normalise == "clip":
        mean, std = _own_statistics(fbank, held)
        return jnp.where(held[..., None], (fbank - mean) / std, 0.0)
    mean, std = config.data.normalisation
    return (fbank - mean) / std


def _part(keys: jax.Array, number: int) -> jax.Array:
    """Derives from each clip's key the one of a further random change."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _each(keys: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """Makes a random key for each row of the axes `lead` from each clip's: the images of one clip are changed independently."""
    if len(lead) == 1:
        return keys
    return jax.vmap(lambda key: jax.vmap(lambda image: jax.random.fold_in(key, image))(jnp.arange(lead[1])))(keys).reshape(-1)


def _image(batch: Mapping[str, jax.Array], config: Applied) -> jax.Array:
    options = config.augment
    lead = batch["image"].shape[:-3]
    image = _rows(batch["image"], lead)
    if "mix" in batch:
        image = augment.mix_images(image, _rows(batch["image_b"], lead), _rows(batch["mix"], lead))
    mean, std = (jnp.array(values)[None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    image = image.astype(jnp.float32) / 255
    random = "augment_seed" in batch and options.changes_images
    keys = _each(jax.vmap(jax.random.key)(batch["augment_seed"]), lead) if random else None
    if keys is not None:
        image = augment.alter_colours(image, _part(keys, _COLOURS), options)
    image = (image - mean) / std
    if keys is not None and options.cutout:
        image = augment.cut_out(image, _part(keys, _CUTOUT), options.cutout)
    return image.reshape(*lead, *image.shape[1:])
