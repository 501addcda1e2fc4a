"""Cuts a medium with audio and images into moments: an image, and the window of audio around the time at which it is shown.

The medium is decoded once, in pieces that overlap, so that a long one needs no more memory than a short one. A moment's input is what
training gives the model: of a model of pairs as much audio as its clips have, of which the window is a part; of another model the window
itself. Near the beginning and the end of the medium the window is moved inside, so that its middle is no longer the image's time.

The clock is the medium's own, in seconds. The published CAV-MAE Sync places its windows at 102.4 frames a second where there are 100, which
in training parts image and audio by up to a quarter of a second at the end of a clip; here they are centred.

Axis letters: B batch, H W image, S samples.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avmae_jax.config import Applied
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.form import ClipForm
from avmae_jax.data.decode.many_clips import cut_timed
from avmae_jax.data.decode.media import IMAGE_SUFFIXES
from avmae_jax.data.example import example
from avmae_jax.data.fbank import SHIFT, num_frames, num_samples
from avmae_jax.errors import ClipError
from avmae_jax.files import as_text
from avmae_jax.models.registry import kind_of

RATE = 4.0  # moments a second unless asked for
_LEAST_PIECE = 10.0  # seconds of a piece, at least: short ones would be decoded twice for little
_FRAMES = SAMPLE_RATE / SHIFT  # of a spectrogram in a second


class Moment(NamedTuple):
    """Holds an image of a medium with the audio around it."""

    time: float  # seconds into the medium at which the image is shown
    centre: float  # seconds into the medium of the middle of its window of audio
    arrays: dict[str, Any]  # the row of a batch: "waveform" int16[S], "samples", "image" uint8[(1,) H, W, 3], of pairs also "window"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Says how many spectrogram frames a moment takes of the audio."""

    window: int  # that the model compares with an image
    context: int  # of the row: those of a whole clip for a model of pairs, else those of the window

    @classmethod
    def of(cls, config: Applied) -> "Sizes":
        """Returns the sizes of a model's moments."""
        model = config.model
        return cls(model.audio_frames, model.spectrogram_frames if kind_of(model).pairs else model.audio_frames)

    @property
    def window_seconds(self) -> float:
        """Returns the length of the window."""
        return self.window / _FRAMES


class _Piece(NamedTuple):
    clip: Clip  # whose start is that of the piece in the medium
    end: float  # seconds into the medium at which the piece ends


def moments_of_file(path: str | Path, config: Applied, rate: float = RATE) -> Iterator[Moment]:
    """Yields the moments of a video file, `rate` a second, or one for each image of a film that has fewer.

    Args:
      path: of a video.
      config: of the model: the sizes of its inputs, and which audio channels it was trained on.
      rate: moments a second.

    Raises:
      ClipError: if the file can't be read, lacks audio or images, shows one image alone, or is shorter than a window.
      ValueError: if the rate isn't a positive number, or at most 100.
    """
    if not 0 < rate <= _FRAMES:
        raise ValueError(f"rate is {rate:g}; give moments a second, above 0 and at most {_FRAMES:g}, one a spectrogram frame")
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        raise ClipError(str(path), "audio", "is an image, which has no audio and no time; give a video")
    context = Sizes.of(config).context / _FRAMES
    margin = math.ceil(context / 2 * rate) / rate  # on the grid of the moments
    step = max(margin * 2, math.ceil(_LEAST_PIECE / 2 * rate) / rate)
    form = ClipForm(2 * step, round(2 * step * rate), config.model.image_size, config.data.audio_channels)
    timed = cut_timed(path, clip_id=as_text(str(path)), stride=step, form=form)
    pieces = (_Piece(clip, clip.start + seconds) for clip, seconds in timed)
    yield from _checked(_joined(pieces, margin, config), str(path), Sizes.of(config))


def moments_of_clip(clip: Clip, config: Applied) -> Iterator[Moment]:
    """Yields the moments of a clip in memory, one for each of its images; the clip's audio begins at 0, whatever its `start`.

    Raises:
      ClipError: if it lacks audio or images, has one image alone, or is shorter than a window.
    """
    if len(clip.frame_times) != len(clip.frames):
        raise ClipError(clip.id, "video", "doesn't say when its images are shown")
    if clip.modality != "both":
        raise ClipError(clip.id, *(("audio", "has no audio") if not len(clip.waveform) else ("video", "has no images")))
    piece = _Piece(clip._replace(start=0.0), len(clip.waveform) / SAMPLE_RATE)
    yield from _checked(_joined(iter([piece]), 0.0, config), clip.id, Sizes.of(config))


def _checked(moments: Iterator[Moment], name: str, sizes: Sizes) -> Iterator[Moment]:
    """Passes moments on; raises ClipError unless there are several."""
    count = 0
    for moment in moments:
        count += 1
        yield moment
    if count == 0:
        raise ClipError(name, "length", f"is shorter than the model's window of {sizes.window_seconds:g} s; give a longer one")
    if count == 1:
        raise ClipError(name, "video", "shows a single image, so nothing can be compared along time; give a film")


def _joined(pieces: Iterator[_Piece], margin: float, config: Applied) -> Iterator[Moment]:
    """Yields the moments of pieces that overlap, each image once.

    An image is taken from the piece that has at least `margin` seconds of audio on both sides of it, where one has.
    """
    piece, begin, last = next(pieces, None), -math.inf, -math.inf
    while piece is not None:
        following = next(pieces, None)
        until = math.inf if following is None else following.clip.start + margin
        for moment in _moments(piece, config, begin, until):
            if moment.time > last:
                last = moment.time
                yield moment
        piece, begin = following, until


def _moments(piece: _Piece, config: Applied, begin: float, until: float) -> Iterator[Moment]:
    """Yields the moments of a piece whose images are shown from `begin` to before `until`; none if it is shorter than a window."""
    clip, sizes = piece.clip, Sizes.of(config)
    waveform = clip.waveform[: round((piece.end - clip.start) * SAMPLE_RATE) + num_samples(1)]
    held = int(num_frames(len(waveform)))
    if held < sizes.window:
        held = len(waveform) // SHIFT  # a clip that is just as long as the window lacks its last frames, as in training
    if held < sizes.window:
        return
    samples, pairs = num_samples(sizes.context), kind_of(config.model).pairs
    for number, shown in enumerate(clip.frame_times):
        time = clip.start + shown
        if not begin <= time < min(until, piece.end):
            continue
        frame = round(shown * _FRAMES)  # of the piece's spectrogram
        context = int(np.clip(frame - sizes.context // 2, 0, max(0, held - sizes.context)))
        window = int(np.clip(frame - sizes.window // 2, context, min(context + sizes.context, held) - sizes.window))
        arrays = example(
            clip._replace(waveform=waveform),
            [number] if pairs else number,
            samples=samples,
            image_size=config.model.image_size,
            start=context * SHIFT,
        )
        del arrays["id"]
        arrays |= {"window": np.array([window - context], np.int32)} if pairs else {}
        yield Moment(time, clip.start + (window + sizes.window / 2) / _FRAMES, arrays)
