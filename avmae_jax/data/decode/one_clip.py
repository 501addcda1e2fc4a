"""Media file -> the waveform and the ten frames of a stored clip.

One pass over the audio, one over the pictures, each of which stops as soon as it has what the clip needs: a film of three hours costs what
its first ten seconds cost. What a header says about length only serves to guess which frames to keep while n, the number of frames that
really decode, isn't known yet. A wrong guess costs a second pass, never a wrong frame.

What counts as damage: a decoder that raises, or a packet marked corrupt, before the needed part was read; and a stream that lacks more than
half a second and a tenth of what its header promises of that part. Such a file is refused, since nobody knows what its rest was. Damage
behind the needed part isn't looked for.
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import soxr
from av.audio.frame import AudioFrame
from av.video.stream import VideoStream

from avmae_jax.data.catalog.media_folder import PICTURE_SUFFIXES
from avmae_jax.data.clip import NUM_FRAMES, SAMPLE_RATE, Clip
from avmae_jax.data.decode.media import (
    audio_stream,
    decoded,
    encode_jpeg,
    modalities,
    one_channel,
    opened,
    promised,
    refuse,
    reported,
    shrink,
    shrink_picture,
    video_stream,
)

_MAX_RATE = 240  # frames/s; a higher "rate" is the container's clock
_SPECTROGRAM_WINDOW, _SPECTROGRAM_HOP = 400, 160  # samples; a waveform shorter than the window has no spectrogram
_SPECTROGRAM_FRAMES_PER_SECOND = 102.4  # 1024 for a clip of 10 s
_MISSING_SECONDS, _MISSING_SHARE = 0.5, 0.1  # a stream that lacks more than both of what was promised counts as truncated


def clip_samples(seconds: float) -> int:
    """Samples at 16 kHz kept of a clip: enough to fill its spectrogram.

    A clip of 10 s has 1024 spectrogram frames of 25 ms every 10 ms, which take (1024 - 1) * 160 + 400 = 164080 samples or 10.255 s; 160000
    samples would fill only 998 of them. Other lengths are in proportion.
    """
    return (math.ceil(_SPECTROGRAM_FRAMES_PER_SECOND * seconds) - 1) * _SPECTROGRAM_HOP + _SPECTROGRAM_WINDOW


def clip_seconds(spectrogram_frames: int) -> float:
    """Seconds of the clip that fills so many spectrogram frames; see clip_samples."""
    return spectrogram_frames / _SPECTROGRAM_FRAMES_PER_SECOND


def frame_indices(n: int) -> tuple[int, ...]:
    """Which of n decodable frames, counted in decode order, are stored: the rule of the official extraction."""
    return tuple(max(0, i * n // NUM_FRAMES - 1) for i in range(NUM_FRAMES))


def decode_clip(
    path: str | Path,
    *,
    clip_id: str,
    labels: Sequence[int] = (),
    seconds: float = 10.0,
    frame_size: int = 224,
    mix_channels: bool = False,
    allow_missing: bool = False,
    max_mismatch: float = math.inf,
) -> Clip:
    """Decodes the beginning of a media file.

    Args:
      path: a local file in a common container (mp4, webm, mkv, mov, avi, ...).
      clip_id: becomes the clip's id.
      labels: become the clip's labels.
      seconds: length of a clip; a shorter file gives a shorter waveform, and ten frames all the same.
      frame_size: side of the stored frames in pixels.
      mix_channels: take the mean of all audio channels instead of the first one.
      allow_missing: a file with sound alone, or pictures alone (a JPEG or PNG among them), gives a clip of one modality.
      max_mismatch: seconds by which sound and pictures may differ in length within the needed part.

    Returns:
      The clip: waveform int16[N] at 16 kHz, N <= clip_samples(seconds), and ten JPEGs of frame_size x frame_size.

    Raises:
      ClipError: if the file can't be opened, has no sound or no pictures, is damaged within the needed part, or has a longer mismatch.
    """
    if allow_missing and Path(path).suffix.lower() in PICTURE_SUFFIXES:
        return Clip(clip_id, np.zeros(0, np.int16), (encode_jpeg(shrink_picture(path, frame_size)),), tuple(labels))
    has = modalities(path) if allow_missing else "both"
    frames, shown = ((), 0.0) if has == "audio" else _decode_frames(path, seconds, frame_size)
    waveform = np.zeros(0, np.int16) if has == "image" else decode_audio(path, seconds=seconds, mix_channels=mix_channels)
    heard = min(seconds, len(waveform) / SAMPLE_RATE)
    if has == "both" and abs(heard - shown) > max_mismatch:
        refuse(path, "length", f"has {heard:.2f} s of sound and {shown:.2f} s of pictures within its first {seconds:g} s")
    return Clip(clip_id, waveform, frames, tuple(labels))


def decode_audio(path: str | Path, *, seconds: float = 10.0, mix_channels: bool = False) -> np.ndarray:
    """The first channel of a media file's sound, resampled.

    Args:
      path: a local media file; sound-only ones (wav, flac, mp3, ...) are fine.
      seconds: length of the clip.
      mix_channels: take the mean of all channels instead of the first one.

    Returns:
      int16[N] at 16 kHz, N <= clip_samples(seconds).

    Raises:
      ClipError: as decode_clip.
    """
    wanted = clip_samples(seconds)
    with opened(path) as container, reported(path, "audio"):
        stream = audio_stream(path, container)
        waveform = _resample(path, decoded(path, container.demux(stream), "audio"), wanted, mix_channels)
        check_complete(path, "audio", len(waveform) / SAMPLE_RATE, promised(container, stream), seconds)
    return to_int16(path, waveform)


def to_int16(path: str | Path, waveform: np.ndarray) -> np.ndarray:
    """float[N] in [-1, 1] -> int16[N].

    Raises:
      ClipError: if it is too short for a spectrogram or isn't finite; `path` is named.
    """
    if len(waveform) < _SPECTROGRAM_WINDOW:
        refuse(path, "audio", f"has {len(waveform)} samples of sound at 16 kHz; a spectrogram needs at least {_SPECTROGRAM_WINDOW}")
    if not np.isfinite(waveform).all():
        refuse(path, "audio", "has sound samples that are not finite numbers")
    return np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16)


def _resample(path: str | Path, sound: Iterable[AudioFrame], wanted: int, mix: bool) -> np.ndarray:
    """float32[N], N <= wanted: the beginning of the sound at 16 kHz; no more of it is decoded than that takes."""
    chunks = [np.zeros(0, np.float32)]
    resampler, rate, kept = None, 0, 0
    for frame in sound:
        if resampler is None:
            rate, resampler = frame.sample_rate, soxr.ResampleStream(frame.sample_rate, SAMPLE_RATE, 1, dtype="float32")
        elif frame.sample_rate != rate:
            refuse(path, "audio", f"changes its sample rate from {rate} to {frame.sample_rate} Hz half-way")
        chunks.append(resampler.resample_chunk(one_channel(frame, mix)))
        kept += len(chunks[-1])
        if kept >= wanted:
            return np.concatenate(chunks)[:wanted]
    if resampler is not None:
        chunks.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(chunks)[:wanted]


def _decode_frames(path: str | Path, seconds: float, frame_size: int) -> tuple[tuple[bytes, ...], float]:
    """Ten JPEGs at frame_indices(n), n = min(frames that decode, int(rate * seconds)), and the seconds that the n frames take."""
    n, kept, shown = _decode_pass(path, seconds, frame_size)
    if not set(frame_indices(n)) <= kept.keys():
        n, kept, shown = _decode_pass(path, seconds, frame_size, {n})
    return tuple(encode_jpeg(kept[index]) for index in frame_indices(n)), min(seconds, shown)


def _decode_pass(
    path: str | Path, seconds: float, frame_size: int, guesses: set[int] | None = None
) -> tuple[int, dict[int, np.ndarray], float]:
    """Decodes the frames of a clip and keeps few of them.

    Returns:
      n; the frames (uint8[S, S, 3]) at the indices that one of the guesses of n asks for, the header guessing where none are given; and
      the seconds that n frames take.
    """
    kept: dict[int, np.ndarray] = {}
    n, first, end = 0, None, 0.0
    with opened(path) as container, reported(path, "video"):
        stream = video_stream(path, container)
        limit, by_header = _guess_counts(stream, seconds)
        wanted = {index for guess in guesses or by_header for index in frame_indices(guess)}
        for frame in decoded(path, container.demux(stream), "video"):
            if frame.time is not None:
                first = frame.time if first is None else first
                end = max(end, frame.time - first)
            if limit is None and n and end >= seconds:
                return n, kept, seconds
            if n in wanted:
                kept[n] = shrink(frame, frame_size)
            n += 1
            if n == limit:
                return n, kept, seconds
        if n == 0:
            refuse(path, "video", "has no picture that can be decoded")
        end += float(1 / stream.average_rate) if stream.average_rate else 0.0  # the last frame is shown for a while
        check_complete(path, "video", end, promised(container, stream), seconds)
    return n, kept, end


def check_complete(path: str | Path, stage: str, decoded: float, promised: float, seconds: float) -> None:
    """Refuses a stream of which too little decoded, of what was promised within the needed `seconds`; all in seconds."""
    needed = min(promised, seconds)
    if needed - decoded > max(_MISSING_SECONDS, _MISSING_SHARE * needed):
        refuse(path, stage, f"is truncated: its {stage} ends after {decoded:.2f} s, its header promises {promised:.2f} s")


def _guess_counts(stream: VideoStream, seconds: float) -> tuple[int | None, set[int]]:
    """The most frames that may count, None where the rate is unknown, and guesses of n from what the header claims."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate > _MAX_RATE:
        return None, {stream.frames} if stream.frames else {1}
    limit = max(1, int(rate * Fraction(seconds)))
    guesses = {limit, stream.frames}
    if stream.duration is not None and stream.time_base is not None:
        by_duration = round(stream.duration * stream.time_base * rate)
        guesses |= {by_duration - 1, by_duration}
    return limit, {guess for guess in guesses if 0 < guess <= limit}
