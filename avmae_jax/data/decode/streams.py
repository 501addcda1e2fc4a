"""Reads the audio and the images of a file, packet by packet, as pieces with their place on the file's clock.

Of several audio tracks the default one is taken, of several video streams the first with more than one frame: a cover or a thumbnail isn't
the film. A packet that can't be decoded is passed over, as players do, as long as no more is lost than may lack at the end of a file.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avmae_jax.data.decode.clock import Clock
from avmae_jax.data.decode.media import opened, refuse, reported
from avmae_jax.data.decode.pixels import Deinterlacer, shrink

_MISSING_SECONDS, _MISSING_SHARE = 0.5, 0.1  # a stream that lacks more than both of what was promised counts as truncated
_LOOK_AHEAD = 64 << 20  # bytes that are read while a stream hasn't shown its beginning
_PADDING = 1 << 20  # pixels that a decoder adds at the edges
_STALL = 30  # seconds that one stream may lag behind the other before the file is searched for its end; containers interleave within 1
_UNKNOWN_FRAME = Fraction(1, 25)  # seconds that a frame is taken to last where the file doesn't say
_REORDERED = 2  # frames by which encoders of AVI delay
_RESTARTING = ("mpegts", "mpeg")  # containers without an index, whose stamps may restart
_GUESSED = (*_RESTARTING, "mp3", "aac", "ac3", "eac3", "amr")  # their length is estimated, from a bit rate or from the end of the file
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")  # containers that give the length of each stream


class Piece(NamedTuple):
    """Is a decoded frame of audio or video, or the end of a stream."""

    stage: str  # "audio" | "video"
    frame: AudioFrame | VideoFrame | None  # None: the stream has ended
    time: Fraction | float  # seconds on the clock; exact for images


class Streams(NamedTuple):
    """Holds what of a file is used."""

    audio: AudioStream | None
    video: VideoStream | None
    max_pixels: int  # of an image


def choose(path: str | Path, container: InputContainer, *, allow_missing: bool, max_pixels: int) -> Streams:
    """Chooses the streams of a file.

    Raises:
      ClipError: if it has neither, or lacks one that may not be missing, or one can't be decoded here, or its images are too large.
    """
    audios = sorted(container.streams.audio, key=lambda stream: not stream.disposition & Disposition.default)
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not audios and not videos and allow_missing:
        refuse(path, "open", "has neither audio nor moving images")
    if not videos and not allow_missing:
        refuse(path, "video", "has no moving images")
    if not audios and not allow_missing:
        refuse(path, "audio", "has no audio")
    audio = next((stream for stream in audios if stream.codec_context), None)
    video = _moving(path, [stream for stream in videos if stream.codec_context])
    if audios and audio is None:
        refuse(path, "audio", "has audio in a coding that can't be decoded here")
    if videos and video is None:
        refuse(path, "video", "has images in a coding that can't be decoded here")
    if video is not None:
        _check_pixels(path, video.codec_context, max_pixels)
        video.codec_context.options = {"max_pixels": str(2 * max_pixels + _PADDING)}  # for a size that grows half-way
    return Streams(audio, video, max_pixels)


def _check_pixels(path: str | Path, image: VideoFrame | VideoCodecContext, max_pixels: int) -> None:
    """Refuses images that are too large."""
    if image.width * image.height > max_pixels:
        refuse(path, "video", f"has images of {image.width} x {image.height} pixels; max_pixels is {max_pixels}")


def _moving(path: str | Path, videos: list[VideoStream]) -> VideoStream | None:
    """Returns the first stream with more than one frame, or else the first one."""
    if len(videos) < 2:
        return videos[0] if videos else None
    counts = count_packets(path, [stream.index for stream in videos], enough=2)
    return next((stream for stream in videos if counts[stream.index] > 1), videos[0])


def count_packets(path: str | Path, indices: list[int], enough: int | None = None) -> dict[int, int]:
    """Counts the packets of streams without decoding them, up to `enough` of each."""
    counts = dict.fromkeys(indices, 0)
    with opened(path) as container, reported(path, "open"):
        for packet in _demuxed(container, [container.streams[index] for index in indices]):
            counts[packet.stream.index] += not _is_flush(packet)
            if enough is not None and min(counts.values()) >= enough:
                break
    return counts


def _demuxed(container: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet]:
    """Yields the packets of streams. Where others have appeared since the file was opened, PyAV fails at its end, behind all of them."""
    with suppress(IndexError):
        yield from container.demux(*streams)


def _is_flush(packet: Packet) -> bool:
    """Returns whether a packet only marks the end of its stream."""
    return packet.size == 0 and packet.dts is None and packet.pts is None


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
        self.clock = Clock(restarts=container.format.name in _RESTARTING)
        self._deinterlacer = Deinterlacer()
        self._lost = dict.fromkeys(self._used, Fraction(0))
        self._fed = dict.fromkeys(self._used, 0)
        self._totals: dict[str, int] = {}
        self._frame_lasts = _frame_seconds(streams.video) if streams.video else Fraction(0)
        self._moments = deque[Fraction]()  # of AVI, which numbers frames in the order of decoding: when the next ones are shown
        self._late = Fraction(0)  # of AVI: by how much all frames but the first are numbered too high
        self.ended: set[str] = set()

    def drop(self, stage: str) -> None:
        """Decodes no more of a stream."""
        self.ended.add(stage)

    def pieces(self) -> Iterator[Piece]:
        """Yields the pieces, and an end of each stream that isn't dropped before."""
        with reported(self._path, "open"):
            packets = _demuxed(self._container, list(self._used.values()))
        first, held = self._beginnings(packets)
        for stage, frame in first:
            yield from self._placed(stage, frame)
        for packet in self._read(packets, held):
            stage = self._stages[packet.stream.index]
            if stage in self.ended:
                continue
            if not _is_flush(packet):
                for frame in self._decode(stage, packet):
                    yield from self._placed(stage, frame)
                self._fed[stage] += 1
                self._search_end()
                for used in self._used:
                    if used not in self.ended and self._fed[used] == self._totals.get(used):
                        yield from self._end(used)
        for stage in self._used:
            if stage not in self.ended:
                yield from self._end(stage)

    def _beginnings(self, packets: Iterator[Packet]) -> tuple[list[tuple[str, Any]], deque[Packet]]:
        """Decodes until each stream has shown something, and starts the clock there."""
        waiting, size, held, first = set(self._used), 0, deque[Packet](), list[tuple[str, Any]]()
        while waiting and size < _LOOK_AHEAD:
            packet = self._next(packets)
            if packet is None:
                break
            size += packet.size
            stage = self._stages[packet.stream.index]
            if stage not in waiting:
                held.append(packet)
                continue
            frames = self._flush(stage) if _is_flush(packet) else self._decode(stage, packet)
            self._fed[stage] += not _is_flush(packet)
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

    def _read(self, packets: Iterator[Packet], held: deque[Packet]) -> Iterator[Packet]:
        while held:
            yield held.popleft()
        while (packet := self._next(packets)) is not None:
            yield packet

    def _next(self, packets: Iterator[Packet]) -> Packet | None:
        with reported(self._path, next(iter(self._used))):
            return next(packets, None)

    def _decode(self, stage: str, packet: Packet) -> list[Any]:
        """Decodes a packet. An empty one, which repeats a frame in Theora, gives nothing: a frame is shown until the next one comes."""
        if packet.size == 0:
            return []
        number = packet.dts if stage == "video" and self._container.format.name == "avi" else None
        if number is not None:
            self._count(number, Fraction(packet.time_base or 0))
        with reported(self._path, stage):
            try:
                return cast(list[Any], packet.decode())
            except InvalidDataError:
                if number is not None:
                    self._moments.pop()
                lasts = Fraction(packet.duration or 0) * (packet.time_base or 0)
                self._lost[stage] += lasts or _frame_seconds(self._used[stage])
                if self._lost[stage] > max(_MISSING_SECONDS, _MISSING_SHARE * self._needed):
                    raise
                return []

    def _count(self, number: int, lasts: Fraction) -> None:
        """Keeps when a packet of AVI is decoded. Encoders that may reorder leave numbers out behind the first frame, which is no pause."""
        if self._fed["video"] == 1 and number <= _REORDERED + 1:
            self._late = (number - 1) * lasts
        self._moments.append(number * lasts - self._late)

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
        return frames

    def _end(self, stage: str) -> Iterator[Piece]:
        for frame in self._flush(stage):
            yield from self._placed(stage, frame)
        if stage == "video":
            yield from self._pieces(stage, self._deinterlacer.finish())
        self.ended.add(stage)
        yield Piece(stage, None, self.clock.ends.get(stage, 0.0))

    def _placed(self, stage: str, frame: Any) -> Iterator[Piece]:
        if stage == "audio":
            yield self._piece(stage, frame)
            return
        _check_pixels(self._path, frame, self._streams.max_pixels)
        yield from self._pieces(stage, self._deinterlacer.add(frame))

    def _pieces(self, stage: str, frames: Iterator[Any]) -> Iterator[Piece]:
        with reported(self._path, stage):
            for frame in frames:
                yield self._piece(stage, frame)

    def _piece(self, stage: str, frame: Any) -> Piece:
        lasts = frame.samples / frame.sample_rate if stage == "audio" else self._frame_lasts
        try:
            time = self.clock.place(stage, self._stamp(stage, frame), lasts)
        except ValueError as error:
            refuse(self._path, stage, str(error))
        if stage == "video" and self._moments:
            self._moments.popleft()
        return Piece(stage, frame, time)

    def _stamp(self, stage: str, frame: Any) -> Fraction | float | None:
        """Returns when a frame is shown by the file: of AVI, the n-th frame is shown when the n-th packet is decoded."""
        if stage == "video" and self._container.format.name == "avi":
            return self._moments[0] if self._moments else None
        if stage == "audio" and frame.pts is not None and frame.time_base is not None:
            return frame.pts * frame.time_base.numerator / frame.time_base.denominator  # exact times would be slow, and aren't needed
        return frame_stamp(frame)

    def _search_end(self) -> None:
        """Counts the packets of a stream that lags far behind the other one: it may have ended long before the file."""
        ends = self.clock.ends
        for stage, stream in self._used.items():
            if stage not in self.ended and stage not in self._totals and max(ends.values(), default=0) - ends.get(stage, 0) > _STALL:
                self._totals[stage] = count_packets(self._path, [stream.index])[stream.index]

    def frame_seconds(self) -> Fraction:
        """Returns how long the last frame of the video is shown."""
        return _frame_seconds(self._used["video"])

    def promised(self, stage: str) -> float:
        """Returns up to which second the index of the container promises the stream; 0 where it says nothing of it."""
        stream = self._used[stage]
        if self._container.format.name not in _INDEXED or stream.duration is None or stream.time_base is None:
            return 0.0
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base - self.clock.origin)

    def promised_file(self) -> float:
        """Returns up to which second the header promises the longer one of the streams; 0 where it is only estimated."""
        name = self._container.format.name
        if name in _GUESSED:
            return 0.0
        if name == "asf":  # FFmpeg gives each stream the length of the file, and adds its beginning
            return max(
                0.0, *(float((stream.duration or 0) * (stream.time_base or 0) - self.clock.origin) for stream in self._used.values())
            )
        whole = (self._container.duration or 0) / av.time_base
        return max(0.0, whole - float(self.clock.origin)) if name.startswith("matroska") else whole

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
            self._check("video" if "video" in ends else last, ends[last], self.promised_file(), needed)

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
    return None if frame.pts is None or frame.time_base is None else Fraction(frame.pts) * frame.time_base


def _frame_seconds(stream: Stream) -> Fraction:
    rate = cast(Any, stream).average_rate if stream.type == "video" else None
    return 1 / Fraction(rate) if rate else _UNKNOWN_FRAME
