"""Cuts media of any length and kind, files or arrays, into windows as long as the model's audio, as rows of a batch.

Windows follow each other without overlap, or start a second apart for a timeline. They are made one by one, so that a long video needs no
more memory than a short one.

Axis letters: N samples, H W image.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import soxr
from PIL import Image

from avmae_jax.config import Frames, Modality, ModelConfig
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.many_clips import cut_clips, cut_timed
from avmae_jax.data.decode.media import IMAGE_SUFFIXES
from avmae_jax.data.decode.one_clip import ClipForm, clip_seconds, decode_clip
from avmae_jax.data.example import example
from avmae_jax.data.fbank import SHIFT, WINDOW, num_samples
from avmae_jax.errors import ClipError
from avmae_jax.files import as_text

WHOLE, TIMELINE = "windows", "seconds"  # the two series of windows
SECOND = 1.0  # seconds from window to window of a timeline
_RATES = range(1_000, 768_001)  # Hz
_MOST_CHANNELS = 64  # an array with more channels, and more than samples, must be transposed


Timed = Iterator[tuple[Clip, float]]  # clips with their lengths in seconds


class Medium(NamedTuple):
    """Is a file, or a pair of arrays, that can be cut into clips."""

    name: str
    cut: Callable[[float, float, int], Timed]  # (seconds, stride, side of a frame) -> clips in order of time
    timed: bool = True  # False: an image, which has no duration


class Row(NamedTuple):
    """Holds a window of a medium with one of its frames."""

    medium: int  # counted from 0
    series: str  # WHOLE: without overlap; TIMELINE: a second apart
    window: int  # counted from 0 in its series
    start: float  # seconds into the medium
    seconds: float  # length of the window; the last one may be cut short
    has: Modality
    share: float  # 1 / number of rows of the window
    arrays: dict[str, Any]  # as of data/batches.py, without "id"


def of_file(path: str | Path) -> Medium:
    """Returns the medium of a file with video, audio or an image; an unreadable one raises ClipError when it is cut."""
    cut = partial(_cut_file, str(path))
    return Medium(as_text(str(path)), cut, Path(path).suffix.lower() not in IMAGE_SUFFIXES)


def of_parts(audio: np.ndarray | str | Path | None, image: np.ndarray | str | Path | None, sample_rate: int = SAMPLE_RATE) -> Medium:
    """Returns the medium of audio, an image, or both: then the image belongs to every window of the audio.

    Args:
      audio: int16, or float32 or float64 in [-1, 1]; [N], or [N, channels] of which the first is used; or the path of a file with audio.
      image: uint8[H, W, 3], red, green, blue; or the path of a JPEG or PNG.
      sample_rate: Hz of the array.

    Raises:
      ValueError: if both are missing, or an array isn't as described.
    """
    if audio is None and image is None:
        raise ValueError("neither audio nor image is given; give a media file, or audio, image or both")
    encoded = None if image is None else partial(_image_file, image) if isinstance(image, str | Path) else _encoded(image)
    waveform = None if audio is None else audio if isinstance(audio, str | Path) else _waveform(audio, sample_rate)
    name = str(audio if isinstance(audio, str | Path) else image if isinstance(image, str | Path) else "the arrays")
    return Medium(name, partial(_cut_parts, waveform, encoded), audio is not None)


def decode_beginning(path: str | Path, model: ModelConfig, needs: Modality | None = None) -> Clip:
    """Decodes the beginning of a media file, as long as the model's audio, into a clip whose id is the path.

    Its frames are as large as those of a prepared data set, or as the model's input if that is larger, so that they can be drawn.

    Raises:
      ClipError: if the file can't be decoded, or lacks what the clip `needs`; None: audio, an image, or both.
    """
    side = max(ClipForm().frame_size, model.image_size)
    form = ClipForm(seconds=clip_seconds(model.audio_frames), frame_size=side, allow_missing=needs != "both")
    clip = decode_clip(path, clip_id=as_text(str(path)), form=form)
    if needs and clip.modality not in (needs, "both"):
        stage, missing = ("audio", "audio") if needs == "audio" else ("video", "images")
        raise ClipError(str(path), stage, f"has no {missing}, which the model is for")
    return clip


def rows_of(medium: Medium, number: int, model: ModelConfig, *, frames: Frames, timeline: bool) -> Iterator[Row]:
    """Yields the rows of one medium.

    Args:
      medium: to be cut.
      number: its index among the media.
      model: sizes of the inputs.
      frames: "middle": one row a window, with its middle frame; "first": with the first one; "all": a row for each frame.
      timeline: yield the series TIMELINE too.

    Raises:
      ClipError: if the medium can't be read; rows may have been yielded by then.
      ValueError: if `frames` is none of these.
    """
    if frames not in get_args(Frames):
        raise ValueError(f"frames is {frames!r}; choose one of {', '.join(get_args(Frames))}")
    length = model.audio_frames * SHIFT / SAMPLE_RATE
    series = {WHOLE: length} | ({TIMELINE: SECOND} if timeline and medium.timed else {})
    for name, stride in series.items():
        for window, (clip, seconds) in enumerate(medium.cut(length, stride, model.image_size)):
            one = 0 if frames == "first" else clip.middle
            shots = range(len(clip.frames)) if frames == "all" and clip.frames else [one]
            for shot in shots:
                made = example(clip, shot, samples=num_samples(model.audio_frames), image_size=model.image_size, needs=clip.modality)
                del made["id"]
                yield Row(number, name, window, clip.start, seconds, clip.modality, 1 / len(shots), made)


def _cut_file(path: str, seconds: float, stride: float, size: int) -> Timed:
    return cut_timed(path, clip_id=as_text(path), stride=stride, form=ClipForm(seconds=seconds, frame_size=size, allow_missing=True))


def _cut_parts(
    audio: np.ndarray | str | Path | None, image: bytes | Callable[[int], bytes] | None, seconds: float, stride: float, size: int
) -> Timed:
    encoded = image(size) if callable(image) else image
    frames = (encoded,) if encoded else ()
    if audio is None:
        yield Clip("image", np.zeros(0, np.int16), frames, ()), 0.0
        return
    cut = _cut_file(str(audio), seconds, stride, size) if isinstance(audio, str | Path) else _cut_array(audio, seconds, stride)
    for clip, there in cut:
        if not len(clip.waveform):
            raise ClipError(str(audio), "audio", "has no audio")
        yield clip._replace(frames=frames, frame_times=(0.0,) * len(frames)), there


def _cut_array(waveform: np.ndarray, seconds: float, stride: float) -> Timed:
    """Cuts a waveform as cut_clips cuts a file: a rest of less than half a window is left out, unless it is the only window."""
    start, window = 0.0, 0
    length, samples = seconds * SAMPLE_RATE, num_samples(round(seconds * SAMPLE_RATE / SHIFT))
    while not window or len(waveform) - start * SAMPLE_RATE >= length / 2:
        first = round(start * SAMPLE_RATE)
        clip = Clip(f"audio@{start:g}", waveform[first : first + samples], (), (), start=start)
        yield clip, min(seconds, len(clip.waveform) / SAMPLE_RATE)
        window += 1
        start = window * stride


def _image_file(path: str | Path, size: int) -> bytes:
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise ClipError(str(path), "video", f"isn't an image by its name; images end in {', '.join(IMAGE_SUFFIXES)}")
    (clip,) = cut_clips(path, clip_id="image", form=ClipForm(frame_size=size, allow_missing=True))
    return clip.frames[0]


def _encoded(image: np.ndarray) -> bytes:
    """Encodes an image as PNG, which is lossless."""
    found = np.asarray(image)
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3 or not found.size:
        raise ValueError(f"image is {found.dtype}{list(found.shape)}; give uint8[H, W, 3], red, green, blue from 0 to 255")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(found)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _waveform(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Converts an array to int16[N] at 16 kHz; of several channels the first one is used, as of a file."""
    found = np.asarray(audio)
    if found.dtype not in (np.float64, np.float32, np.int16) or found.ndim not in (1, 2):
        raise ValueError(f"audio is {found.dtype}{list(found.shape)}; give int16, float32 or float64, [N] or [N, channels]")
    if found.ndim == 2 and found.shape[1] > max(_MOST_CHANNELS, found.shape[0]):
        raise ValueError(f"audio is {found.dtype}{list(found.shape)}, which is {found.shape[1]} channels; give [N, channels]: transpose it")
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int) or sample_rate not in _RATES:
        raise ValueError(f"sample_rate is {sample_rate!r}; give the Hz of the array, an integer from {_RATES[0]} to {_RATES[-1]}")
    found = found[:, 0] if found.ndim == 2 else found
    if found.dtype == np.int16:
        found = found.astype(np.float32) / 32_768
    else:
        if not np.isfinite(found).all():
            raise ValueError(f"audio has {np.count_nonzero(~np.isfinite(found))} samples that are not finite numbers")
        loudest = float(np.abs(found).max(initial=0))
        if loudest > 1:
            raise ValueError(f"audio has samples up to {loudest:g}; floating point must lie in [-1, 1]: divide it, or give int16")
        found = found.astype(np.float32)
    if sample_rate != SAMPLE_RATE:
        found = soxr.resample(np.ascontiguousarray(found), sample_rate, SAMPLE_RATE)
    if len(found) < WINDOW:
        raise ValueError(f"audio has {len(found)} samples at 16 kHz; a spectrogram needs at least {WINDOW}, 25 ms")
    return np.clip(np.rint(found * 32_768), -32_768, 32_767).astype(np.int16)
