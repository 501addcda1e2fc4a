"""Decodes the beginning of a media file: the waveform and the frames of a stored clip, on the clock of data/decode/clock.py.

One pass over the file stops as soon as it has what the clip needs: a film of three hours costs what its first ten seconds cost. What a
header says about length only serves to guess which frames to keep while n, the number of frames that really decode, isn't known yet. A
wrong guess costs a second pass, never a wrong frame.

Which frames: where the frame rate is constant, frames are counted as the original counts them (frame_indices). The rate counts as constant
if no frame of the clip comes half a frame or more beside its moment on an even grid from the first frame to the last, if the header's rate
is that of the grid within 2 %, and if the video begins with the clip. Else a frame is chosen by its time, as data/decode/frames.py does.

What counts as damage: packets that can't be decoded and together last longer, or a file that ends earlier than its header promises by more,
than half a second and a tenth of the needed part. Such a file is refused, since nobody knows what its rest was. Damage behind the needed
part isn't searched for.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avmae_jax.config import Channels, Modality
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.audio import AudioLine, check_long_enough
from avmae_jax.data.decode.choice import Streams, choose
from avmae_jax.data.decode.form import SPECTROGRAM_WINDOW, ClipForm, clip_samples
from avmae_jax.data.decode.frames import chosen
from avmae_jax.data.decode.media import IMAGE_SUFFIXES, opened, refuse
from avmae_jax.data.decode.pixels import encode_jpeg, shrink, shrink_image
from avmae_jax.data.decode.streams import Piece, Reader, decode_again

_MAX_RATE = 240  # frames/s; a higher "rate" is the container's clock
_SAME_RATE = 0.02  # by how much the rate of a header may differ from that of the frames
_BEHIND = 30  # seconds that one stream is read past the clip while the other one's next frame isn't there


def frame_indices(n: int, count: int = 10) -> tuple[int, ...]:
    """Returns which of n decodable frames, counted in the order in which they are shown, are stored.

    With a count of 10 this is the rule of the official extraction; other counts divide the clip in the same way.
    """
    return tuple(max(0, i * n // count - 1) for i in range(count))


def decode_clip(path: str | Path, *, clip_id: str, labels: Sequence[int] = (), form: ClipForm | None = None) -> Clip:
    """Decodes the beginning of a media file.

    Args:
      path: a local file in a common container (mp4, webm, mkv, mov, avi, ...).
      clip_id: becomes the clip's id.
      labels: become the clip's labels.
      form: what the clip holds; None: the defaults. A shorter file gives a shorter waveform, and as many frames all the same; its
        max_mismatch counts within the needed part.

    Returns:
      The clip: waveform int16[N] at 16 kHz, N <= clip_samples(form.seconds); JPEGs of frame_size x frame_size; and their times, in seconds
      on the clock of the file. Where audio or images begin later, or end earlier, than the clip, it has what there is.

    Raises:
      ClipError: if the file can't be opened, lacks audio or video, is damaged within the needed part, or has a longer mismatch.
    """
    form = form or ClipForm()
    if form.allow_missing and Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return decode_image_file(path, clip_id=clip_id, labels=labels, form=form)
    with opened(path) as container:
        streams = choose(path, container, allow_missing=form.allow_missing, max_pixels=form.max_pixels)
        first = _First(path, container, streams, form)
        first.read()
        shots, waveform, channel = first.shots, *first.waveform()
        beyond = max(0.0, first.reader.promised_file() - form.seconds)
    if shots is not None:
        lacking = set(shots.indices()) - shots.kept.keys()
        shots.kept |= decode_again(path, dict.fromkeys(lacking), form.frame_size, form.max_pixels) if lacking else {}
    frames, times = shots.stored() if shots is not None else ((), ())
    return Clip(clip_id, waveform, frames, tuple(labels), frame_times=times, channel=channel, beyond=beyond)


def decode_image_file(path: str | Path, *, clip_id: str, labels: Sequence[int], form: ClipForm) -> Clip:
    """Decodes an image file to a clip of one frame."""
    image = encode_jpeg(shrink_image(path, form.frame_size, form.max_pixels))
    return Clip(clip_id, np.zeros(0, np.int16), (image,), tuple(labels), frame_times=(0.0,))


def decode_audio(path: str | Path, *, seconds: float = 10.0, channels: Channels = "first") -> np.ndarray:
    """Decodes and resamples the audio of a media file, from its first sample on.

    Args:
      path: a local media file; audio files (wav, flac, mp3, ...) are fine.
      seconds: length of the clip; no more of the file is decoded than that takes.
      channels: "first": the first channel, or the first one that isn't silent where it is; "mean": of all.

    Returns:
      int16[N] at 16 kHz, N <= clip_samples(seconds).

    Raises:
      ClipError: if the file can't be opened, has no audio, or is damaged within the needed part.
    """
    form = ClipForm(seconds=seconds, channels=channels, allow_missing=True)
    with opened(path) as container:
        if not container.streams.audio:
            refuse(path, "audio", "has no audio")
        streams = choose(path, container, allow_missing=True, max_pixels=form.max_pixels)
        first = _First(path, container, streams._replace(video=None), form)
        first.read()
        return first.waveform()[0]


class _First:
    """Reads the first clip of a file."""

    def __init__(self, path: str | Path, container: InputContainer, streams: Streams, form: ClipForm) -> None:
        self._path, self._form = path, form
        self.has: Modality = "both" if streams.audio and streams.video else "audio" if streams.audio else "image"
        self.reader = Reader(path, container, streams, form.seconds)
        self._samples = clip_samples(form.seconds)
        self.line = AudioLine(path, form.channels, self._samples) if streams.audio else None
        self.shots = Shots(streams.video, form) if streams.video else None
        self._begins: dict[str, float] = {}  # when the streams that have shown something begin

    def read(self) -> None:
        """Reads as much as the clip needs.

        Raises:
          ClipError: if the file is damaged before, or lacks what may not be missing.
        """
        whole: dict[str, float] = {}  # ends of the streams that ended
        for piece in self.reader.pieces():
            if piece.frame is None:
                whole[piece.stage] = self._end(piece.stage)
            else:
                self._begins.setdefault(piece.stage, float(piece.time))
                if self._full(piece):
                    self.reader.drop(piece.stage)
            if self._done():
                break
        lacking = self.line is not None and not self.line.end, self.shots is not None and not self.shots.times
        for stage, lacks, what in zip(("video", "audio"), reversed(lacking), ("image", "audio"), strict=True):
            if lacks and not (self._form.allow_missing and not all(lacking) and self.has == "both"):
                self._check_begin(stage)
                refuse(self._path, stage, f"has no {what} that can be decoded")
        if self.shots is not None and not self.shots.times:
            self.shots = None
        self._check_length(whole)

    def waveform(self) -> tuple[np.ndarray, int]:
        """Returns int16[N] and its channel; N is 0 where the clip has no audio and needs none."""
        if self.line is None:
            return np.zeros(0, np.int16), 0
        waveform, channel = self.line.window(0, self._samples)
        if self.shots is not None and self._form.allow_missing and len(waveform) < SPECTROGRAM_WINDOW:
            return waveform[:0], 0
        if not len(waveform):
            self._check_begin("audio")
        check_long_enough(self._path, waveform)
        return waveform, channel

    def _check_begin(self, stage: str) -> None:
        """Refuses a file in which a stream begins behind the clip."""
        begin, seconds = self._begins.get(stage, 0.0), self._form.seconds
        if begin >= seconds:
            refuse(
                self._path, stage, f"has no {stage} within the first {seconds:g} s: it begins after {begin:.2f} s; cut off what is earlier"
            )

    def _full(self, piece: Piece) -> bool:
        """Takes a piece, and returns whether the clip has enough of its stream."""
        if self.line is not None and piece.stage == "audio" and piece.frame is not None:
            for _ in self.line.add(piece.frame, piece.time):  # pyright: ignore[reportArgumentType] - audio
                if self.line.end >= self._samples:
                    return True
            return self.line.end >= self._samples
        return self.shots is not None and isinstance(piece.frame, VideoFrame) and self.shots.add(piece.frame, Fraction(piece.time))

    def _end(self, stage: str) -> float:
        if stage == "audio" and self.line is not None:
            self.line.finish()
            return self.line.end / SAMPLE_RATE
        if self.shots is None:
            return 0.0
        self.shots.finish(self.reader.frame_seconds())
        return float(self.shots.end)

    def _done(self) -> bool:
        """Returns whether nothing more is needed: each stream is complete, or far behind the other one, which is."""
        ends, ended = self.reader.clock.ends, self.reader.ended
        if len(ended) == (2 if self.has == "both" else 1):
            return True
        if len(ended) == 1 and len(ends) == 2 and max(ends.values()) > self._form.seconds + _BEHIND:
            if self.shots is not None and "video" not in ended:
                self.shots.finish(max(Fraction(0), Fraction(self._form.seconds) - self.shots.end))
            return True
        return False

    def _check_length(self, whole: dict[str, float]) -> None:
        """Refuses a file that is truncated, or whose audio and video end too far apart."""
        form, ends = self._form, dict(whole)
        still = self.shots is not None and self.shots.still
        if still and self.has == "both":
            ends.pop("video", None)
        if len(whole) == (2 if self.has == "both" else 1):
            self.reader.check_complete(ends, form.seconds)
        else:  # the other stream goes on
            for stage, end in ends.items():
                self.reader.check_stream(stage, end, form.seconds)
        if self.has == "both" and not still and self.shots is not None and self.line is not None:
            heard, shown = min(form.seconds, self.line.end / SAMPLE_RATE), min(form.seconds, float(self.shots.end))
            if "video" not in whole:
                shown = form.seconds
            if abs(heard - shown) > form.max_mismatch:
                refuse(self._path, "length", f"has {heard:.2f} s of audio and {shown:.2f} s of video within its first {form.seconds:g} s")


class Shots:
    """Keeps those frames of the first clip that may be stored, while their number isn't known."""

    def __init__(self, stream: VideoStream, form: ClipForm) -> None:
        """Starts with nothing; the frames to keep are those that a guess of their number from the header asks for.

        Args:
          stream: to be decoded.
          form: what the clip holds.
        """
        self._form, self._seconds, self._aspect = form, Fraction(form.seconds), stream.sample_aspect_ratio
        self._rate, self._limit, guesses = _guess_counts(stream, form.seconds)
        self._wanted = {index for guess in guesses for index in frame_indices(guess, form.frames)}
        self.kept: dict[int, np.ndarray] = {}  # by index: uint8[S, S, 3]
        self.times: list[Fraction] = []
        self.end = Fraction(0)
        self._ended = False

    @property
    def still(self) -> bool:
        """Returns whether the whole video is one image."""
        return self._ended and bool(self.times) and self.times[-1] == self.times[0]

    def add(self, frame: VideoFrame, time: Fraction) -> bool:
        """Takes the next frame, and returns whether it was the last one that the clip needs."""
        n = len(self.times)
        time = max(time, self.end)
        past = time >= self._seconds
        enough = self._limit is None or n >= self._limit
        if n and past and (enough or (self._form.frame_rule == "time" and not self._regular([*self.times, time]))):
            self.end = time
            return True
        if not n and past and self._form.frame_rule == "time":
            return True  # the video begins behind the clip
        if n in self._wanted:
            self.kept[n] = shrink(frame, self._form.frame_size, self._aspect)
        self.times.append(time)
        self.end = time
        return n + 1 == self._limit and (self._form.frame_rule == "count" or self._regular(self.times))

    def finish(self, last_shown: Fraction) -> None:
        """Ends the video; the last frame is shown for so many seconds."""
        self.end, self._ended = self.end + last_shown, True

    def indices(self) -> tuple[int, ...]:
        """Returns which frames are stored, by the rule that the form asks for."""
        n, count = len(self.times), self._form.frames
        if self._form.frame_rule == "count" or self._regular(self.times):
            return frame_indices(n, count)
        length = min(Fraction(self._form.seconds), self.end)
        return tuple(chosen(self.times, max(self.end, length), Fraction(0), length / count, count))

    def stored(self) -> tuple[tuple[bytes, ...], tuple[float, ...]]:
        """Returns the JPEGs of the stored frames, and their times."""
        indices = self.indices()
        encoded = {index: encode_jpeg(self.kept[index]) for index in set(indices)}
        return tuple(encoded[index] for index in indices), tuple(float(self.times[index]) for index in indices)

    def _regular(self, times: list[Fraction]) -> bool:
        """Returns whether frames come at a constant rate, from the beginning of the clip on."""
        steps = len(times) - 1
        if steps < 1 or times[0] != 0:
            return steps < 1 and not any(times)
        moments = np.array(times, np.float64)
        frame = moments[-1] / steps
        by_header = steps / float(self._rate) if self._rate else moments[-1]
        if abs(moments[-1] - by_header) > max(frame / 2, _SAME_RATE * by_header):
            return False
        return bool((np.abs(moments - frame * np.arange(steps + 1)) < frame / 2).all())


def _guess_counts(stream: VideoStream, seconds: float) -> tuple[Fraction | None, int | None, set[int]]:
    """Returns the frame rate and the most frames that may count, None where it is unknown, and guesses of n from what the header claims."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate > _MAX_RATE:
        return None, None, {stream.frames} if stream.frames else {1}
    limit = max(1, int(rate * Fraction(seconds)))
    if stream.frames >= limit:
        return Fraction(rate), limit, {limit}
    guesses = {limit, stream.frames}
    if stream.duration is not None and stream.time_base is not None:
        by_duration = round(stream.duration * stream.time_base * rate)
        guesses |= {by_duration - 1, by_duration}
    return Fraction(rate), limit, {guess for guess in guesses if 0 < guess <= limit}
