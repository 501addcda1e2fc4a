"""Turns decoded audio into one channel at 16 kHz, every sample at its place on the clock of the file.

A gap is silence, a late start is silence before it, an overlap is cut, all in the rate of the file, before it is resampled. Differences
below clock.JITTER are left alone: stamps are rounded. They are measured against the beginning, so that they don't add up.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
from av.audio.frame import AudioFrame

from avmae_jax.config import Channels
from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.decode.clock import JITTER
from avmae_jax.data.decode.form import SPECTROGRAM_WINDOW
from avmae_jax.data.decode.media import refuse

_SILENT = 4 / 32768  # the loudest sample of a channel that counts as silent: what lossy codecs make of zeros
_MARGIN = 1600  # samples at 16 kHz around a window that is resampled by itself
_NOTHING = np.zeros(0, np.float32)
_CODED = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}  # FFmpeg's names


class _Block(NamedTuple):
    """Holds all channels of a frame."""

    start: int  # in samples of the file's rate
    samples: np.ndarray  # [channels, N], as decoded

    @property
    def end(self) -> int:
        return self.start + self.samples.shape[1]


class AudioLine:
    """Holds the audio at 16 kHz, from what is still needed on."""

    def __init__(self, path: str | Path, channels: Channels, only: int = 0) -> None:
        """Starts with nothing.

        Args:
          path: the file, for errors.
          channels: which are taken.
          only: samples of the only window, which begins at 0; 0: there are many windows.
        """
        self._only = only
        self._path, self._mix = path, channels == "mean"
        self._stream: soxr.ResampleStream | None = None
        self._rate, self._jitter = 0, 0.0
        self._placed = 0  # samples of the file's rate so far, silence included
        self._blocks: list[_Block] = []  # what is still needed of files with several channels, in case the first one is silent
        self._sounds = False  # whether the only window is known not to be silent; then its other channels are never needed
        self._chunks: list[np.ndarray] = []
        self._begin = 0  # sample at which the chunks begin
        self.first: int | None = None  # sample with which the audio begins; before it is silence that the file doesn't have
        self.end = 0  # samples so far

    def add(self, frame: AudioFrame, time: Fraction | float) -> Iterator[None]:
        """Takes the next frame; yields after each second of silence before it, so that long gaps needn't be held.

        Raises:
          ClipError: if the sample rate changes.
        """
        if self._stream is None:
            self._rate = frame.sample_rate
            self._jitter = float(JITTER * self._rate)
            self._stream = soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32")
        elif frame.sample_rate != self._rate:
            refuse(self._path, "audio", f"changes its sample rate from {self._rate} to {frame.sample_rate} Hz half-way")
        samples = _samples(frame)
        apart = round(time * self._rate) - self._placed
        if abs(apart) < self._jitter:
            apart = 0
        for begin in range(0, apart, self._rate):
            silence = min(self._rate, apart - begin)
            self._append(self._stream.resample_chunk(np.zeros(silence, np.float32)))
            self._placed += silence
            yield
        samples = samples[:, max(0, -apart) :]
        if self.first is None and samples.size:
            self.first = round(Fraction(self._placed * SAMPLE_RATE, self._rate))
        if len(samples) > 1 and not (self._mix or self._sounds):
            self._blocks.append(_Block(self._placed, samples))
        self._placed += samples.shape[1]
        self._append(self._stream.resample_chunk(_scaled(samples if self._mix else samples[:1])))

    def finish(self) -> None:
        """Takes what the resampler holds."""
        if self._stream is not None:
            self._append(self._stream.resample_chunk(_NOTHING, last=True))

    def window(self, start: int, samples: int) -> tuple[np.ndarray, int]:
        """Returns int16[N], N <= samples, from `start` on, and the channel that they are of: 0, unless that is silent there.

        Where the audio has ended or hasn't begun, N is 0.
        """
        if self.first is None or start + samples <= self.first:
            return np.zeros(0, np.int16), 0
        self._chunks = [np.concatenate([*self._chunks, _NOTHING])]
        taken = self._chunks[0][start - self._begin : start - self._begin + samples]
        channel = 0
        if self._blocks and len(taken) and np.abs(taken).max() <= _SILENT:
            channel = self._sounding(start, start + len(taken))
            taken = self._resampled(channel, start, len(taken)) if channel else taken
        if not np.isfinite(taken).all():
            refuse(self._path, "audio", "has audio samples that are not finite numbers")
        return as_int16(taken), channel

    def forget(self, until: int) -> None:
        """Drops everything before a sample; called after window."""
        kept = np.concatenate([*self._chunks, _NOTHING])[max(0, until - self._begin) :]
        self._begin, self._chunks = self.end - len(kept), [kept.copy()]
        if self._rate:
            needed = (self._begin - 2 * _MARGIN) * self._rate // SAMPLE_RATE
            self._blocks = [block for block in self._blocks if block.end > needed]

    def _append(self, chunk: np.ndarray) -> None:
        self._chunks.append(chunk)
        if self.end < self._only and not self._sounds and np.abs(chunk[: self._only - self.end]).max(initial=0) > _SILENT:
            self._sounds = True
            self._blocks.clear()
        self.end += len(chunk)

    def _sounding(self, start: int, stop: int) -> int:
        """Returns the first channel that isn't silent between two samples at 16 kHz, 0 if all are."""
        begin, end = start * self._rate // SAMPLE_RATE, stop * self._rate // SAMPLE_RATE
        found = 0
        for block in self._blocks:
            if block.start < end and block.end > begin:
                part = block.samples[:, max(0, begin - block.start) : end - block.start]
                loud = [number for number, channel in enumerate(part) if number and np.abs(_scaled(channel[None])).max() > _SILENT]
                found = min(filter(None, (found, *loud)), default=0)
        return found

    def _resampled(self, channel: int, start: int, count: int) -> np.ndarray:
        """Resamples one channel of a window by itself, beginning at a moment that is a whole sample in both rates."""
        common = math.gcd(self._rate, SAMPLE_RATE)
        period_in, period_out = self._rate // common, SAMPLE_RATE // common
        periods = max(0, start - _MARGIN) // period_out
        first, last = periods * period_in, (start + count + _MARGIN) * self._rate // SAMPLE_RATE
        line = np.zeros(max(0, min(last, self._placed) - first), np.float32)
        for block in self._blocks:
            begin, end = max(block.start, first), min(block.end, first + len(line))
            if begin < end and channel < len(block.samples):
                line[begin - first : end - first] = _scaled(block.samples[channel : channel + 1, begin - block.start : end - block.start])
        offset = start - periods * period_out
        return soxr.resample(line, self._rate, SAMPLE_RATE)[offset : offset + count]


def _samples(frame: AudioFrame) -> np.ndarray:
    """Returns the samples of a frame as they are coded: [channels, N].

    PyAV counts the planes of 8 and more channels by what lies behind them in memory; its to_ndarray reads there, and crashes.
    """
    channels, name = frame.layout.nb_channels, frame.format.name
    coded = _CODED[name.removesuffix("p")]
    planes: tuple[Any, ...] = frame.planes  # they have the buffer protocol, which their types don't say
    if frame.format.is_planar:
        return np.stack([np.frombuffer(plane, coded, frame.samples) for plane in planes[:channels]])
    return np.frombuffer(planes[0], coded, frame.samples * channels).reshape(-1, channels).T.copy()


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Returns the mean of channels: float32[N] in [-1, 1]."""
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples / 2.0 ** (8 * samples.itemsize - 1)
    return np.ascontiguousarray(samples[0], np.float32) if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)


def as_int16(waveform: np.ndarray) -> np.ndarray:
    """Converts float[N] in [-1, 1] to int16[N]."""
    return np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16)


def first_sounding(samples: np.ndarray) -> int:
    """Returns the first channel of float[channels, N] in [-1, 1] that isn't silent; 0 if all are."""
    return next((number for number, channel in enumerate(samples) if np.abs(channel).max(initial=0) > _SILENT), 0)


def check_long_enough(path: str | Path, waveform: np.ndarray) -> None:
    """Refuses audio that is too short for a spectrogram."""
    if len(waveform) < SPECTROGRAM_WINDOW:
        needs = f"a spectrogram needs at least {SPECTROGRAM_WINDOW}"
        refuse(path, "audio", f"has {len(waveform)} samples of audio at 16 kHz; {needs}")
