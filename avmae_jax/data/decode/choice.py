"""Chooses the streams of a file that are used.

Of several audio tracks the default one is taken, of several video streams the first with more than one frame: a cover or a thumbnail isn't
the film.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avmae_jax.data.decode.media import opened, refuse, reported

_PADDING = 1 << 20  # pixels that a decoder adds at the edges


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
        check_pixels(path, video.codec_context, max_pixels)
        video.codec_context.options = {"max_pixels": str(2 * max_pixels + _PADDING)}  # for a size that grows half-way
    return Streams(audio, video, max_pixels)


def check_pixels(path: str | Path, image: VideoFrame | VideoCodecContext, max_pixels: int) -> None:
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
        for packet in demuxed(container, [container.streams[index] for index in indices]):
            counts[packet.stream.index] += not is_flush(packet)
            if enough is not None and min(counts.values()) >= enough:
                break
    return counts


def demuxed(container: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet]:
    """Yields the packets of streams. Where others have appeared since the file was opened, PyAV fails at its end, behind all of them."""
    with suppress(IndexError):
        yield from container.demux(*streams)


def is_flush(packet: Packet) -> bool:
    """Returns whether a packet only marks the end of its stream."""
    return packet.size == 0 and packet.dts is None and packet.pts is None
