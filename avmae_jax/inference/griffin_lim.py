"""Converts a log-mel spectrogram back to audio, approximately, so that a person can listen to what a model fills in.

A log-mel has neither phases nor the fine structure between its filters. The structure is estimated as the non-negative spectrum for which
the filters would have given these energies (Richardson-Lucy updates), the phases by fast Griffin-Lim (Perraudin et al., 2013):
convert back and forth between spectrum and waveform until overlapping frames agree. Frames, window and pre-emphasis are those of
data/fbank.py.

Axis letters: S samples, T frames, M mel bins, F = 257 frequencies.
"""

import wave
from pathlib import Path

import numpy as np
from scipy import signal

from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.fbank import FFT, LOW_HZ, PREEMPHASIS, SHIFT, WINDOW, mel_filters, num_samples
from avmae_jax.files import replacing

_WINDOW = np.hanning(WINDOW)
_MOMENTUM = 0.99  # of the fast variant, as its authors recommend
_TINY = 1e-12
_LOUDEST = 50.0  # of a log-mel; a sine of full scale has about 12
_FULL_SCALE = 32_767
_EDGE = 0.1  # smallest weight of a sample: windows are near zero at both ends, where little is known of the waveform


def mel_to_power(log_mel: np.ndarray, updates: int = 50) -> np.ndarray:
    """Estimates a power spectrum that has this log-mel, as nearly as a few updates get.

    Args:
      log_mel: float[T, M], natural logarithm of the mel energies, not normalised.
      updates: each reduces the Kullback-Leibler divergence between the given energies and those of the estimate.

    Returns:
      float64[T, 257], not negative; zero where all filters are zero.

    Raises:
      ValueError: if there is no frame, or a value isn't finite, or too large for audio.
    """
    if log_mel.ndim != 2 or not log_mel.size or not np.isfinite(log_mel).all() or log_mel.max() > _LOUDEST:
        raise ValueError(
            f"a log-mel {log_mel.shape} can't be converted to audio; give finite numbers below {_LOUDEST:g}, one row for a frame"
        )
    filters = mel_filters(log_mel.shape[1]).astype(np.float64)
    energies, coverage = np.exp(log_mel.astype(np.float64)), filters.sum(axis=1)
    weights = filters / np.maximum(coverage, _TINY)[:, None]  # [F, M], share of each filter in a frequency
    power = energies / np.maximum(filters.sum(axis=0), _TINY) @ weights.T
    for _ in range(updates):
        power *= energies / np.maximum(power @ filters, _TINY) @ weights.T
    return power


def spectrum(waveform: np.ndarray) -> np.ndarray:
    """Transforms the windowed frames of a waveform: float[S] -> complex128[T, 257]."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::SHIFT]
    return np.fft.rfft(frames * _WINDOW, n=FFT, axis=-1)


def inverse_spectrum(frames: np.ndarray) -> np.ndarray:
    """Returns the waveform whose spectrum is nearest by least squares: complex[T, 257] -> float64[S], S = num_samples(T)."""
    pieces = np.fft.irfft(frames, n=FFT, axis=-1)[:, :WINDOW] * _WINDOW
    waveform, weight = np.zeros((2, num_samples(len(frames))))
    for i, piece in enumerate(pieces):
        waveform[i * SHIFT : i * SHIFT + WINDOW] += piece
        weight[i * SHIFT : i * SHIFT + WINDOW] += _WINDOW**2
    return waveform / np.maximum(weight, _EDGE)


def griffin_lim(magnitude: np.ndarray, iterations: int = 60, *, seed: int = 0) -> np.ndarray:
    """Estimates a waveform whose spectrum has these magnitudes.

    Args:
      magnitude: float[T, 257].
      iterations: little changes after about 60.
      seed: of the initial phases.

    Returns:
      float64[S] with S = num_samples(T), with the pre-emphasis that the magnitudes have.
    """
    phases = np.exp(2j * np.pi * np.random.default_rng(seed).random(magnitude.shape))
    previous = np.zeros(magnitude.shape, np.complex128)
    for _ in range(iterations):
        possible = spectrum(inverse_spectrum(magnitude * phases))
        ahead = possible + _MOMENTUM * (possible - previous)
        phases, previous = ahead / np.maximum(np.abs(ahead), _TINY), possible
    return inverse_spectrum(magnitude * phases)


def mel_to_waveform(log_mel: np.ndarray, iterations: int = 60, *, seed: int = 0) -> np.ndarray:
    """Converts a log-mel spectrogram of data/fbank.py to audio, approximately.

    Args:
      log_mel: float[T, M], not normalised, of the frames that belong to the clip: those after its end hold zeros, which are loud.
      iterations: of Griffin-Lim; little changes after about 60.
      seed: of the initial phases.

    Returns:
      float64[S] with S = num_samples(T) at 16 kHz; 1 is full scale, as in the waveform the log-mel was made from, and may be exceeded.

    Raises:
      ValueError: if there is no frame, or a value isn't finite, or too large for audio.
    """
    emphasised = griffin_lim(np.sqrt(mel_to_power(log_mel)), iterations, seed=seed)
    waveform = signal.lfilter([1.0], [1.0, -PREEMPHASIS], emphasised)
    # Undoing the pre-emphasis amplifies frequencies below the filters most, and the log-mel holds no information on them.
    high_pass = signal.butter(2, LOW_HZ, "highpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(signal.sosfilt(high_pass, waveform))


def save_wav(path: Path, waveform: np.ndarray) -> None:
    """Writes float[S] at 16 kHz, of which 1 is full scale, as 16-bit PCM.

    Raises:
      ValueError: if a sample lies outside [-1, 1] or isn't finite.
      OSError: if the file can't be written.
    """
    if not (np.abs(waveform) <= 1).all():
        raise ValueError(f"{path}: the waveform has samples outside [-1, 1]; scale it first")
    with replacing(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.rint(waveform * _FULL_SCALE).astype("<i2").tobytes())
