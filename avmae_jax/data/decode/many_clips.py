"""A long video -> many clips, decoded once, in memory that doesn't grow with its length.

Clip k is what is heard and seen from second k * stride on, for the length of a clip. The ten frames are found by time, since how many
frames a window will have isn't known while it is read: frame i is the last one that is over after i tenths of the clip, or the first one.
At a constant rate of whole frames a clip these are the frames that data/decode/one_clip.py finds by counting; at others some may differ by
one.

The rest behind the last whole clip becomes a shorter one, with fewer frames, if it is at least half as long; a shorter video gives what
it has. Sound and pictures count their seconds each from their own beginning, as everywhere here. Where one of the two is missing and may
be, the other is cut in the same way.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import soxr
from av.container import InputContainer
from av.video.frame import VideoFrame

from avmae_jax.config import Modality
from avmae_jax.data.catalog.media_folder import PICTURE_SUFFIXES
from avmae_jax.data.clip import NUM_FRAMES, SAMPLE_RATE, Clip
from avmae_jax.data.decode.media import (
    audio_stream,
    encode_jpeg,
    modalities,
    one_channel,
    opened,
    promised,
    refuse,
    reported,
    shrink,
    video_stream,
)
from avmae_jax.data.decode.one_clip import check_complete, clip_samples, decode_clip, to_int16

_SHORTEST_REST = Fraction(1, 2)  # of a clip
_MOMENT = Fraction(1, 10**6)  # seconds; no window opens at the very end
_UNKNOWN_RATE = Fraction(1, 25)  # seconds that a frame is taken to last where the file doesn't say


def cut_clips(path: str | Path, **options: Any) -> Iterator[Clip]:
    """The clips alone of cut_timed, which has the arguments and the errors."""
    for clip, _ in cut_timed(path, **options):
        yield clip


def cut_timed(
    path: str | Path,
    *,
    clip_id: str,
    labels: Sequence[int] = (),
    seconds: float = 10.0,
    stride: float = 10.0,
    frame_size: int = 224,
    mix_channels: bool = False,
    allow_missing: bool = False,
    max_mismatch: float = math.inf,
) -> Iterator[tuple[Clip, float]]:
    """Decodes a media file from beginning to end.

    Args:
      path: a local file in a common container, with sound and pictures.
      clip_id: `video` of every clip; its own id is `<clip_id>@<start in seconds>`.
      labels: of every clip.
      seconds: length of a clip.
      stride: seconds from the start of a clip to that of the next.
      frame_size: side of the stored frames in pixels.
      mix_channels: take the mean of all audio channels instead of the first one.
      allow_missing: a file with sound alone, or pictures alone, gives clips of one modality; a JPEG or PNG gives one clip.
      max_mismatch: seconds by which sound and pictures may differ in length.

    Yields:
      The clips in order of time, each as soon as it is complete, and how many seconds there are of it: less than asked for in the last
      ones, 0 of a picture file. Waveform and frames are as from data/decode/one_clip.py's decode_clip.

    Raises:
      ClipError: if the file can't be opened, has no sound or no pictures, is damaged anywhere, or has a longer mismatch; some clips may
        have been yielded by then.
    """
    if allow_missing and Path(path).suffix.lower() in PICTURE_SUFFIXES:
        picture = decode_clip(path, clip_id=f"{clip_id}@0", labels=labels, frame_size=frame_size, allow_missing=True)
        yield picture._replace(video=clip_id), 0.0
        return
    has = modalities(path) if allow_missing else "both"
    length, step = Fraction(seconds), Fraction(stride)
    sound, pictures = _Sound(path, mix_channels), _Pictures(length, step, frame_size)
    with opened(path) as container:
        streams = _Streams(path, container, has)
        for index in itertools.count():
            start = index * step
            samples = clip_samples(seconds)
            while not (streams.ended or streams.reached(sound, start * SAMPLE_RATE + samples, pictures, index)):
                streams.feed(sound, pictures)
            end = streams.end(sound, pictures)
            if streams.ended and end - start < length * _SHORTEST_REST and (index or end <= start):
                break
            heard, frames = sound.window(round(start * SAMPLE_RATE), samples), pictures.window(index)
            waveform = to_int16(path, heard) if streams.audio else np.zeros(0, np.int16)
            clip = Clip(f"{clip_id}@{float(start):g}", waveform, frames, tuple(labels), clip_id, float(start))
            yield clip, float(min(length, end - start) if streams.ended else length)
            sound.forget(round((start + step) * SAMPLE_RATE))
        _check_whole(path, container, streams, sound, pictures, max_mismatch)


def _check_whole(
    path: str | Path, container: InputContainer, streams: "_Streams", sound: "_Sound", pictures: "_Pictures", max_mismatch: float
) -> None:
    """Refuses a file of which less was decoded than its header promises; called at its end."""
    decoded = [("audio", streams.audio, Fraction(sound.end, SAMPLE_RATE)), ("video", streams.video, pictures.end)]
    for stage, stream, end in decoded:
        if stream and end == 0:
            refuse(path, stage, "has nothing that can be decoded")
    for stage, stream, end in decoded:
        if stream:
            whole = promised(container, stream)
            check_complete(path, stage, float(end), whole, whole)
    heard, shown = sound.end / SAMPLE_RATE, float(pictures.end)
    if streams.audio and streams.video and abs(heard - shown) > max_mismatch:
        refuse(path, "length", f"has {heard:.2f} s of sound and {shown:.2f} s of pictures")


class _Streams:
    """The packets of both streams, or of the one that there is, in the order of the file."""

    def __init__(self, path: str | Path, container: InputContainer, has: Modality) -> None:
        self._path = path
        self.audio = None if has == "image" else audio_stream(path, container)
        self.video = None if has == "audio" else video_stream(path, container)
        self._packets = container.demux(*filter(None, (self.audio, self.video)))
        self.ended = False

    def reached(self, sound: "_Sound", sample: Fraction, pictures: "_Pictures", window: int) -> bool:
        """Whether the sound is there up to a sample, and all pictures of a window."""
        return (not self.audio or sound.end >= sample) and (not self.video or pictures.complete(window))

    def end(self, sound: "_Sound", pictures: "_Pictures") -> Fraction:
        """Seconds that there are so far of what there is."""
        ends = [Fraction(sound.end, SAMPLE_RATE)] if self.audio else []
        return min([*ends, pictures.end] if self.video else ends)

    def feed(self, sound: "_Sound", pictures: "_Pictures") -> None:
        """Decodes the next packet, or what the resampler still holds."""
        with reported(self._path, "audio" if self.audio else "video"):
            packet = next(self._packets, None)
        if packet is None:
            self.ended = True
            sound.finish()
            rate = self.video.average_rate if self.video else None
            pictures.finish(1 / rate if rate else _UNKNOWN_RATE)
            return
        stage = "audio" if packet.stream is self.audio else "video"
        if packet.is_corrupt:
            refuse(self._path, stage, f"is damaged or truncated: a packet of its {stage} is incomplete")
        with reported(self._path, stage):
            frames = cast(Sequence[Any], packet.decode())
        taker: _Sound | _Pictures = sound if stage == "audio" else pictures
        for frame in frames:
            taker.add(frame)


class _Sound:
    """The sound at 16 kHz, from what is still needed on."""

    def __init__(self, path: str | Path, mix: bool) -> None:
        self._path, self._mix = path, mix
        self._resampler: soxr.ResampleStream | None = None
        self._rate = 0
        self._chunks: list[np.ndarray] = []
        self._begin = 0  # sample at which the chunks begin
        self.end = 0  # samples so far

    def add(self, frame: Any) -> None:
        """Takes the next frame."""
        if self._resampler is None:
            self._rate = frame.sample_rate
            self._resampler = soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32")
        elif frame.sample_rate != self._rate:
            refuse(self._path, "audio", f"changes its sample rate from {self._rate} to {frame.sample_rate} Hz half-way")
        self._append(self._resampler.resample_chunk(one_channel(frame, self._mix)))

    def finish(self) -> None:
        """Takes what the resampler holds."""
        if self._resampler is not None:
            self._append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    def window(self, start: int, samples: int) -> np.ndarray:
        """float32[N], N <= samples."""
        self._chunks = [np.concatenate([*self._chunks, np.zeros(0, np.float32)])]
        return self._chunks[0][start - self._begin : start - self._begin + samples]

    def forget(self, until: int) -> None:
        """Drops what lies before a sample; called after window."""
        kept = self._chunks[0][max(0, until - self._begin) :]
        self._begin, self._chunks = self.end - len(kept), [kept.copy()]

    def _append(self, chunk: np.ndarray) -> None:
        self._chunks.append(chunk)
        self.end += len(chunk)


class _Pictures:
    """The frames of the windows that have begun and aren't complete."""

    def __init__(self, length: Fraction, step: Fraction, size: int) -> None:
        self._length, self._step, self._size = length, step, size
        self._windows: dict[int, list[bytes]] = {}
        self._next = 0  # the first window that hasn't begun
        self._first: Fraction | None = None  # time of the first frame
        self._before: list[tuple[Fraction, VideoFrame]] = []  # the last two frames; the earlier one is known to be over
        self._encoded: tuple[Fraction, bytes] | None = None  # the last one that was asked for; windows that overlap share it
        self.end = Fraction(0)  # seconds so far

    def complete(self, window: int) -> bool:
        """Whether a window has all of its frames."""
        return len(self._windows.get(window, ())) == NUM_FRAMES

    def window(self, window: int) -> tuple[bytes, ...]:
        """Its frames so far; they are forgotten."""
        return tuple(self._windows.pop(window, ()))

    def add(self, frame: VideoFrame) -> None:
        """Takes the next frame."""
        time = frame.pts * frame.time_base if frame.pts is not None and frame.time_base is not None else self.end
        self._first = time if self._first is None else self._first
        self.end = max(self.end, time - self._first)
        self._settle(self.end)
        self._open(self.end, frame)
        self._before = [*self._before[-1:], (self.end, frame)]

    def finish(self, last_shown: Fraction) -> None:
        """There are no more frames; the last one is shown for so many seconds."""
        if self._before:
            self._open(self.end + last_shown - _MOMENT)
            self.end += last_shown
            self._settle(self.end)
            self._before = self._before[-1:]
            self._settle(self.end + last_shown, until=self.end)

    def _open(self, until: Fraction, current: VideoFrame | None = None) -> None:
        """Opens every window that has begun, with the frame that is shown then: the current one if it comes within the first tenth."""
        while self._next * self._step <= until:
            first = self._next * self._step + self._length / NUM_FRAMES
            shown = (self.end, current) if current is not None and (not self._before or self.end < first) else self._before[-1]
            self._windows[self._next] = [self._encode(*shown)]
            self._next += 1

    def _settle(self, now: Fraction, until: Fraction | None = None) -> None:
        """Gives each open window the frames that were due before `now`, none of them later than `until`."""
        for window, frames in self._windows.items():
            while len(frames) < NUM_FRAMES:
                due = window * self._step + len(frames) * self._length / NUM_FRAMES
                if due >= now or (until is not None and due > until):
                    break
                over = self._before[0]
                frames.append(self._encode(*over) if over[0] >= window * self._step else frames[0])

    def _encode(self, time: Fraction, frame: VideoFrame) -> bytes:
        if self._encoded is None or self._encoded[0] != time:
            self._encoded = time, encode_jpeg(shrink(frame, self._size))
        return self._encoded[1]
