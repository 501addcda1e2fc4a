"""Reads the audio and the images of a file, packet by packet, as pieces with their place on the file's clock.

A packet that can't be decoded is passed over, as players do, as long as no more is lost than may lack at the end of a file.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avmae_jax.data.decode.avi_order import AviOrder
from avmae_jax.data.decode.choice import Streams, check_pixels, choose, count_packets, demuxed, is_flush
from avmae_jax.data.decode.clock import Clock
from avmae_jax.data.decode.headers import missing_share, promised_seconds
from avmae_jax.data.decode.media import failed, opened, refuse, reported
from avmae_jax.data.decode.pixels import Deinterlacer, shrink

_MISSING_SECONDS, _MISSING_SHARE = 0.5, 0.1  # a stream that lacks more than both of what was promised counts as truncated
_LOOK_AHEAD = 64 << 20  # bytes that are read while a stream hasn't shown its beginning
_STALL = 30  # seconds that one stream may lag behind the other before the file is searched for its end; containers interleave within 1
_UNKNOWN_FRAME = Fraction(1, 25)  # seconds that a frame is taken to last where the file doesn't say
_RESTARTING = ("mpegts", "mpeg")  # containers without an index, whose stamps may restart
# FFmpeg estimates their length from a bit rate, from the end of the file, or, of ASF, as that of the file for each stream.
_GUESSED = (*_RESTARTING, "mp3", "aac", "ac3", "eac3", "amr", "asf")
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")  # containers that give the length of each stream


class Piece(NamedTuple):
    """Is a decoded frame of audio or video, or the end of a stream."""

    stage: str  # "audio" | "video"
    frame: AudioFrame | VideoFrame | None  # None: the stream has ended
    time: Fraction | float  # seconds on the clock; exact for images


class Reader:
    """Reads pieces in the order of the file."""

    def __init__(self, path: str | Path, container: InputContainer, streams: Streams, needed: float) -> None:
        """Reads nothing yet.

        Args:
          path: the file.
          container: the file, opened; nobody else reads from it.
          streams: what is read of it.
          needed: seconds that will be read at most.
        """
        self._path, self._container, self._streams, self._needed = path, container, streams, needed
        self._used: dict[str, AudioStream | VideoStream] = {
            stage: stream for stage, stream in (("audio", streams.audio), ("video", streams.video)) if stream
        }
        self._stages = {stream.index: stage for stage, stream in self._used.items()}
        self._format = container.format.name
        self.clock = Clock(restarts=self._format in _RESTARTING)
        self._deinterlacer = Deinterlacer()
        self._lost = dict.fromkeys(self._used, Fraction(0))
        self._fed = dict.fromkeys(self._used, 0)
        self._totals: dict[str, int] = {}
        self._frame_lasts = _frame_seconds(streams.video) if streams.video else Fraction(0)
        self._order = AviOrder() if self._format == "avi" else None
        self.ended: set[str] = set()

    def drop(self, stage: str) -> None:
        """Decodes no more of a stream."""
        self.ended.add(stage)

    def pieces(self) -> Iterator[Piece]:
        """Yields the pieces, and an end of each stream that isn't dropped before."""
        packets = self._packets()
        first, held = self._beginnings(packets)
        for stage, frame in first:
            yield from self._placed(stage, frame)
        for packet in itertools.chain(_emptied(held), packets):
            stage = self._stages[packet.stream.index]
            if stage in self.ended or is_flush(packet):
                continue
            for frame in self._decode(stage, packet):
                yield from self._placed(stage, frame)
            self._fed[stage] += 1
            self._search_end()
            if self._totals:
                for used in self._used:
                    if used not in self.ended and self._fed[used] == self._totals.get(used):
                        yield from self._end(used)
        for stage in self._used:
            if stage not in self.ended:
                yield from self._end(stage)

    def _packets(self) -> Iterator[Packet]:
        with reported(self._path, next(iter(self._used))):
            yield from demuxed(self._container, list(self._used.values()))

    def _beginnings(self, packets: Iterator[Packet]) -> tuple[list[tuple[str, Any]], deque[Packet]]:
        """Decodes until each stream has shown something, and starts the clock there."""
        waiting, size, held, first = set(self._used), 0, deque[Packet](), list[tuple[str, Any]]()
        while waiting and size < _LOOK_AHEAD:
            packet = next(packets, None)
            if packet is None:
                break
            size += packet.size
            stage = self._stages[packet.stream.index]
            if stage not in waiting:
                held.append(packet)
                continue
            frames = self._flush(stage) if is_flush(packet) else self._decode(stage, packet)
            self._fed[stage] += not is_flush(packet)
            first += [(stage, frame) for frame in frames]
            if frames:
                waiting.discard(stage)
        firsts: dict[str, Fraction] = {}
        audio_frame = Fraction(0)
        for stage, frame in first:
            stamp = self._stamp(stage, frame)
            if stamp is not None:
                firsts.setdefault(stage, Fraction(stamp))
            if stage == "audio":
                audio_frame = max(audio_frame, Fraction(frame.samples, frame.sample_rate))
        self.clock.start(firsts, audio_frame)
        return first, held

    def _decode(self, stage: str, packet: Packet) -> list[Any]:
        """Decodes a packet. An empty one, which repeats a frame in Theora, gives nothing: a frame is shown until the next one comes."""
        if packet.size == 0:
            return []
        order = self._order if stage == "video" and packet.dts is not None else None
        if order:
            order.add(cast(int, packet.dts))
        try:
            frames = cast(list[Any], packet.decode())
        except InvalidDataError as error:
            if order:
                order.drop()
            lasts = Fraction(packet.duration or 0) * (packet.time_base or 0)
            self._lost[stage] += lasts or _frame_seconds(self._used[stage])
            if self._lost[stage] > max(_MISSING_SECONDS, _MISSING_SHARE * self._needed):
                raise failed(self._path, stage, error) from error
            return []
        except FFmpegError as error:
            raise failed(self._path, stage, error) from error
        if order and frames:
            order.stamp(frames)
        return frames

    def _flush(self, stage: str) -> list[Any]:
        """Decodes what the decoder holds back."""
        stream = self._used[stage]
        with reported(self._path, stage):
            try:
                frames = cast(list[Any], stream.decode(None))
            except (InvalidDataError, EOFError):  # after damage; or flushed before
                return []
        for frame in frames:
            frame.time_base = frame.time_base or stream.time_base  # PyAV takes it from a packet
        if stage == "video" and self._order:
            self._order.stamp_last(frames)
        return frames

    def _end(self, stage: str) -> Iterator[Piece]:
        for frame in self._flush(stage):
            yield from self._placed(stage, frame)
        if stage == "video":
            yield from self._images(self._deinterlacer.finish())
        self.ended.add(stage)
        yield Piece(stage, None, self.clock.ends.get(stage, 0.0))

    def _placed(self, stage: str, frame: Any) -> Iterable[Piece]:
        if stage == "audio":
            return (self._piece(stage, frame, frame.samples / frame.sample_rate),)
        check_pixels(self._path, frame, self._streams.max_pixels)
        return self._images(self._deinterlacer.add(frame))

    def _images(self, frames: Iterable[VideoFrame]) -> Iterator[Piece]:
        try:
            for frame in frames:
                yield self._piece("video", frame, self._frame_lasts)
        except FFmpegError as error:
            raise failed(self._path, "video", error) from error

    def _piece(self, stage: str, frame: Any, lasts: Fraction | float) -> Piece:
        try:
            time = self.clock.place(stage, self._stamp(stage, frame), lasts)
        except ValueError as error:
            refuse(self._path, stage, str(error))
        return Piece(stage, frame, time)

    def _stamp(self, stage: str, frame: Any) -> Fraction | float | None:
        if stage == "video":
            return frame_stamp(frame)
        unit = frame.time_base
        if frame.pts is None or unit is None:
            return None
        return frame.pts * unit.numerator / unit.denominator  # exact times would be slow, and aren't needed

    def _search_end(self) -> None:
        """Counts the packets of a stream that lags far behind the other one: it may have ended long before the file."""
        ends = self.clock.ends
        if len(self._used) < 2 or abs(ends.get("audio", 0) - ends.get("video", 0)) <= _STALL:
            return
        for stage, stream in self._used.items():
            if stage not in self.ended and stage not in self._totals and max(ends.values()) - ends.get(stage, 0) > _STALL:
                self._totals[stage] = count_packets(self._path, [stream.index])[stream.index]

    def frame_seconds(self) -> Fraction:
        """Returns how long the last frame of the video is shown."""
        return _frame_seconds(self._used["video"])

    def promised(self, stage: str) -> float:
        """Returns up to which second the index of the container promises the stream; 0 where it says nothing of it."""
        stream = self._used[stage]
        if self._format not in _INDEXED or stream.time_base is None:
            return 0.0
        # The header of an AVI gives the length in these units; of a file that is cut, FFmpeg's duration is that of what is left.
        length = max(stream.duration or 0, stream.frames if self._format == "avi" else 0)
        return float(((stream.start_time or 0) + length) * stream.time_base - self.clock.origin) if length else 0.0

    def promised_file(self) -> float:
        """Returns up to which second the header promises the longer one of the streams; 0 where it is only estimated."""
        if self._format in _GUESSED:
            return max(0.0, promised_seconds(self._path, self._format) - float(self.clock.origin))
        whole = (self._container.duration or 0) / av.time_base
        return max(0.0, whole - float(self.clock.origin)) if self._format.startswith("matroska") else whole

    def check_stream(self, stage: str, end: float, needed: float) -> None:
        """Refuses a file in which a stream ends, at `end`, before the index of the container promises it."""
        self._check(stage, end, self.promised(stage), needed)

    def check_complete(self, ends: dict[str, float], needed: float) -> None:
        """Refuses a file that ends before its index promises a stream, or before its header promises both.

        Args:
          ends: seconds on the clock at which streams end.
          needed: seconds that count.
        """
        for stage in ("video", "audio"):
            if stage in ends:
                self.check_stream(stage, ends[stage], needed)
        if ends:
            last = max(ends, key=lambda stage: (ends[stage], stage == "video"))
            promised = max(self.promised_file(), ends[last] * missing_share(self._path, self._format))
            self._check("video" if "video" in ends else last, ends[last], promised, needed)

    def _check(self, stage: str, end: float, promised: float, needed: float) -> None:
        needed = min(promised, needed)
        if needed - end > max(_MISSING_SECONDS, _MISSING_SHARE * needed):
            refuse(self._path, stage, f"is truncated: its {stage} ends after {end:.2f} s, its header promises {promised:.2f} s")


def decode_again(path: str | Path, wanted: dict[int, Fraction | None], size: int, max_pixels: int) -> dict[int, np.ndarray]:
    """Decodes frames that were passed over.

    Args:
      path: the file.
      wanted: number in the order of display -> stamp in the file. Where all have one, the file is searched for them from near there on.
      size: of the result.
      max_pixels: most pixels of an image.

    Returns:
      Number -> uint8[size, size, 3].
    """
    stamps = {stamp: number for number, stamp in wanted.items() if stamp is not None}
    found: dict[int, np.ndarray] = {}
    for seek in (True, False):
        with opened(path) as container:
            streams = choose(path, container, allow_missing=True, max_pixels=max_pixels)._replace(audio=None)
            seek = seek and len(stamps) == len(wanted) and container.format.name not in (*_RESTARTING, "avi")
            if seek:
                try:
                    container.seek(round((min(stamps) - 1) * av.time_base))
                except FFmpegError:  # FLV has no index, say
                    continue
            aspect = streams.video.sample_aspect_ratio if streams.video else None
            frames = (piece.frame for piece in Reader(path, container, streams, math.inf).pieces())
            for place, frame in enumerate(frame for frame in frames if isinstance(frame, VideoFrame)):
                number = stamps.get(frame_stamp(frame) or Fraction(-1)) if seek else place
                if number in wanted:
                    found[number] = shrink(frame, size, aspect)
                    if len(found) == len(wanted):
                        return found
    return found


def frame_stamp(frame: Any) -> Fraction | None:
    """Returns the stamp of a frame in seconds, as the file has it."""
    unit = frame.time_base
    return None if frame.pts is None or unit is None else Fraction(frame.pts * unit.numerator, unit.denominator)


def _emptied(queue: deque[Packet]) -> Iterator[Packet]:
    """Yields what a queue holds, and lets go of it."""
    while queue:
        yield queue.popleft()


def _frame_seconds(stream: Stream) -> Fraction:
    rate = cast(Any, stream).average_rate if stream.type == "video" else None
    return 1 / Fraction(rate) if rate else _UNKNOWN_FRAME
