"""Writes small media files for tests, whose frames show their own numbers."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

BITS = 12


def numbered(index: int, size: int = 96) -> np.ndarray:
    """Draws a number in binary, a bright stripe for each 1, lowest bit at the left: uint8[size, size, 3]."""
    stripes = np.array([255 * (index >> bit & 1) for bit in range(BITS)], np.uint8)
    return np.broadcast_to(np.repeat(stripes, size // BITS)[None, :, None], (size, size, 3)).copy()


def number_of(jpeg: bytes) -> int:
    """Reads the number that a stored frame shows."""
    grey = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"), float)
    stripes = grey.mean(axis=0).reshape(BITS, -1)[:, 2:-2].mean(axis=1)
    return sum(1 << bit for bit in range(BITS) if stripes[bit] > 128)


def tone(hertz: float, seconds: float, rate: int = 16_000, amplitude: float = 0.5) -> np.ndarray:
    """Makes a sine: float32[N]."""
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def loudest_hertz(waveform: np.ndarray, rate: int = 16_000) -> float:
    """Returns the strongest frequency of a waveform."""
    return float(np.argmax(np.abs(np.fft.rfft(waveform))) * rate / len(waveform))


def write_media(
    path: Path,
    *,
    frames: Iterable[np.ndarray] | None = None,
    frame_rate: int = 10,
    times: list[float] | None = None,
    sound: np.ndarray | None = None,
    sample_rate: int = 16_000,
    layout: str = "mono",
    video_codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    audio_codec: str = "aac",
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes frames (uint8[H, W, 3]) and audio (float32[N] or float32[channels, N]); either may be left out.

    `times` gives the frames' moments in seconds where they aren't regular; `rotation` is in degrees, counter-clockwise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = list(frames) if frames is not None else None
    size = frames[0].shape[:2] if frames else (16, 16)
    with av.open(str(path), "w", options=options or {}) as container:
        video_stream: Any = None
        audio_stream: Any = None
        if frames is not None:
            video_stream = container.add_stream(video_codec, rate=frame_rate)
            video_stream.pix_fmt, video_stream.options = pix_fmt, {"qmin": "1", "qmax": "2"} if video_codec == "mpeg4" else {}
            video_stream.height, video_stream.width = size
        if sound is not None:
            audio_stream = container.add_stream(audio_codec, rate=sample_rate, layout=layout)
        if rotation:
            video_stream.set_display_rotation(rotation)
        container.start_encoding()
        for number, image in enumerate(frames or ()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.time_base = video_stream.codec_context.time_base
                frame.pts = round(times[number] / video_stream.codec_context.time_base)
            container.mux(video_stream.encode(frame))
        if sound is not None:
            for start in range(0, np.atleast_2d(sound).shape[1], 4096):
                part = np.ascontiguousarray(np.atleast_2d(sound)[:, start : start + 4096])
                block = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
                block.sample_rate, block.pts = sample_rate, start
                container.mux(audio_stream.encode(block))
            container.mux(audio_stream.encode(None))
        if video_stream is not None:
            container.mux(video_stream.encode(None))
    return path


def write_clip(path: Path, seconds: float = 2.0, *, first: int = 0, hertz: float = 440.0, size: int = 96) -> Path:
    """Writes a plain clip: numbered frames at 10 frames/s and a tone."""
    frames = [numbered(first + index, size) for index in range(round(10 * seconds))]
    return write_media(path, frames=frames, sound=tone(hertz, seconds))
