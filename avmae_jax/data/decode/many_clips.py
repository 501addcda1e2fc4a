"""Cuts a long media file into clips, decoded once, in memory that doesn't grow with its length.

Clip k covers the file from second k * stride on, by the clock of data/decode/clock.py, for the length of a clip. Its frames are found by
time, as data/decode/frames.py says, since how many frames a window will have isn't known while it is read. At a constant rate of whole
frames a clip these are the frames that data/decode/one_clip.py finds by counting; at others some may differ by one.

Where one stream begins later or ends earlier than the other, clips of that part have one modality, if that is allowed; else they are left
out. A video of a single image is a still, which is shown from the beginning to the end of the audio.

The rest behind the last whole clip becomes a shorter one, with fewer frames, if it is at least half as long; a shorter file gives what it
has. With rest="whole", the last clip is a whole one that ends with the file instead.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame

from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.audio import AudioLine, check_long_enough
from avmae_jax.data.decode.choice import Streams, choose
from avmae_jax.data.decode.clock import JITTER
from avmae_jax.data.decode.form import SPECTROGRAM_WINDOW, ClipForm, clip_samples
from avmae_jax.data.decode.frames import Frame, FrameLine, chosen
from avmae_jax.data.decode.media import IMAGE_SUFFIXES, opened, refuse
from avmae_jax.data.decode.one_clip import decode_image_file
from avmae_jax.data.decode.pixels import encode_jpeg
from avmae_jax.data.decode.streams import Piece, Reader, decode_again

Rest = Literal["short", "whole"]

_SHORTEST_REST = Fraction(1, 2)  # of a clip
_DRAINED = 100  # pieces of audio that are dropped together


def cut_clips(
    path: str | Path, *, clip_id: str, labels: Sequence[int] = (), stride: float = 10.0, form: ClipForm | None = None
) -> Iterator[Clip]:
    """Yields the clips of cut_timed without their lengths."""
    for clip, _ in cut_timed(path, clip_id=clip_id, labels=labels, stride=stride, form=form):
        yield clip


def cut_timed(
    path: str | Path,
    *,
    clip_id: str,
    labels: Sequence[int] = (),
    stride: float = 10.0,
    form: ClipForm | None = None,
    rest: Rest = "short",
) -> Iterator[tuple[Clip, float]]:
    """Decodes a media file from beginning to end.

    Args:
      path: a local file in a common container.
      clip_id: `video` of every clip; its own id is `<clip_id>@<start in seconds>`.
      labels: of every clip.
      stride: seconds from the start of a clip to that of the next.
      form: what a clip holds; None: the defaults. Its max_mismatch counts for the whole file.
      rest: what becomes of the rest behind the last whole clip. "short": a shorter clip, if it is at least half as long. "whole": a clip
        that is moved back until it is whole, and ends with the file, unless the one before it does.

    Yields:
      The clips in order of time, each as soon as it is complete, and how many seconds of it the file has: less than form.seconds in the
      last ones, 0 of an image file. Waveform and frames are as from data/decode/one_clip.py's decode_clip; frame times are seconds after
      the clip's start, and 0 for a frame that was already shown then.

    Raises:
      ClipError: if the file can't be opened, lacks audio or video, is damaged anywhere, or has a longer mismatch; some clips may have been
        yielded by then.
      ValueError: if the form counts frames: the original has no second clip of a file.
    """
    form = form or ClipForm()
    if form.frame_rule != "time":
        raise ValueError(f"frame_rule is {form.frame_rule!r}, which is defined for the first clip of a file alone; cut clips by 'time'")
    if form.allow_missing and Path(path).suffix.lower() in IMAGE_SUFFIXES:
        yield decode_image_file(path, clip_id=f"{clip_id}@0", labels=labels, form=form)._replace(video=clip_id), 0.0
        return
    with opened(path) as container:
        streams = choose(path, container, allow_missing=form.allow_missing, max_pixels=form.max_pixels)
        for start, has, clip in _Cutter(path, container, streams, form, Fraction(stride), rest).windows():
            yield clip._replace(id=f"{clip_id}@{start:g}", video=clip_id, labels=tuple(labels), start=start), has


class _Cutter:
    """Cuts the windows of one file."""

    def __init__(self, path: str | Path, container: InputContainer, streams: Streams, form: ClipForm, step: Fraction, rest: Rest) -> None:
        self._path, self._form, self._step, self._whole = path, form, step, rest == "whole"
        self._length, self._samples = Fraction(form.seconds), clip_samples(form.seconds)
        self._reader = Reader(path, container, streams, (container.duration or 0) / av.time_base)
        self._audio = AudioLine(path, form.channels) if streams.audio else None
        aspect = streams.video.sample_aspect_ratio if streams.video else None
        self._video = FrameLine(step, form, aspect, remembers=self._whole) if streams.video else None
        self._heard = self._audio is None  # whether the audio has ended
        self._steps = self._read()

    def windows(self) -> Iterator[tuple[float, float, Clip]]:
        """Yields start, length and content of each window."""
        length, whole, start, left, before = self._length, self._whole, Fraction(0), Fraction(0), Fraction(0)
        for index in itertools.count():
            start = index * self._step
            enough = math.ceil(start * SAMPLE_RATE) + self._samples
            while not self._reached(enough, index):
                next(self._steps, None)
            left = self._left(start)
            if left <= 0 or (index and left < (length if whole else length * _SHORTEST_REST)):
                break
            clip = self._window(start, self._video.window(index) if self._video else [])
            if clip is not None:
                yield float(start), float(min(length, left)), clip
            before = start
            if self._audio:
                self._audio.forget(round((start if whole else start + self._step) * SAMPLE_RATE))
            if self._video:
                self._video.forget(start)
        last = start + left - length
        if whole and last > before + JITTER:
            while not all(self._over(stage) or end > last + length for stage, end in self._reader.clock.ends.items()):
                next(self._steps, None)
            clip = self._window(last, self._frames_at(last))
            if clip is not None:
                yield float(last), float(length), clip
        self._drain()
        self._check_whole()

    def _read(self) -> Iterator[None]:
        """Takes pieces, and stops for a moment after each."""
        for piece in self._reader.pieces():
            yield from self._take(piece)
            yield

    def _take(self, piece: Piece) -> Iterator[None]:
        if self._video and piece.stage == "video":
            if isinstance(piece.frame, VideoFrame):
                self._video.add(piece.frame, Fraction(piece.time))
            else:
                self._video.finish(self._reader.frame_seconds())
        elif self._audio:
            if piece.frame is None:
                self._audio.finish()
                self._heard = True
            else:
                yield from self._audio.add(piece.frame, piece.time)  # pyright: ignore[reportArgumentType] - audio

    @property
    def _ended(self) -> bool:
        return self._over("audio") and self._over("video")

    def _over(self, stage: str) -> bool:
        """Returns whether a stream has ended."""
        return self._heard if stage == "audio" else self._video is None or self._video.ended

    def _reached(self, samples: int, window: int) -> bool:
        """Returns whether so many samples are there, and all frames of a window."""
        heard = not self._audio or self._heard or self._audio.end >= samples
        return heard and (not self._video or self._video.complete(window))

    def _ends(self) -> dict[str, Fraction]:
        """Returns how many seconds each stream has so far; a still beside audio has no length."""
        ends = {"audio": Fraction(self._audio.end, SAMPLE_RATE)} if self._audio else {}
        if self._video and not (self._video.still and ends.get("audio")):
            ends["video"] = self._video.end
        return ends

    def _left(self, start: Fraction) -> Fraction:
        """Returns how much there is from a window's start on, more than a window where that isn't known yet.

        The windows end with the streams that the form says; with the shorter one if none may be missing.
        """
        ends, spans = self._ends(), self._form.spans if self._form.allow_missing else "shorter"
        if spans == "longer":
            return max(ends.values()) - start if self._ended else 2 * self._length
        if self._form.allow_missing:  # or else a stream without content is refused
            ends = {stage: end for stage, end in ends.items() if end or not self._over(stage)}
        named = "video" if spans == "image" else spans
        ends = {named: ends[named]} if named in ends else ends
        open_ended = start + 2 * self._length
        return min((end if self._over(stage) else max(end, open_ended) for stage, end in ends.items()), default=open_ended) - start

    def _drain(self) -> None:
        """Reads what is left of the file, without keeping it."""
        if not self._ended and self._video:
            self._video.close()
        for number, _ in enumerate(self._steps):
            if self._audio and number % _DRAINED == 0:
                self._audio.forget(self._audio.end)

    def _window(self, start: Fraction, frames: Sequence[Frame]) -> Clip | None:
        """Returns a window as a clip without a name; None if it lacks what may not be missing."""
        waveform, channel = self._audio.window(round(start * SAMPLE_RATE), self._samples) if self._audio else (np.zeros(0, np.int16), 0)
        if self._form.allow_missing and frames and len(waveform) < SPECTROGRAM_WINDOW:
            waveform = waveform[:0]
        elif self._audio and (len(waveform) or not frames):
            check_long_enough(self._path, waveform)
        if not self._form.allow_missing and not (frames and len(waveform)):
            return None
        times = tuple(float(max(Fraction(0), frame.time - start)) for frame in frames)
        return Clip("", waveform, tuple(frame.jpeg for frame in frames), (), frame_times=times, channel=channel)

    def _frames_at(self, start: Fraction) -> list[Frame]:
        """Returns the frames of the last window, which begins where no window was expected: some are decoded again."""
        video = self._video
        if video is None or video.still:
            return video.window(-1) if video else []
        count = self._form.frames
        indices = chosen([shown.time for shown in video.recent], video.end, start, self._length / count, count)
        wanted = [video.recent[index] for index in indices]
        jpegs = {frame.time: frame.jpeg for frame in video.kept}
        lacking = {shown.number: shown.stamp for shown in wanted if shown.time not in jpegs}
        found = decode_again(self._path, lacking, self._form.frame_size, self._form.max_pixels) if lacking else {}
        jpegs |= {shown.time: encode_jpeg(found[shown.number]) for shown in wanted if shown.number in found}
        return [Frame(shown.time, jpegs[shown.time]) for shown in wanted if shown.time in jpegs]

    def _check_whole(self) -> None:
        """Refuses a file of which less was decoded than its header promises, or whose audio and video differ too much."""
        ends = {stage: float(end) for stage, end in self._ends().items()}
        empty = [stage for stage in ("audio", "video") if ends.get(stage) == 0]
        if empty and (len(empty) == len(ends) or not self._form.allow_missing):
            refuse(self._path, empty[0], "has nothing that can be decoded")
        self._reader.check_complete({stage: end for stage, end in ends.items() if end}, float("inf"))
        if len(ends) == 2 and abs(ends["audio"] - ends["video"]) > self._form.max_mismatch:
            refuse(self._path, "length", f"has {ends['audio']:.2f} s of audio and {ends['video']:.2f} s of video")
