"""Changes training examples at random; each change is an option of AugmentConfig that is off by default.

Spectrograms are masked, and audio and images mixed, on the device, inside the jitted step; targets and sampling weights are made on the
host. All of it follows Gong et al., arXiv 2210.07839, and their code, except for random pieces of images and mirrored ones: they have
neither.

Axis letters: B batch, S samples, T frames, M mel bins, H W image, N clips, C classes.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.data.decode.images import Piece

_SHAPE = math.log(4 / 3)  # of the widest piece of an image


def spec_augment(fbank: jax.Array, keys: jax.Array, freq: int, time: int) -> jax.Array:
    """Sets one band of mel bins and one span of frames of each clip to zero: SpecAugment, Park et al., arXiv 1904.08779.

    Widths and starts have the distribution of torchaudio's masking, which the original uses.

    Args:
      fbank: float32[B, T, M] before normalisation, padded with zeros after a clip's end.
      keys: key[B].
      freq: the band's width is uniform in 0 ... freq - 1; 0 leaves the bins alone.
      time: the span's width is uniform in 0 ... time - 1; 0 leaves the frames alone.

    Raises:
      ValueError: if a band or span could be wider than the spectrogram.
    """
    frames, mel_bins = fbank.shape[1:]
    for name, widest, size in (("freq", freq, mel_bins), ("time", time, frames)):
        if widest > size:
            raise ValueError(f"augment.specaug_{name} is {widest}, but the spectrogram has only {size} there")
    freq_keys, time_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    hidden = _spans(time_keys, frames, time)[:, :, None] | _spans(freq_keys, mel_bins, freq)[:, None, :]
    return jnp.where(hidden, 0.0, fbank)


def _spans(keys: jax.Array, size: int, widest: int) -> jax.Array:
    """Draws one random span of `size` places for each key: bool[B, size]."""

    def span(key: jax.Array) -> jax.Array:
        width, start = jax.random.uniform(key, (2,))
        width *= widest
        start = jnp.floor(start * (size - width))  # before the width is rounded down, as in torchaudio
        places = jnp.arange(size, dtype=jnp.float32)
        return (places >= start) & (places < start + jnp.floor(width))

    return jax.vmap(span)(keys)


def noise_and_roll(fbank: jax.Array, keys: jax.Array) -> jax.Array:
    """Adds noise of a random size and rolls each clip around in time.

    Args:
      fbank: float32[B, T, M], normalised.
      keys: key[B].

    Returns:
      float32[B, T, M]: fbank + U[0, 1) * U[0, 0.1), the second factor one number a clip, rolled by -T ... T - 1 frames.
    """

    def one(clip: jax.Array, key: jax.Array) -> jax.Array:
        noise_key, size_key, roll_key = jax.random.split(key, 3)
        noise = jax.random.uniform(noise_key, clip.shape) * jax.random.uniform(size_key, maxval=0.1)
        return jnp.roll(clip + noise, jax.random.randint(roll_key, (), -len(clip), len(clip)), axis=0)

    return jax.vmap(one)(fbank, keys)


def mix_waveforms(a: jax.Array, b: jax.Array, lam: jax.Array, samples_a: jax.Array, samples_b: jax.Array) -> jax.Array:
    """Computes lam * a + (1 - lam) * b, each without its mean, the mixture without its own.

    Args:
      a: int16[B, S], zeros after each clip's end.
      b: int16[B, S], the partners, cut or padded with zeros to the length of `a`.
      lam: float32[B], the share of `a`.
      samples_a: int32[B], how many of the S belong to `a`.
      samples_b: int32[B], how many of the S belong to `b`.

    Returns:
      float32[B, S] in [-2, 2), samples_a long; zeros after that.
    """
    places = jnp.arange(a.shape[1])[None]
    inside_a, inside_b = places < samples_a[:, None], places < samples_b[:, None]
    share = lam[:, None]
    mixed = share * _centred(a.astype(jnp.float32) / 32_768, inside_a) + (1 - share) * _centred(b.astype(jnp.float32) / 32_768, inside_b)
    return _centred(mixed, inside_a)


def _centred(waveform: jax.Array, inside: jax.Array) -> jax.Array:
    """Subtracts the mean inside and sets the outside to zero: float32[B, S], bool[B, S] -> float32[B, S]."""
    count = jnp.maximum(inside.sum(axis=1, keepdims=True), 1).astype(jnp.float32)
    mean = jnp.where(inside, waveform, 0.0).sum(axis=1, keepdims=True) / count
    return jnp.where(inside, waveform - mean, 0.0)


def mix_images(a: jax.Array, b: jax.Array, lam: jax.Array) -> jax.Array:
    """Computes lam * a + (1 - lam) * b: uint8[B, H, W, 3] twice and float32[B] -> float32[B, H, W, 3] in [0, 255]."""
    share = lam[:, None, None, None]
    return share * a.astype(jnp.float32) + (1 - share) * b.astype(jnp.float32)


def soft_targets(
    labels: Sequence[int], classes: int, smoothing: float = 0.0, mixed: tuple[Sequence[int], float] | None = None
) -> np.ndarray:
    """Computes a classifier's targets for a clip, smoothed as in the original: positives take nothing from each other.

    Args:
      labels: the clip's, in [0, classes).
      classes: C.
      smoothing: eps.
      mixed: the labels of the partner and lam, the clip's own share of the mixture.

    Returns:
      float32[C]: 1 - eps for each of the labels and eps / C elsewhere; of a mixture eps / C everywhere, plus lam * (1 - eps) for the
      clip's labels, plus (1 - lam) * (1 - eps) for the partner's.

    Raises:
      ValueError: if there is no label, or one that is no class.
    """
    targets = np.full(classes, smoothing / classes, np.float32)
    for own in (labels, *(mixed[:1] if mixed else ())):
        if not len(own) or not all(0 <= label < classes for label in own):
            raise ValueError(f"labels are {tuple(own)}; one or more in [0, {classes}) are needed")
    if mixed is None:
        targets[list(labels)] = 1 - smoothing
    else:
        partner, lam = mixed
        targets[list(labels)] += lam * (1 - smoothing)
        targets[list(partner)] += (1 - lam) * (1 - smoothing)
    return targets


def balanced_weights(labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Computes how often each clip is to be drawn so that rare classes are seen more often.

    Args:
      labels: of each clip, none twice.
      classes: C.

    Returns:
      float64[N]: the sum over the clip's labels of 1000 / (number of clips with that label + 0.01).

    Raises:
      ValueError: if a clip has no label, which could never be drawn, or one that is no class.
    """
    lengths = np.fromiter(map(len, labels), np.int64, len(labels))
    if not lengths.all():
        raise ValueError(f"clip number {int(np.argmin(lengths))} has no label; balanced sampling needs one for every clip")
    flat = np.fromiter(itertools.chain.from_iterable(labels), np.int64, int(lengths.sum()))
    if len(flat) and not 0 <= flat.min() <= flat.max() < classes:
        raise ValueError(f"labels lie between {flat.min()} and {flat.max()}; they must lie in [0, {classes})")
    weight = 1000 / (np.bincount(flat, minlength=classes) + 0.01)
    return np.add.reduceat(weight[flat], np.cumsum(lengths) - lengths) if len(flat) else np.zeros(0)


def random_piece(rng: np.random.Generator, smallest: float) -> Piece:
    """Draws a piece of an image for training: its share of the area evenly from [smallest, 1], its shape from 3:4 to 4:3."""
    ratio = float(np.exp(rng.uniform(-_SHAPE, _SHAPE)))
    return Piece(float(rng.uniform(smallest, 1)), ratio, float(rng.random()), float(rng.random()))
