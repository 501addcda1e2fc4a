"""Computes log-mel spectrograms with the numbers of Kaldi's `compute-fbank-feats` (htk_compat, Hanning window, no dither, no energy).

One implementation serves NumPy and JAX: it takes either kind of array. In training it runs on the device inside the jitted step, so that
the host only has to decode.

Axis letters: B batch, S samples, T frames, M mel bins.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.data.clip import SAMPLE_RATE

SHIFT = 160  # samples between frames, 10 ms
WINDOW = 400  # samples of a frame, 25 ms
FFT = 512
PREEMPHASIS = 0.97
LOW_HZ = 20.0
RowByRow = Callable[[jax.Array], jax.Array]  # a function that computes each row of its result from the same row of its argument
_FLOOR = float(np.finfo(np.float32).eps)  # the smallest mel energy, as in Kaldi
SILENCE = math.log(_FLOOR)  # log-mel of an empty frame


def num_frames(samples: Any) -> Any:
    """Returns the frames that lie wholly inside a number of samples ("snip edges"); works on ints and on arrays."""
    return (samples - WINDOW) // SHIFT + 1


def num_samples(frames: int) -> int:
    """Returns the samples that fill exactly this many frames."""
    return (frames - 1) * SHIFT + WINDOW


@functools.cache
def mel_filters(mel_bins: int) -> np.ndarray:
    """Returns triangular filters, equally spaced on Kaldi's mel scale from 20 Hz to 8 kHz: float32[257, M]."""
    edges = np.linspace(_LOWEST, _HIGHEST, mel_bins + 2)
    mel = _mel(np.arange(FFT // 2) * SAMPLE_RATE / FFT)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0, np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)))
    return np.pad(triangles, ((0, 1), (0, 0))).astype(np.float32)  # the Nyquist bin counts for nothing


def log_mel(waveform: Any, mel_bins: int = 128) -> Any:
    """Computes the spectrogram before normalisation.

    Args:
      waveform: float32[..., S] in [-1, 1) at 16 kHz, of NumPy or JAX; S >= 400.
      mel_bins: M.

    Returns:
      float32[..., T, M] of the same kind with T = num_frames(S), natural logarithm of the mel energies.

    Raises:
      ValueError: if not even one frame fits.
    """
    xp: Any = np if isinstance(waveform, np.ndarray) else jnp
    frames = num_frames(waveform.shape[-1])
    if frames < 1:
        raise ValueError(f"{waveform.shape[-1]} samples are too few: one frame takes {WINDOW} at {SAMPLE_RATE} Hz")
    # A frame is two and a half shifts long: three shifted copies side by side hold it, without a gather.
    padding = [(0, 0)] * (waveform.ndim - 1) + [(0, max(0, (frames + 2) * SHIFT - waveform.shape[-1]))]
    hops = xp.pad(waveform, padding)[..., : (frames + 2) * SHIFT].reshape(*waveform.shape[:-1], frames + 2, SHIFT)
    windows = xp.concatenate([hops[..., :-2, :], hops[..., 1:-1, :], hops[..., 2:, :]], axis=-1)[..., :WINDOW]
    hanning = np.hanning(WINDOW).astype(np.float32)
    windows = windows - windows.mean(axis=-1, keepdims=True)
    previous = xp.concatenate([windows[..., :1], windows[..., :-1]], axis=-1)
    windows = (windows - PREEMPHASIS * previous) * xp.asarray(hanning).reshape((1,) * (windows.ndim - 1) + (WINDOW,))
    spectrum = xp.fft.rfft(windows, n=FFT, axis=-1)
    power, filters = xp.square(spectrum.real) + xp.square(spectrum.imag), mel_filters(mel_bins)
    # A GPU would multiply in TF32, whose error of 9e-4 is as large as all that distinguishes this from Kaldi's.
    energies = power @ filters if xp is np else jnp.matmul(power, filters, precision="highest")
    return xp.log(xp.maximum(energies, _FLOOR))


def together(function: RowByRow) -> RowByRow:
    """Returns a function of rows as it is: XLA decides which device computes which rows."""
    return function


def padded_fbank(
    waveform: jax.Array, samples: jax.Array, frames: int, mel_bins: int = 128, own_rows: Callable[[RowByRow], RowByRow] = together
) -> jax.Array:
    """Computes the spectrograms of a batch of waveforms before normalisation; part of the jitted step.

    Args:
      waveform: int16[B, S], or float32[B, S] in [-1, 1), with S = num_samples(frames), zeros after each clip's end.
      samples: int32[B], how many of the S belong to the clip.
      frames: T of the result.
      mel_bins: M.
      own_rows: lets each device compute a function of rows on those that it holds. XLA by itself gathers all waveforms on every device,
        since it doesn't cut a Fourier transform along the batch.

    Returns:
      float32[B, T, M], the log-mel; zero in frames after the clip's end.
    """
    if jnp.issubdtype(waveform.dtype, jnp.integer):
        waveform = waveform.astype(jnp.float32) / 32_768
    # The original first subtracts the clip's mean; log_mel subtracts each frame's own, so that the difference is one of rounding.
    fbank = own_rows(functools.partial(log_mel, mel_bins=mel_bins))(waveform)[:, :frames]
    sounding = jnp.arange(frames)[None] < num_frames(samples)[:, None]
    return jnp.where(sounding[..., None], fbank, 0.0)


def mel_height(hertz: Any, mel_bins: int) -> Any:
    """Returns how high a frequency lies in a spectrogram, in mel bins above its lower edge; bin m reaches from m to m + 1."""
    return (_mel(hertz) - _LOWEST) / (_HIGHEST - _LOWEST) * (mel_bins + 1) - 0.5  # the first filter's centre is one step above its edge


def hertz_at(height: Any, mel_bins: int) -> Any:
    """Returns the frequency at a height of a spectrogram, see mel_height."""
    return 700 * np.expm1((_LOWEST + (height + 0.5) / (mel_bins + 1) * (_HIGHEST - _LOWEST)) / _MEL)


def decibels(log_mel: Any) -> Any:
    """Converts a log-mel, the natural logarithm of an energy, to dB: 0 dB is an energy of 1."""
    return 10 / math.log(10) * log_mel


def _mel(hertz: Any) -> Any:
    return _MEL * np.log(1 + hertz / 700)


_MEL = 1127  # Kaldi's mel scale
_LOWEST, _HIGHEST = _mel(LOW_HZ), _mel(SAMPLE_RATE / 2)  # the ends of the filters
