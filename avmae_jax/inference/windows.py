"""Cuts media of any length and kind, files or arrays, into windows as long as the model's audio, as rows of a batch.

Windows follow each other without overlap, or start a second apart for a timeline. The last one is moved back so that it ends where the
medium ends: each window of a medium that is long enough is whole, and only a shorter medium gives a shorter one. Windows are made one by
one, so that a long video needs no more memory than a short one.

For a model of pairs a window is as long as the spectrogram of a clip, and its row has F images, spread evenly over it.

Axis letters: N samples, H W image, F images of a row.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import soxr
from absl import logging
from PIL import Image

from avmae_jax.config import Applied, Fill, Frames, Modality
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.audio import as_int16, first_sounding
from avmae_jax.data.decode.clock import JITTER
from avmae_jax.data.decode.form import ClipForm, Span, clip_seconds
from avmae_jax.data.decode.many_clips import cut_timed
from avmae_jax.data.decode.media import IMAGE_SUFFIXES
from avmae_jax.data.decode.one_clip import decode_clip
from avmae_jax.data.example import example
from avmae_jax.data.fbank import SHIFT, WINDOW, num_samples
from avmae_jax.data.pairs import when_shown
from avmae_jax.data.rows import paired_row
from avmae_jax.errors import ClipError
from avmae_jax.files import as_text
from avmae_jax.models.pairs import USUAL_PAIRS
from avmae_jax.models.registry import kind_of

WHOLE, TIMELINE = "windows", "seconds"  # the two series of windows
SECOND = 1.0  # seconds from window to window of a timeline
# How audio that is shorter than the model's input is filled up. The model of configs/tiny.py, which was trained on whole windows, ranks the
# right image first for 11, 16 and 14 % of 200 held-out clips by .64, 1.28 and 1.92 s of repeated audio, for 2, 2 and 4 % with zeros.
FILL: Fill = "repeat"
_RATES = range(1_000, 768_001)  # Hz
_MOST_CHANNELS = 64  # an array with more channels, and more than samples, must be transposed


Timed = Iterator[tuple[Clip, float]]  # clips with their lengths in seconds


class Medium(NamedTuple):
    """Is a file, or a pair of arrays, that can be cut into clips."""

    name: str
    cut: Callable[[ClipForm, float], Timed]  # (what a window holds, seconds from window to window) -> clips in order of time
    timed: bool = True  # False: an image, which has no duration


class Row(NamedTuple):
    """Holds a window of a medium with one of its frames, or with several for a model of pairs."""

    medium: int  # counted from 0
    series: str  # WHOLE: without overlap; TIMELINE: a second apart
    window: int  # counted from 0 in its series
    start: float  # seconds into the medium
    seconds: float  # length of the window, shorter than the model's input only where the whole medium is
    has: Modality
    share: float  # 1 / number of rows of the window
    arrays: dict[str, Any]  # as of data/batches.py, without "id"


def of_file(path: str | Path) -> Medium:
    """Returns the medium of a file with video, audio or an image; an unreadable one raises ClipError when it is cut."""
    return Medium(as_text(str(path)), partial(_cut_file, path), Path(path).suffix.lower() not in IMAGE_SUFFIXES)


def of_parts(audio: np.ndarray | str | Path | None, image: np.ndarray | str | Path | None, sample_rate: int = SAMPLE_RATE) -> Medium:
    """Returns the medium of audio, an image, or both: then the image belongs to every window of the audio.

    Args:
      audio: int16, or float32 or float64 in [-1, 1]; [N], or [N, channels], of which those are used that would be of a file; or the path
        of a file with audio.
      image: uint8[H, W, 3], red, green, blue; or the path of a JPEG or PNG.
      sample_rate: Hz of the array.

    Raises:
      ValueError: if both are missing, or an array isn't as described.
    """
    if audio is None and image is None:
        raise ValueError("neither audio nor image is given; give a media file, or audio, image or both")
    encoded = image if image is None or isinstance(image, str | Path) else _encoded(image)
    waveform = None if audio is None else audio if isinstance(audio, str | Path) else _waveform(audio, sample_rate)
    name = str(audio if isinstance(audio, str | Path) else image if isinstance(image, str | Path) else "the arrays")
    return Medium(name, partial(_cut_parts, waveform, encoded), audio is not None)


def decode_beginning(path: str | Path, config: Applied, needs: Modality | None = None) -> Clip:
    """Decodes the beginning of a media file, as long as the model's audio, into a clip whose id is the path.

    Its frames are as large as those of a prepared data set, or as the model's input if that is larger, so that they can be drawn.

    Raises:
      ClipError: if the file can't be decoded, or lacks what the clip `needs`; None: audio, an image, or both.
    """
    model = config.model
    form = ClipForm(
        clip_seconds(model.spectrogram_frames),
        frames=images_of(config),
        frame_size=max(ClipForm.frame_size, model.image_size),
        channels=config.data.audio_channels,
        allow_missing=needs != "both",
    )
    clip = decode_clip(path, clip_id=as_text(str(path)), form=form)
    _warn_of_channel(clip.id, clip)
    if needs and clip.modality not in (needs, "both"):
        stage, missing = ("audio", "audio") if needs == "audio" else ("video", "images")
        raise ClipError(str(path), stage, f"has no {missing} within its first {form.seconds:g} s; the model is for {missing}")
    return clip


def rows_of(
    medium: Medium,
    number: int,
    config: Applied,
    *,
    frames: Frames = "middle",
    timeline: bool = False,
    fill: Fill = FILL,
    spans: Span = "longer",
) -> Iterator[Row]:
    """Yields the rows of one medium.

    Args:
      medium: to be cut.
      number: its index among the media.
      config: of the model: the sizes of its inputs, and which audio channels it was trained on.
      frames: "middle": a row a window, with its middle frame; "first": with the first one; "all": a row for each. Not for models of pairs.
      timeline: yield the series TIMELINE too.
      fill: how the audio of a medium that is shorter than a window is filled up, as of data/example.py. Where the audio of a longer one
        ends, the rest of that window is silent.
      spans: which of a file's audio and images the windows span; others may begin later or end earlier.

    Raises:
      ClipError: if the medium can't be read; rows may have been yielded by then.
      ValueError: if `frames` is none of these.
    """
    series = {WHOLE: window_seconds(config)} | ({TIMELINE: SECOND} if timeline and medium.timed else {})
    for name, stride in series.items():
        yield from rows_every(stride, medium, number, config, series=name, frames=frames, fill=fill, spans=spans)


def window_seconds(config: Applied) -> float:
    """Returns the length of a model's windows."""
    return config.model.spectrogram_frames * SHIFT / SAMPLE_RATE


def images_of(config: Applied) -> int:
    """Returns how many images are taken of a window; for a model of pairs F, as many as it was trained with where that is known."""
    return config.data.frames or USUAL_PAIRS if kind_of(config.model).pairs else ClipForm.frames


def rows_every(
    stride: float,
    medium: Medium,
    number: int,
    config: Applied,
    *,
    series: str = WHOLE,
    frames: Frames = "middle",
    fill: Fill = FILL,
    spans: Span = "longer",
) -> Iterator[Row]:
    """Yields the rows of windows that begin every `stride` seconds, and of the last one, which ends with the medium, as `series`.

    The other arguments and the errors are those of rows_of.
    """
    if frames not in get_args(Frames):
        raise ValueError(f"frames is {frames!r}; choose one of {', '.join(get_args(Frames))}")
    model, warned = config.model, False
    samples = num_samples(model.spectrogram_frames)
    kept = {"frames": images_of(config), "frame_size": model.image_size, "channels": config.data.audio_channels}
    form = ClipForm(window_seconds(config), **kept, allow_missing=True, spans=spans)
    for window, (clip, seconds) in enumerate(medium.cut(form, stride)):
        warned = warned or _warn_of_channel(medium.name, clip)
        if seconds >= form.seconds and 0 < len(clip.waveform) < round(form.seconds * SAMPLE_RATE):
            clip = clip._replace(waveform=_silence_after(clip.waveform, samples))
        made = _made(clip, config, frames, fill)
        for arrays in made:
            del arrays["id"]
            yield Row(number, series, window, clip.start, seconds, clip.modality, 1 / len(made), arrays)


def _made(clip: Clip, config: Applied, frames: Frames, fill: Fill) -> list[dict[str, Any]]:
    """Makes the rows of a window."""
    model = config.model
    samples = num_samples(model.spectrogram_frames)
    if kind_of(model).pairs:
        count = images_of(config)
        return [paired_row(when_shown(clip, count, window_seconds(config)), model, clip.modality, 0, count, fill=fill)]
    one = 0 if frames == "first" else clip.middle
    shots = range(len(clip.frames)) if frames == "all" and clip.frames else [one]
    return [example(clip, shot, samples=samples, image_size=model.image_size, needs=clip.modality, fill=fill) for shot in shots]


def _silence_after(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Adds silence to audio that ends inside a window while the images go on: it isn't a medium too short for a window, to be filled up."""
    return np.pad(waveform, (0, max(0, samples - len(waveform))))


def _warn_of_channel(name: str, clip: Clip) -> bool:
    """Warns if another audio channel than the first one is used in a window, and returns whether it is."""
    if clip.channel:
        logging.warning("%s: its first audio channel is silent at %g s; channel %d is used there", name, clip.start, clip.channel + 1)
    return clip.channel > 0


def _cut_file(path: str | Path, form: ClipForm, stride: float) -> Timed:
    return cut_timed(path, clip_id=as_text(str(path)), stride=stride, form=form, rest="whole")


def _cut_parts(audio: np.ndarray | str | Path | None, image: bytes | str | Path | None, form: ClipForm, stride: float) -> Timed:
    """Cuts the audio, and gives each window the image."""
    shown = _image_file(image, form) if isinstance(image, str | Path) else image
    frames = (shown,) if shown else ()
    if audio is None:
        yield Clip("image", np.zeros(0, np.int16), frames, ()), 0.0
        return
    windows, form = 0, replace(form, spans="audio")
    for clip, there in _cut_array(audio, form, stride) if isinstance(audio, np.ndarray) else _cut_file(audio, form, stride):
        if len(clip.waveform):  # a video may begin before its audio
            windows += 1
            yield clip._replace(frames=frames, frame_times=(0.0,) * len(frames)), there
    if not windows:
        raise ClipError(str(audio), "audio", "has no audio")


def _cut_array(audio: np.ndarray, form: ClipForm, stride: float) -> Timed:
    """Cuts float32[channels, N] as cut_timed cuts a file."""
    end, samples = audio.shape[1] / SAMPLE_RATE, num_samples(round(form.seconds * SAMPLE_RATE / SHIFT))
    last = max(0.0, end - form.seconds)
    starts = [index * stride for index in range(int(last / stride) + 1)]
    starts += [last] if last - starts[-1] > JITTER else []
    for start in starts:
        first = round(start * SAMPLE_RATE)
        window = audio[:, first : first + samples]
        channel = 0 if form.channels == "mean" else first_sounding(window)
        taken = window.mean(axis=0) if form.channels == "mean" else window[channel]
        yield Clip(f"audio@{start:g}", as_int16(taken), (), (), start=start, channel=channel), min(form.seconds, end)


def _image_file(path: str | Path, form: ClipForm) -> bytes:
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise ClipError(str(path), "video", f"isn't an image by its name; images end in {', '.join(IMAGE_SUFFIXES)}")
    ((clip, _),) = _cut_file(path, form, SECOND)
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
    """Converts an array to float32[channels, N] at 16 kHz."""
    found = np.asarray(audio)
    if found.dtype not in (np.float64, np.float32, np.int16) or found.ndim not in (1, 2):
        raise ValueError(f"audio is {found.dtype}{list(found.shape)}; give int16, float32 or float64, [N] or [N, channels]")
    if found.ndim == 2 and found.shape[1] > max(_MOST_CHANNELS, found.shape[0]):
        raise ValueError(f"audio is {found.dtype}{list(found.shape)}, which is {found.shape[1]} channels; give [N, channels]: transpose it")
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int) or sample_rate not in _RATES:
        raise ValueError(f"sample_rate is {sample_rate!r}; give the Hz of the array, an integer from {_RATES[0]} to {_RATES[-1]}")
    found = found.T if found.ndim == 2 else found[None]
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
        found = np.stack([soxr.resample(channel, sample_rate, SAMPLE_RATE) for channel in np.ascontiguousarray(found)])
    if found.shape[1] < WINDOW:
        raise ValueError(f"audio has {found.shape[1]} samples at 16 kHz; a spectrogram needs at least {WINDOW}, 25 ms")
    return found
