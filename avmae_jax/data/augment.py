"""Changes training examples at random; each change is an option of AugmentConfig that is off by default.

Spectrograms are masked, and audio and images mixed, on the device, inside the jitted step; targets and sampling weights are made on the
host. SpecAugment, noise with a roll, mixtures, targets and weights follow Gong et al., arXiv 2210.07839, and their code; they have none of
the others, which are for small sets: random pieces of images and mirrored ones, other levels and timbres, other colours, hidden rectangles.

Axis letters: B batch, S samples, T frames, M mel bins, H W image, N clips, C classes.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.config import AugmentConfig
from avmae_jax.data.decode.images import Piece

_SHAPE = math.log(4 / 3)  # of the widest piece of an image, or hidden rectangle
_DECIBEL = math.log(10) / 10  # in the natural logarithm of a power
_BANDS = 6  # points of an equaliser's curve
_FLOOR_RANGE = 30.0  # dB between the loudest noise floor and the softest
_GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue
_TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))  # brightness and two axes of colour


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


def alter_audio(fbank: jax.Array, held: jax.Array, keys: jax.Array, options: AugmentConfig) -> jax.Array:
    """Changes pitch, timbre and level of each clip, and adds noise: another recording of the same.

    In this order: the clip is moved along its mel bins (values between two bins are interpolated, the outermost one repeated); a smooth
    random curve over the bins and one random number are added, both even in decibels; and noise of one random power is added, white in the
    spectrogram as in a waveform: each value has an exponential distribution.

    Args:
      fbank: float32[B, T, M] before normalisation.
      held: bool[B, T], the frames that hold audio; the others become 0.
      keys: key[B].
      options: mel_shift, equaliser, gain and noise_floor; 0 leaves each out.
    """
    bins = fbank.shape[2]

    def one(clip: jax.Array, inside: jax.Array, key: jax.Array) -> jax.Array:
        shift_key, curve_key, gain_key, level_key, noise_key = jax.random.split(key, 5)
        if options.mel_shift:
            shift = jax.random.uniform(shift_key, minval=-options.mel_shift, maxval=options.mel_shift)
            places = jnp.clip(jnp.arange(bins, dtype=jnp.float32) - shift, 0.0, bins - 1.0)
            low = jnp.minimum(places.astype(jnp.int32), bins - 2)
            above = (places - low.astype(jnp.float32))[None]
            clip = clip[:, low] * (1 - above) + clip[:, low + 1] * above
        if options.equaliser:
            points = jax.random.uniform(curve_key, (_BANDS,), minval=-options.equaliser, maxval=options.equaliser)
            clip += _DECIBEL * (jnp.asarray(_bumps(bins)) @ points)[None]
        if options.gain:
            clip += _DECIBEL * jax.random.uniform(gain_key, minval=-options.gain, maxval=options.gain)
        if options.noise_floor:
            count = jnp.maximum(inside.sum(), 1).astype(jnp.float32) * bins
            power = jax.nn.logsumexp(jnp.where(inside[:, None], clip, -jnp.inf)) - jnp.log(count)
            below = jax.random.uniform(level_key, minval=options.noise_floor, maxval=options.noise_floor + _FLOOR_RANGE)
            noise = power - _DECIBEL * below + jnp.log(jax.random.exponential(noise_key, clip.shape))
            clip = jnp.logaddexp(clip, noise)
        return jnp.where(inside[:, None], clip, 0.0)

    return jax.vmap(one)(fbank, held, keys)


def _bumps(bins: int) -> np.ndarray:
    """Returns how much each point of an equaliser's curve counts in each mel bin: float32[M, points], cosines that add up to 1."""
    distance = np.abs(np.linspace(0, _BANDS - 1, bins)[:, None] - np.arange(_BANDS))
    return (0.5 + 0.5 * np.cos(np.pi * np.minimum(distance, 1))).astype(np.float32)


def alter_colours(image: jax.Array, keys: jax.Array, options: AugmentConfig) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of each image, in this order, each by a random amount.

    Args:
      image: float32[B, H, W, 3] in [0, 1].
      keys: key[B].
      options: the largest amounts; 0 leaves each out.

    Returns:
      float32[B, H, W, 3] in [0, 1].
    """

    def one(pixels: jax.Array, key: jax.Array) -> jax.Array:
        draws = jax.random.uniform(key, (4,), minval=-1.0)
        if options.brightness:
            pixels = jnp.clip(pixels * (1 + options.brightness * draws[0]), 0.0, 1.0)
        if options.contrast:
            mean = (pixels @ jnp.asarray(_GREY)).mean()
            pixels = jnp.clip(mean + (1 + options.contrast * draws[1]) * (pixels - mean), 0.0, 1.0)
        if options.saturation:
            grey = (pixels @ jnp.asarray(_GREY))[..., None]
            pixels = jnp.clip(grey + (1 + options.saturation * draws[2]) * (pixels - grey), 0.0, 1.0)
        if options.hue:
            angle = 2 * jnp.pi * options.hue * draws[3]
            cos, sin, zero, one = jnp.cos(angle), jnp.sin(angle), jnp.zeros(()), jnp.ones(())
            turn = jnp.stack([jnp.stack([one, zero, zero]), jnp.stack([zero, cos, -sin]), jnp.stack([zero, sin, cos])])
            to_yiq, back = jnp.asarray(_TO_YIQ), jnp.asarray(np.linalg.inv(_TO_YIQ), jnp.float32)
            pixels = jnp.clip(pixels @ (back @ turn @ to_yiq).T, 0.0, 1.0)
        return pixels

    return jax.vmap(one)(image, keys)


def cut_out(image: jax.Array, keys: jax.Array, area: float) -> jax.Array:
    """Sets one random rectangle of each image to 0: DeVries and Taylor, arXiv 1708.04552.

    Args:
      image: float32[B, H, W, 3], normalised, so that 0 is the mean colour.
      keys: key[B].
      area: share of the image that the rectangle covers, in (0, 1); its shape is from 3:4 to 4:3 where it fits.
    """
    height, width = image.shape[1:3]

    def one(pixels: jax.Array, key: jax.Array) -> jax.Array:
        shape, top, left = jax.random.uniform(key, (3,))
        tall = jnp.clip(jnp.sqrt(area * jnp.exp(_SHAPE * (2 * shape - 1))), area, 1.0)
        wide = area / tall
        rows, columns = (jnp.arange(size, dtype=jnp.float32) / size for size in (height, width))
        top, left = top * (1 - tall), left * (1 - wide)
        hidden = ((rows >= top) & (rows < top + tall))[:, None] & ((columns >= left) & (columns < left + wide))[None]
        return jnp.where(hidden[..., None], 0.0, pixels)

    return jax.vmap(one)(image, keys)


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
