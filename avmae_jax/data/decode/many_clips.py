"""Cuts a long media file into clips, decoded once, in memory that doesn't grow with its length.

Clip k covers the file from second k * stride on, for the length of a clip. Its frames are found by time, since how many frames a window
will have isn't known while it is read: frame i of n is the last one that is over after i n-ths of the clip, or the first one. At a constant
rate of whole frames a clip these are the frames that data/decode/one_clip.py finds by counting; at others some may differ by one.

The rest behind the last whole clip becomes a shorter one, with fewer frames, if it is at least half as long; a shorter file gives what it
has. Audio and video count their seconds each from their own beginning, as everywhere here. Where one of the two is missing and may be, the
other is cut in the same way.
"""

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.video.frame import VideoFrame

from avmae_jax.config import Modality
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.media import (
    IMAGE_SUFFIXES,
    Resampler,
    audio_stream,
    encode_jpeg,
    modalities,
    opened,
    promised,
    refuse,
    reported,
    shrink,
    video_stream,
)
from avmae_jax.data.decode.one_clip import ClipForm, check_complete, clip_samples, decode_clip, to_int16

_SHORTEST_REST = Fraction(1, 2)  # of a clip
_MOMENT = Fraction(1, 10**6)  # seconds; no window opens at the very end
_UNKNOWN_RATE = Fraction(1, 25)  # seconds that a frame is taken to last where the file doesn't say


def cut_clips(
    path: str | Path, *, clip_id: str, labels: Sequence[int] = (), stride: float = 10.0, form: ClipForm | None = None
) -> Iterator[Clip]:
    """Yields the clips of cut_timed without their lengths."""
    for clip, _ in cut_timed(path, clip_id=clip_id, labels=labels, stride=stride, form=form):
        yield clip


def cut_timed(
    path: str | Path, *, clip_id: str, labels: Sequence[int] = (), stride: float = 10.0, form: ClipForm | None = None
) -> Iterator[tuple[Clip, float]]:
    """Decodes a media file from beginning to end.

    Args:
      path: a local file in a common container.
      clip_id: `video` of every clip; its own id is `<clip_id>@<start in seconds>`.
      labels: of every clip.
      stride: seconds from the start of a clip to that of the next.
      form: what a clip holds; None: the defaults. Its max_mismatch counts for the whole file.

    Yields:
      The clips in order of time, each as soon as it is complete, and how many seconds of it the file has: less than form.seconds in the
      last ones, 0 of an image file. Waveform and frames are as from data/decode/one_clip.py's decode_clip; frame times are seconds after
      the clip's start, and 0 for a frame that was already shown then.

    Raises:
      ClipError: if the file can't be opened, lacks audio or video, is damaged anywhere, or has a longer mismatch; some clips may have been
        yielded by then.
    """
    form = form or ClipForm()
    if form.allow_missing and Path(path).suffix.lower() in IMAGE_SUFFIXES:
        yield decode_clip(path, clip_id=f"{clip_id}@0", labels=labels, form=form)._replace(video=clip_id), 0.0
        return
    has = modalities(path) if form.allow_missing else "both"
    length, step, samples = Fraction(form.seconds), Fraction(stride), clip_samples(form.seconds)
    audio, frames = _Audio(path, form.mix_channels), _Frames(step, form)
    with opened(path) as container:
        streams = _Streams(path, container, has)
        for index in itertools.count():
            start = index * step
            while not (streams.ended or streams.reached(audio, start * SAMPLE_RATE + samples, frames, index)):
                streams.feed(audio, frames)
            end = streams.end(audio, frames)
            if streams.ended and end - start < length * _SHORTEST_REST and (index or end <= start):
                break
            heard, shown = audio.window(round(start * SAMPLE_RATE), samples), frames.window(index)
            waveform = to_int16(path, heard) if streams.audio else np.zeros(0, np.int16)
            images, times = tuple(frame.jpeg for frame in shown), tuple(float(max(Fraction(0), frame.time - start)) for frame in shown)
            clip = Clip(f"{clip_id}@{float(start):g}", waveform, images, tuple(labels), clip_id, float(start), times)
            yield clip, float(min(length, end - start) if streams.ended else length)
            audio.forget(round((start + step) * SAMPLE_RATE))
        _check_whole(path, container, streams, audio, frames, form.max_mismatch)


def _check_whole(
    path: str | Path, container: InputContainer, streams: "_Streams", audio: "_Audio", frames: "_Frames", max_mismatch: float
) -> None:
    """Refuses a file of which less was decoded than its header promises; called at its end."""
    decoded = [("audio", streams.audio, Fraction(audio.end, SAMPLE_RATE)), ("video", streams.video, frames.end)]
    for stage, stream, end in decoded:
        if stream and end == 0:
            refuse(path, stage, "has nothing that can be decoded")
    for stage, stream, end in decoded:
        if stream:
            whole = promised(container, stream)
            check_complete(path, stage, float(end), whole, whole)
    heard, shown = audio.end / SAMPLE_RATE, float(frames.end)
    if streams.audio and streams.video and abs(heard - shown) > max_mismatch:
        refuse(path, "length", f"has {heard:.2f} s of audio and {shown:.2f} s of video")


class _Streams:
    """Reads the packets of both streams, or of the one that there is, in the order of the file."""

    def __init__(self, path: str | Path, container: InputContainer, has: Modality) -> None:
        self._path = path
        self.audio = None if has == "image" else audio_stream(path, container)
        self.video = None if has == "audio" else video_stream(path, container)
        self._packets = container.demux(*filter(None, (self.audio, self.video)))
        self.ended = False

    def reached(self, audio: "_Audio", sample: Fraction, frames: "_Frames", window: int) -> bool:
        """Returns whether the audio is there up to a sample, and all frames of a window."""
        return (not self.audio or audio.end >= sample) and (not self.video or frames.complete(window))

    def end(self, audio: "_Audio", frames: "_Frames") -> Fraction:
        """Returns how many seconds have been decoded so far, of the shorter stream."""
        ends = [Fraction(audio.end, SAMPLE_RATE)] if self.audio else []
        return min([*ends, frames.end] if self.video else ends)

    def feed(self, audio: "_Audio", frames: "_Frames") -> None:
        """Decodes the next packet, or what the resampler still holds."""
        with reported(self._path, "audio" if self.audio else "video"):
            packet = next(self._packets, None)
        if packet is None:
            self.ended = True
            audio.finish()
            rate = self.video.average_rate if self.video else None
            frames.finish(1 / rate if rate else _UNKNOWN_RATE)
            return
        stage = "audio" if packet.stream is self.audio else "video"
        if packet.is_corrupt:
            refuse(self._path, stage, f"is damaged or truncated: a packet of its {stage} is incomplete")
        with reported(self._path, stage):
            decoded = cast(Sequence[Any], packet.decode())
        taker: _Audio | _Frames = audio if stage == "audio" else frames
        for frame in decoded:
            taker.add(frame)


class _Audio:
    """Holds the audio at 16 kHz, from what is still needed on."""

    def __init__(self, path: str | Path, mix: bool) -> None:
        self._resampler = Resampler(path, mix)
        self._chunks: list[np.ndarray] = []
        self._begin = 0  # sample at which the chunks begin
        self.end = 0  # samples so far

    def add(self, frame: AudioFrame) -> None:
        """Takes the next frame."""
        self._append(self._resampler.add(frame))

    def finish(self) -> None:
        """Takes what the resampler holds."""
        self._append(self._resampler.finish())

    def window(self, start: int, samples: int) -> np.ndarray:
        """Returns samples from `start` on: float32[N], N <= samples."""
        self._chunks = [np.concatenate([*self._chunks, np.zeros(0, np.float32)])]
        return self._chunks[0][start - self._begin : start - self._begin + samples]

    def forget(self, until: int) -> None:
        """Drops everything before a sample; called after window."""
        kept = self._chunks[0][max(0, until - self._begin) :]
        self._begin, self._chunks = self.end - len(kept), [kept.copy()]

    def _append(self, chunk: np.ndarray) -> None:
        self._chunks.append(chunk)
        self.end += len(chunk)


class _Frame(NamedTuple):
    """Holds a frame that a window keeps."""

    time: Fraction  # seconds after the first frame of the file
    jpeg: bytes


class _Frames:
    """Holds the frames of the windows that have begun and aren't complete."""

    def __init__(self, step: Fraction, form: ClipForm) -> None:
        self._step, self._size, self._count = step, form.frame_size, form.frames
        self._part = Fraction(form.seconds) / form.frames  # seconds from frame to frame of a clip
        self._windows: dict[int, list[_Frame]] = {}
        self._next = 0  # the first window that hasn't begun
        self._first: Fraction | None = None  # time of the first frame
        self._before: list[tuple[Fraction, VideoFrame]] = []  # the last two frames; the earlier one is known to be over
        self._encoded: _Frame | None = None  # the last one that was encoded; windows that overlap share it
        self.end = Fraction(0)  # seconds so far

    def complete(self, window: int) -> bool:
        """Returns whether a window has all of its frames."""
        return len(self._windows.get(window, ())) == self._count

    def window(self, window: int) -> list[_Frame]:
        """Returns a window's frames so far and forgets them."""
        return self._windows.pop(window, [])

    def add(self, frame: VideoFrame) -> None:
        """Takes the next frame."""
        time = frame.pts * frame.time_base if frame.pts is not None and frame.time_base is not None else self.end
        self._first = time if self._first is None else self._first
        self.end = max(self.end, time - self._first)
        self._settle(self.end)
        self._open(self.end, frame)
        self._before = [*self._before[-1:], (self.end, frame)]

    def finish(self, last_shown: Fraction) -> None:
        """Ends the video; the last frame is shown for so many seconds."""
        if self._before:
            self._open(self.end + last_shown - _MOMENT)
            self.end += last_shown
            self._settle(self.end)
            self._before = self._before[-1:]
            self._settle(self.end + last_shown, until=self.end)

    def _open(self, until: Fraction, current: VideoFrame | None = None) -> None:
        """Opens every window that has begun, with the frame shown then: the current one if it comes within the first n-th of the clip."""
        while self._next * self._step <= until:
            first = self._next * self._step + self._part
            shown = (self.end, current) if current is not None and (not self._before or self.end < first) else self._before[-1]
            self._windows[self._next] = [self._encode(*shown)]
            self._next += 1

    def _settle(self, now: Fraction, until: Fraction | None = None) -> None:
        """Gives each open window the frames that were due before `now`, none of them later than `until`."""
        for window, frames in self._windows.items():
            while len(frames) < self._count:
                due = window * self._step + len(frames) * self._part
                if due >= now or (until is not None and due > until):
                    break
                over = self._before[0]
                frames.append(self._encode(*over) if over[0] >= window * self._step else frames[0])

    def _encode(self, time: Fraction, frame: VideoFrame) -> _Frame:
        if self._encoded is None or self._encoded.time != time:
            self._encoded = _Frame(time, encode_jpeg(shrink(frame, self._size)))
        return self._encoded
