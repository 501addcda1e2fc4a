"""Writes files of several tracks whose packets lie at any time."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition

Move = Callable[[float], float]  # seconds of a packet -> where it is put


def same(seconds: float) -> float:
    return seconds


class Video(NamedTuple):
    """Is a track of frames, uint8[H, W, 3]."""

    frames: Sequence[np.ndarray]
    rate: int = 10
    codec: str = "mpeg4"
    move: Move = same
    default: bool = True
    aspect: Fraction | None = None
    rotation: int = 0  # degrees, counter-clockwise
    cover: bool = False  # a picture that belongs to the audio, as JPEG


class Audio(NamedTuple):
    """Is a track of float32[N] or float32[channels, N]."""

    sound: np.ndarray
    rate: int = 16_000
    codec: str = "flac"
    move: Move = same
    default: bool = True
    layout: str = "mono"


def write_tracks(path: Path, *tracks: Video | Audio, container: str | None = None, options: dict[str, str] | None = None) -> Path:
    """Writes the tracks, their packets in the order of time, with options of the container."""
    with av.open(str(path), "w", format=container, options=options or {}) as opened:
        streams = [_stream(opened, track) for track in tracks]
        packets: list[tuple[float, Any]] = []
        for track, stream in zip(tracks, streams, strict=True):
            for frame in [*_frames(track), None]:
                for packet in stream.encode(frame):
                    base = packet.time_base
                    moved = round((track.move(float(packet.pts * base)) - float(packet.pts * base)) / base)
                    packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
                    packets.append((float(packet.dts * base), packet))
        for _, packet in sorted(packets, key=lambda item: item[0]):
            opened.mux(packet)
    return path


def _stream(opened: Any, track: Video | Audio) -> Any:
    if isinstance(track, Audio):
        stream = opened.add_stream(track.codec, rate=track.rate, layout=track.layout)
        if track.codec == "wmav2":
            stream.bit_rate = 128_000  # it has no default
    else:
        stream = opened.add_stream("mjpeg" if track.cover else track.codec, rate=track.rate)
        stream.height, stream.width = track.frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if track.cover else "yuv420p"
        stream.options = {"qmin": "1", "qmax": "2"} if track.codec == "mpeg4" else {}
        if track.rotation:
            stream.set_display_rotation(track.rotation)
        if track.aspect:
            stream.codec_context.sample_aspect_ratio = track.aspect
    cover = isinstance(track, Video) and track.cover
    stream.disposition = Disposition.attached_pic if cover else Disposition.default if track.default else Disposition(0)
    return stream


def _frames(track: Video | Audio) -> list[Any]:
    if isinstance(track, Video):
        return [av.VideoFrame.from_ndarray(image, format="rgb24") for image in track.frames]
    blocks = []
    sound = np.atleast_2d(track.sound)
    for start in range(0, sound.shape[1], 1600):
        block = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, start : start + 1600]), format="fltp", layout=track.layout)
        block.sample_rate, block.pts = track.rate, start
        blocks.append(block)
    return blocks
