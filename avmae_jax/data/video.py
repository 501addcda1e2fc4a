"""Media file -> the waveform and the ten frames of a stored clip.

One pass over the audio, one over the pictures, each of which stops as soon as it has what the clip needs: a film of three hours costs what
its first ten seconds cost. What a header says about length only serves to guess which frames to keep while n, the number of frames that
really decode, isn't known yet. A wrong guess costs a second pass, never a wrong frame.

What counts as damage: a decoder that raises, or a packet marked corrupt, before the needed part was read; and a stream that lacks more than
half a second and a tenth of what its header promises of that part. Such a file is refused, since nobody knows what its rest was. Damage
behind the needed part isn't looked for.

Files come from strangers, so only plain containers are opened, from local files: playlists that name other files or addresses are not media
here. Decoding uses one thread; many clips are decoded in many processes.
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
import soxr
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from avmae_jax.data.clip import NUM_FRAMES, SAMPLE_RATE, Clip

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,wav,w64,aiff,flac,mp3,aac"
_MAX_RATE = 240  # frames/s; a higher "rate" is the container's clock
_SPECTROGRAM_WINDOW, _SPECTROGRAM_HOP = 400, 160  # samples; a waveform shorter than the window has no spectrogram
_SPECTROGRAM_FRAMES_PER_SECOND = 102.4  # 1024 for a clip of 10 s
_MISSING_SECONDS, _MISSING_SHARE = 0.5, 0.1  # a stream that lacks more than both of what was promised counts as truncated
_JPEG_QUALITY = 95


class ClipError(Exception):
    """A file that can't become a clip.

    Attributes:
      path, reason: the file and what is wrong with it; together they make a sentence.
      stage: "open" | "audio" | "video": what failed; writers of data sets add "crash".
    """

    def __init__(self, path: str, stage: str, reason: str) -> None:
        super().__init__(path, stage, reason)  # all three, so that the error survives pickling
        self.path, self.stage, self.reason = path, stage, reason

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


def clip_samples(seconds: float) -> int:
    """Samples at 16 kHz kept of a clip: enough to fill its spectrogram.

    A clip of 10 s has 1024 spectrogram frames of 25 ms every 10 ms, which take (1024 - 1) * 160 + 400 = 164080 samples or 10.255 s; 160000
    samples would fill only 998 of them. Other lengths are in proportion.
    """
    return (math.ceil(_SPECTROGRAM_FRAMES_PER_SECOND * seconds) - 1) * _SPECTROGRAM_HOP + _SPECTROGRAM_WINDOW


def frame_indices(n: int) -> tuple[int, ...]:
    """Which of n decodable frames, counted in decode order, are stored: the rule of the official extraction."""
    return tuple(max(0, i * n // NUM_FRAMES - 1) for i in range(NUM_FRAMES))


def decode_clip(
    path: str | Path,
    *,
    clip_id: str,
    labels: Sequence[int] = (),
    seconds: float = 10.0,
    frame_size: int = 224,
    mix_channels: bool = False,
) -> Clip:
    """Decodes the beginning of a media file.

    Args:
      path: a local file in a common container (mp4, webm, mkv, mov, avi, ...).
      clip_id: becomes the clip's id.
      labels: become the clip's labels.
      seconds: length of a clip; a shorter file gives a shorter waveform, and ten frames all the same.
      frame_size: side of the stored frames in pixels.
      mix_channels: take the mean of all audio channels instead of the first one.

    Returns:
      The clip: waveform int16[N] at 16 kHz, N <= clip_samples(seconds), and ten JPEGs of frame_size x frame_size.

    Raises:
      ClipError: if the file can't be opened, has no sound or no pictures, or is damaged within the needed part.
    """
    frames = _decode_frames(path, seconds, frame_size)
    return Clip(clip_id, decode_audio(path, seconds=seconds, mix_channels=mix_channels), frames, tuple(labels))


def decode_audio(path: str | Path, *, seconds: float = 10.0, mix_channels: bool = False) -> np.ndarray:
    """The first channel of a media file's sound, resampled.

    Args:
      path: a local media file; sound-only ones (wav, flac, mp3, ...) are fine.
      seconds: length of the clip.
      mix_channels: take the mean of all channels instead of the first one.

    Returns:
      int16[N] at 16 kHz, N <= clip_samples(seconds).

    Raises:
      ClipError: as decode_clip.
    """
    wanted = clip_samples(seconds)
    with _opened(path) as container, _reported(path, "audio"):
        stream = next(iter(container.streams.audio), None)
        if stream is None or stream.codec_context is None:
            _refuse(path, "audio", "has no sound" if stream is None else "has sound in a coding that can't be decoded here")
        waveform = _resample(path, _decoded(path, container.demux(stream), "audio"), wanted, mix_channels)
        _check_complete(path, "audio", len(waveform) / SAMPLE_RATE, _promised(container, stream), seconds)
    if len(waveform) < _SPECTROGRAM_WINDOW:
        _refuse(path, "audio", f"has {len(waveform)} samples of sound at 16 kHz; a spectrogram needs at least {_SPECTROGRAM_WINDOW}")
    if not np.isfinite(waveform).all():
        _refuse(path, "audio", "has sound samples that are not finite numbers")
    return np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16)


def _decoded(path: str | Path, packets: Iterator[Packet], stage: str) -> Iterator[Any]:
    """The frames (av.AudioFrame or av.VideoFrame) of one stream, in decode order."""
    for packet in packets:
        if packet.is_corrupt:
            _refuse(path, stage, f"is damaged or truncated: a packet of its {stage} is incomplete")
        yield from packet.decode()


def _resample(path: str | Path, sound: Iterable[AudioFrame], wanted: int, mix: bool) -> np.ndarray:
    """float32[N], N <= wanted: the beginning of the sound at 16 kHz; no more of it is decoded than that takes."""
    chunks = [np.zeros(0, np.float32)]
    resampler, rate, kept = None, 0, 0
    for frame in sound:
        if resampler is None:
            rate, resampler = frame.sample_rate, soxr.ResampleStream(frame.sample_rate, SAMPLE_RATE, 1, dtype="float32")
        elif frame.sample_rate != rate:
            _refuse(path, "audio", f"changes its sample rate from {rate} to {frame.sample_rate} Hz half-way")
        chunks.append(resampler.resample_chunk(_one_channel(frame, mix)))
        kept += len(chunks[-1])
        if kept >= wanted:
            return np.concatenate(chunks)[:wanted]
    if resampler is not None:
        chunks.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(chunks)[:wanted]


def _decode_frames(path: str | Path, seconds: float, frame_size: int) -> tuple[bytes, ...]:
    """Ten JPEGs at frame_indices(n), n = min(frames that decode, int(rate * seconds))."""
    n, kept = _decode_pass(path, seconds, frame_size)
    if not set(frame_indices(n)) <= kept.keys():
        n, kept = _decode_pass(path, seconds, frame_size, {n})
    return tuple(_encode_jpeg(kept[index]) for index in frame_indices(n))


def _decode_pass(path: str | Path, seconds: float, frame_size: int, guesses: set[int] | None = None) -> tuple[int, dict[int, np.ndarray]]:
    """Decodes the frames of a clip and keeps few of them.

    Returns:
      n, and the frames (uint8[S, S, 3]) at the indices that one of the guesses of n asks for; the header guesses where none are given.
    """
    kept: dict[int, np.ndarray] = {}
    n, first, end = 0, None, 0.0
    with _opened(path) as container, _reported(path, "video"):
        stream = _video_stream(path, container)
        limit, by_header = _guess_counts(stream, seconds)
        wanted = {index for guess in guesses or by_header for index in frame_indices(guess)}
        for frame in _decoded(path, container.demux(stream), "video"):
            if frame.time is not None:
                first = frame.time if first is None else first
                end = max(end, frame.time - first)
            if limit is None and n and end >= seconds:
                return n, kept
            if n in wanted:
                kept[n] = _shrink(frame, frame_size)
            n += 1
            if n == limit:
                return n, kept
        if n == 0:
            _refuse(path, "video", "has no picture that can be decoded")
        shown = float(1 / stream.average_rate) if stream.average_rate else 0.0  # how long the last frame stays
        _check_complete(path, "video", end + shown, _promised(container, stream), seconds)
    return n, kept


def _video_stream(path: str | Path, container: InputContainer) -> VideoStream:
    """The first stream of moving pictures; a cover picture isn't one."""
    stream = next((stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic), None)
    if stream is None or stream.codec_context is None:
        _refuse(path, "video", "has no moving pictures" if stream is None else "has pictures in a coding that can't be decoded here")
    return stream


def _promised(container: InputContainer, stream: Stream) -> float:
    """Seconds that the header gives the stream, or else the whole file; 0 where it says nothing."""
    if container.format.name in ("mp3", "aac"):
        return 0.0  # what FFmpeg tells is a guess from the bit rate
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _check_complete(path: str | Path, stage: str, decoded: float, promised: float, seconds: float) -> None:
    needed = min(promised, seconds)
    if needed - decoded > max(_MISSING_SECONDS, _MISSING_SHARE * needed):
        _refuse(path, stage, f"is truncated: its {stage} ends after {decoded:.2f} s, its header promises {promised:.2f} s")


def _guess_counts(stream: VideoStream, seconds: float) -> tuple[int | None, set[int]]:
    """The most frames that may count, None where the rate is unknown, and guesses of n from what the header claims."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate > _MAX_RATE:
        return None, {stream.frames} if stream.frames else {1}
    limit = max(1, int(rate * Fraction(seconds)))
    guesses = {limit, stream.frames}
    if stream.duration is not None and stream.time_base is not None:
        by_duration = round(stream.duration * stream.time_base * rate)
        guesses |= {by_duration - 1, by_duration}
    return limit, {guess for guess in guesses if 0 < guess <= limit}


def _shrink(frame: VideoFrame, size: int) -> np.ndarray:
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


def _encode_jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _one_channel(frame: AudioFrame, mix: bool) -> np.ndarray:
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


@contextmanager
def _opened(path: str | Path) -> Iterator[InputContainer]:
    file = Path(path)
    if not file.is_file():
        _refuse(path, "open", "is not a file" if file.exists() else "does not exist")
    if file.stat().st_size == 0:
        _refuse(path, "open", "is empty (0 bytes)")
    with _reported(path, "open"):
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        container = av.open(str(file.absolute()), options=options, metadata_errors="replace")  # titles in any encoding
    with container:
        yield container


@contextmanager
def _reported(path: str | Path, stage: str) -> Iterator[None]:
    """Turns what FFmpeg raises into a ClipError."""
    try:
        yield
    except FFmpegError as error:
        what = "can't be opened as a media file" if stage == "open" else f"can't be decoded: its {stage} is damaged or its codec unknown"
        raise ClipError(str(path), stage, f"{what} ({error.strerror})") from error


def _refuse(path: str | Path, stage: str, reason: str) -> NoReturn:
    raise ClipError(str(path), stage, reason)
