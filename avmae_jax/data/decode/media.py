"""Opens media files with PyAV: streams, single frames, and what is wrong with a file in words.

Files come from strangers, so only plain containers are opened, from local files: playlists that name other files or addresses are not media
here. Decoding uses one thread; many clips are decoded in many processes.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
import soxr
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageOps, UnidentifiedImageError

from avmae_jax.config import Modality
from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.decode.images import rgb
from avmae_jax.errors import ClipError

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".flv", ".m4v", ".ts")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".aac")  # become clips without an image
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # become clips without audio
RANK = {suffix: rank for rank, group in enumerate((VIDEO_SUFFIXES, AUDIO_SUFFIXES, IMAGE_SUFFIXES)) for suffix in group}

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,wav,w64,aiff,flac,mp3,aac"
_JPEG_QUALITY = 95


@contextmanager
def opened(path: str | Path) -> Iterator[InputContainer]:
    """Opens a file as a container for the block.

    Raises:
      ClipError: if it is missing, empty, or no media file.
    """
    file = Path(path)
    if not file.is_file():
        refuse(path, "open", "is not a file" if file.exists() else "does not exist")
    if file.stat().st_size == 0:
        refuse(path, "open", "is empty (0 bytes)")
    with reported(path, "open"):
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        container = av.open(str(file.absolute()), options=options, metadata_errors="replace")  # titles in any encoding
    with container:
        yield container


@contextmanager
def reported(path: str | Path, stage: str) -> Iterator[None]:
    """Turns what FFmpeg raises in the block into a ClipError."""
    try:
        yield
    except FFmpegError as error:
        what = "can't be opened as a media file" if stage == "open" else f"can't be decoded: its {stage} is damaged or its codec unknown"
        raise ClipError(str(path), stage, f"{what} ({error.strerror})") from error


def refuse(path: str | Path, stage: str, reason: str) -> NoReturn:
    """Raises a ClipError."""
    raise ClipError(str(path), stage, reason)


def audio_stream(path: str | Path, container: InputContainer) -> AudioStream:
    """Returns the first audio stream; raises ClipError if there is none, or its codec is unknown."""
    stream = next(iter(container.streams.audio), None)
    if stream is None or stream.codec_context is None:
        refuse(path, "audio", "has no audio" if stream is None else "has audio in a coding that can't be decoded here")
    return stream


def video_stream(path: str | Path, container: InputContainer) -> VideoStream:
    """Returns the first stream of moving images, which a cover image isn't; raises ClipError if there is none, or its codec is unknown."""
    stream = next(iter(_moving(container)), None)
    if stream is None or stream.codec_context is None:
        refuse(path, "video", "has no moving images" if stream is None else "has images in a coding that can't be decoded here")
    return stream


def modalities(path: str | Path) -> Modality:
    """Returns what streams a media file has.

    Raises:
      ClipError: if it can't be opened, or has neither audio nor moving images.
    """
    with opened(path) as container:
        audio, images = bool(container.streams.audio), bool(_moving(container))
    if not audio and not images:
        refuse(path, "open", "has neither audio nor moving images")
    return "both" if audio and images else "audio" if audio else "image"


def _moving(container: InputContainer) -> list[VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def promised(container: InputContainer, stream: Stream) -> float:
    """Returns the seconds that the header gives the stream, or else the whole file; 0 where it says nothing."""
    if container.format.name in ("mp3", "aac"):
        return 0.0  # FFmpeg only guesses from the bit rate
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def decoded(path: str | Path, packets: Iterator[Packet], stage: str) -> Iterator[Any]:
    """Yields the frames (av.AudioFrame or av.VideoFrame) of one stream in the order in which they are shown; refuses corrupt packets."""
    for packet in packets:
        if packet.is_corrupt:
            refuse(path, stage, f"is damaged or truncated: a packet of its {stage} is incomplete")
        yield from packet.decode()


class Resampler:
    """Turns decoded audio frames into one channel at 16 kHz, piece by piece."""

    def __init__(self, path: str | Path, mix: bool) -> None:
        """Starts with the first frame.

        Args:
          path: the file, for errors.
          mix: take the mean of all channels instead of the first one.
        """
        self._path, self._mix = path, mix
        self._stream: soxr.ResampleStream | None = None
        self._rate = 0

    def add(self, frame: AudioFrame) -> np.ndarray:
        """Returns the samples that the next frame completes: float32[N] in [-1, 1]; raises ClipError if the sample rate changes."""
        if self._stream is None:
            self._rate = frame.sample_rate
            self._stream = soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32")
        elif frame.sample_rate != self._rate:
            refuse(self._path, "audio", f"changes its sample rate from {self._rate} to {frame.sample_rate} Hz half-way")
        return self._stream.resample_chunk(_one_channel(frame, self._mix))

    def finish(self) -> np.ndarray:
        """Returns the samples that were held back until the end: float32[N]."""
        empty = np.zeros(0, np.float32)
        return empty if self._stream is None else self._stream.resample_chunk(empty, last=True)


def _one_channel(frame: AudioFrame, mix: bool) -> np.ndarray:
    """Returns the first channel of a frame, or the mean of all: float32[N] in [-1, 1]."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    samples = samples if mix else samples[:1]
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples / 2.0 ** (8 * samples.itemsize - 1)
    return samples.mean(axis=0, dtype=np.float32)


def shrink(frame: VideoFrame, size: int) -> np.ndarray:
    """Scales the short side to `size` and crops the centre, upright: uint8[size, size, 3].

    Pixels are taken as square, as the official tool takes them.
    """
    scale = size / min(frame.width, frame.height)
    width, height = max(size, round(frame.width * scale)), max(size, round(frame.height * scale))
    small = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR").to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(_upright(small[top : top + size, left : left + size], frame))


def _upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Applies the display matrix that cameras write: any composition of quarter turns and mirrorings."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    matrix = np.frombuffer(bytes(data), np.int32).reshape(3, 3)  # 16.16 fixed point; (x', y') = (x, y) @ matrix[:2, :2]
    if abs(int(matrix[0, 1])) > abs(int(matrix[0, 0])):
        image = image.swapaxes(0, 1)
        flip_x, flip_y = matrix[1, 0] < 0, matrix[0, 1] < 0
    else:
        flip_x, flip_y = matrix[0, 0] < 0, matrix[1, 1] < 0
    image = image[:, ::-1] if flip_x else image
    return image[::-1] if flip_y else image


def shrink_image(path: str | Path, size: int) -> np.ndarray:
    """Scales and crops an image file (JPEG, PNG) as `shrink` does a frame: uint8[size, size, 3].

    Raises:
      ClipError: if it isn't one, or is damaged.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as opened_image:
            image = rgb(ImageOps.exif_transpose(opened_image))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        refuse(path, "video", f"can't be decoded as an image ({error})")
    return shrink(VideoFrame.from_image(image), size)


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encodes uint8[H, W, 3] as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
