"""Media files as PyAV gives them: opening, streams, single frames, and what is wrong with a file in words.

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
from avmae_jax.data.decode.images import rgb
from avmae_jax.errors import ClipError

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,wav,w64,aiff,flac,mp3,aac"
_JPEG_QUALITY = 95


@contextmanager
def opened(path: str | Path) -> Iterator[InputContainer]:
    """The file as a container, inside the block.

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
    """Turns what FFmpeg raises into a ClipError."""
    try:
        yield
    except FFmpegError as error:
        what = "can't be opened as a media file" if stage == "open" else f"can't be decoded: its {stage} is damaged or its codec unknown"
        raise ClipError(str(path), stage, f"{what} ({error.strerror})") from error


def refuse(path: str | Path, stage: str, reason: str) -> NoReturn:
    """Raises the ClipError."""
    raise ClipError(str(path), stage, reason)


def audio_stream(path: str | Path, container: InputContainer) -> AudioStream:
    """The first stream of sound."""
    stream = next(iter(container.streams.audio), None)
    if stream is None or stream.codec_context is None:
        refuse(path, "audio", "has no sound" if stream is None else "has sound in a coding that can't be decoded here")
    return stream


def video_stream(path: str | Path, container: InputContainer) -> VideoStream:
    """The first stream of moving pictures; a cover picture isn't one."""
    stream = next(iter(_moving_pictures(container)), None)
    if stream is None or stream.codec_context is None:
        refuse(path, "video", "has no moving pictures" if stream is None else "has pictures in a coding that can't be decoded here")
    return stream


def modalities(path: str | Path) -> Modality:
    """What streams a media file has.

    Raises:
      ClipError: if it can't be opened, or has neither sound nor pictures.
    """
    with opened(path) as container:
        sound, pictures = bool(container.streams.audio), bool(_moving_pictures(container))
    if not sound and not pictures:
        refuse(path, "open", "has neither sound nor moving pictures")
    return "both" if sound and pictures else "audio" if sound else "image"


def _moving_pictures(container: InputContainer) -> list[VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def promised(container: InputContainer, stream: Stream) -> float:
    """Seconds that the header gives the stream, or else the whole file; 0 where it says nothing."""
    if container.format.name in ("mp3", "aac"):
        return 0.0  # what FFmpeg tells is a guess from the bit rate
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def decoded(path: str | Path, packets: Iterator[Packet], stage: str) -> Iterator[Any]:
    """The frames (av.AudioFrame or av.VideoFrame) of one stream, in decode order."""
    for packet in packets:
        if packet.is_corrupt:
            refuse(path, stage, f"is damaged or truncated: a packet of its {stage} is incomplete")
        yield from packet.decode()


def shrink(frame: VideoFrame, size: int) -> np.ndarray:
    """Short side to `size`, upright, centre crop: uint8[size, size, 3]. Pixels are taken as square, as the official tool takes them."""
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


def shrink_picture(path: str | Path, size: int) -> np.ndarray:
    """A picture file (JPEG, PNG), as shrink does it to a frame.

    Raises:
      ClipError: if it isn't one, or is damaged.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as opened_picture:
            picture = rgb(ImageOps.exif_transpose(opened_picture))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        refuse(path, "video", f"can't be decoded as a picture ({error})")
    return shrink(VideoFrame.from_image(picture), size)


def encode_jpeg(image: np.ndarray) -> bytes:
    """uint8[H, W, 3] -> a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def one_channel(frame: AudioFrame, mix: bool) -> np.ndarray:
    """float32[N] in [-1, 1]."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    samples = samples if mix else samples[:1]
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples / 2.0 ** (8 * samples.itemsize - 1)
    return samples.mean(axis=0, dtype=np.float32)
