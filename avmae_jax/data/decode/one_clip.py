"""Decodes the beginning of a media file: the waveform and the frames of a stored clip.

One pass over the audio and one over the video each stop as soon as they have what the clip needs: a film of three hours costs what its
first ten seconds cost. What a header says about length only serves to guess which frames to keep while n, the number of frames that
really decode, isn't known yet. A wrong guess costs a second pass, never a wrong frame.

What counts as damage: a decoder that raises, or a packet marked corrupt, before the needed part was read; and a stream that lacks more than
half a second and a tenth of what its header promises of that part. Such a file is refused, since nobody knows what its rest was. Damage
behind the needed part isn't searched for.
"""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.video.stream import VideoStream

from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.media import (
    IMAGE_SUFFIXES,
    Resampler,
    audio_stream,
    decoded,
    encode_jpeg,
    modalities,
    opened,
    promised,
    refuse,
    reported,
    shrink,
    shrink_image,
    video_stream,
)

_MAX_RATE = 240  # frames/s; a higher "rate" is the container's clock
_SPECTROGRAM_WINDOW, _SPECTROGRAM_HOP = 400, 160  # samples; a waveform shorter than the window has no spectrogram
_SPECTROGRAM_FRAMES_PER_SECOND = 102.4  # 1024 for a clip of 10 s
_MISSING_SECONDS, _MISSING_SHARE = 0.5, 0.1  # a stream that lacks more than both of what was promised counts as truncated


@dataclasses.dataclass(frozen=True)
class ClipForm:
    """Says what a clip of a media file holds, and which files may become one."""

    seconds: float = 10.0  # length of a clip
    frames: int = 10  # stored frames, spread evenly over the clip
    frame_size: int = 224  # side of the stored frames in pixels
    mix_channels: bool = False  # the mean of all audio channels instead of the first one
    allow_missing: bool = False  # audio alone or images alone (an image file among them) give clips of one modality
    max_mismatch: float = math.inf  # seconds by which audio and video may differ in length


def clip_samples(seconds: float) -> int:
    """Returns how many samples at 16 kHz are kept of a clip: enough to fill its spectrogram.

    A clip of 10 s has 1024 spectrogram frames of 25 ms every 10 ms, which take (1024 - 1) * 160 + 400 = 164080 samples or 10.255 s; 160000
    samples would fill only 998 of them. Other lengths are in proportion.
    """
    return (math.ceil(_SPECTROGRAM_FRAMES_PER_SECOND * seconds) - 1) * _SPECTROGRAM_HOP + _SPECTROGRAM_WINDOW


def clip_seconds(spectrogram_frames: int) -> float:
    """Returns the seconds of the clip that fills so many spectrogram frames, the inverse of clip_samples."""
    return spectrogram_frames / _SPECTROGRAM_FRAMES_PER_SECOND


def frame_indices(n: int, count: int = 10) -> tuple[int, ...]:
    """Returns which of n decodable frames, counted in the order in which they are shown, are stored.

    With a count of 10 this is the rule of the official extraction; other counts divide the clip in the same way.
    """
    return tuple(max(0, i * n // count - 1) for i in range(count))


def decode_clip(path: str | Path, *, clip_id: str, labels: Sequence[int] = (), form: ClipForm | None = None) -> Clip:
    """Decodes the beginning of a media file.

    Args:
      path: a local file in a common container (mp4, webm, mkv, mov, avi, ...).
      clip_id: becomes the clip's id.
      labels: become the clip's labels.
      form: what the clip holds; None: the defaults. A shorter file gives a shorter waveform, and as many frames all the same; its
        max_mismatch counts within the needed part.

    Returns:
      The clip: waveform int16[N] at 16 kHz, N <= clip_samples(form.seconds); JPEGs of frame_size x frame_size; and their times, in seconds
      after the first frame.

    Raises:
      ClipError: if the file can't be opened, lacks audio or video, is damaged within the needed part, or has a longer mismatch.
    """
    form = form or ClipForm()
    if form.allow_missing and Path(path).suffix.lower() in IMAGE_SUFFIXES:
        image = encode_jpeg(shrink_image(path, form.frame_size))
        return Clip(clip_id, np.zeros(0, np.int16), (image,), tuple(labels), frame_times=(0.0,))
    has = modalities(path) if form.allow_missing else "both"
    frames, times, shown = ((), (), 0.0) if has == "audio" else _decode_frames(path, form)
    waveform = np.zeros(0, np.int16) if has == "image" else decode_audio(path, seconds=form.seconds, mix_channels=form.mix_channels)
    heard = min(form.seconds, len(waveform) / SAMPLE_RATE)
    if has == "both" and abs(heard - shown) > form.max_mismatch:
        refuse(path, "length", f"has {heard:.2f} s of audio and {shown:.2f} s of video within its first {form.seconds:g} s")
    return Clip(clip_id, waveform, frames, tuple(labels), frame_times=times)


def decode_audio(path: str | Path, *, seconds: float = 10.0, mix_channels: bool = False) -> np.ndarray:
    """Decodes and resamples the first channel of a media file's audio.

    Args:
      path: a local media file; audio files (wav, flac, mp3, ...) are fine.
      seconds: length of the clip; no more of the file is decoded than that takes.
      mix_channels: take the mean of all channels instead of the first one.

    Returns:
      int16[N] at 16 kHz, N <= clip_samples(seconds).

    Raises:
      ClipError: if the file can't be opened, has no audio, or is damaged within the needed part.
    """
    wanted, kept, resampler, chunks = clip_samples(seconds), 0, Resampler(path, mix_channels), [np.zeros(0, np.float32)]
    with opened(path) as container, reported(path, "audio"):
        stream = audio_stream(path, container)
        for frame in decoded(path, container.demux(stream), "audio"):
            chunks.append(resampler.add(frame))
            kept += len(chunks[-1])
            if kept >= wanted:
                break
        else:
            chunks.append(resampler.finish())
        waveform = np.concatenate(chunks)[:wanted]
        check_complete(path, "audio", len(waveform) / SAMPLE_RATE, promised(container, stream), seconds)
    return to_int16(path, waveform)


def to_int16(path: str | Path, waveform: np.ndarray) -> np.ndarray:
    """Converts float[N] in [-1, 1] to int16[N].

    Raises:
      ClipError: if it is too short for a spectrogram or isn't finite; `path` is named.
    """
    if len(waveform) < _SPECTROGRAM_WINDOW:
        refuse(path, "audio", f"has {len(waveform)} samples of audio at 16 kHz; a spectrogram needs at least {_SPECTROGRAM_WINDOW}")
    if not np.isfinite(waveform).all():
        refuse(path, "audio", "has audio samples that are not finite numbers")
    return np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16)


class _Pass(NamedTuple):
    """Holds what one pass over a video found."""

    frames: int  # n, the frames of the clip
    kept: dict[int, tuple[float, np.ndarray]]  # by index: seconds after the first frame, and uint8[S, S, 3]
    seconds: float  # that the n frames take


def _decode_frames(path: str | Path, form: ClipForm) -> tuple[tuple[bytes, ...], tuple[float, ...], float]:
    """Decodes the frames at frame_indices(n), n = min(frames that decode, int(rate * seconds)).

    Returns:
      Their JPEGs, their times, and the seconds that the n frames take.
    """
    found = _decode_pass(path, form)
    if not set(frame_indices(found.frames, form.frames)) <= found.kept.keys():
        found = _decode_pass(path, form, {found.frames})
    chosen = [found.kept[index] for index in frame_indices(found.frames, form.frames)]
    return tuple(encode_jpeg(image) for _, image in chosen), tuple(time for time, _ in chosen), min(form.seconds, found.seconds)


def _decode_pass(path: str | Path, form: ClipForm, guesses: set[int] | None = None) -> _Pass:
    """Decodes the frames of a clip and keeps those at the indices that one of the guesses of n asks for.

    Where no guesses are given, they come from the header.
    """
    kept: dict[int, tuple[float, np.ndarray]] = {}
    n, first, end, seconds = 0, None, 0.0, form.seconds
    with opened(path) as container, reported(path, "video"):
        stream = video_stream(path, container)
        limit, by_header = _guess_counts(stream, seconds)
        wanted = {index for guess in guesses or by_header for index in frame_indices(guess, form.frames)}
        for frame in decoded(path, container.demux(stream), "video"):
            if frame.time is not None:
                first = frame.time if first is None else first
                end = max(end, frame.time - first)
            if limit is None and n and end >= seconds:
                return _Pass(n, kept, seconds)
            if n in wanted:
                kept[n] = end, shrink(frame, form.frame_size)
            n += 1
            if n == limit:
                return _Pass(n, kept, seconds)
        if n == 0:
            refuse(path, "video", "has no image that can be decoded")
        end += float(1 / stream.average_rate) if stream.average_rate else 0.0  # the last frame is shown for a while
        check_complete(path, "video", end, promised(container, stream), seconds)
    return _Pass(n, kept, end)


def check_complete(path: str | Path, stage: str, decoded: float, promised: float, seconds: float) -> None:
    """Refuses a stream of which too little decoded, of what was promised within the needed `seconds`; all in seconds."""
    needed = min(promised, seconds)
    if needed - decoded > max(_MISSING_SECONDS, _MISSING_SHARE * needed):
        refuse(path, stage, f"is truncated: its {stage} ends after {decoded:.2f} s, its header promises {promised:.2f} s")


def _guess_counts(stream: VideoStream, seconds: float) -> tuple[int | None, set[int]]:
    """Returns the most frames that may count, None where the rate is unknown, and guesses of n from what the header claims."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate > _MAX_RATE:
        return None, {stream.frames} if stream.frames else {1}
    limit = max(1, int(rate * Fraction(seconds)))
    guesses = {limit, stream.frames}
    if stream.duration is not None and stream.time_base is not None:
        by_duration = round(stream.duration * stream.time_base * rate)
        guesses |= {by_duration - 1, by_duration}
    return limit, {guess for guess in guesses if 0 < guess <= limit}
