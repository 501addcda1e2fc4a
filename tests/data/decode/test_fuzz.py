"""Tests damaged media: each gives clips of sane values, or is refused in one line.

`python -m tests.data.decode.test_fuzz SEED COUNT` tries more, each in a process of its own, and keeps those that end otherwise.
"""

import io
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.form import ClipForm, clip_samples
from avmae_jax.data.decode.images import decode_image
from avmae_jax.data.decode.many_clips import cut_clips, cut_timed
from avmae_jax.data.decode.media import AUDIO_SUFFIXES, IMAGE_SUFFIXES, RANK, VIDEO_SUFFIXES
from avmae_jax.data.decode.one_clip import decode_audio, decode_clip
from avmae_jax.data.decode.pixels import encode_jpeg
from avmae_jax.errors import ClipError
from tests.damage import CHANGES, READ, REFUSED, Change, cut, faults, summary
from tests.data.decode.tracks import Audio, Video, write_tracks
from tests.media import numbered, tone

SECONDS, BYTES = 30, 2 << 30  # what an input may take at most
LENGTH = 3.0  # seconds of the whole media
SIDE = 32
FORM = ClipForm(seconds=1, frames=4, frame_size=SIDE, allow_missing=True)
VIDEOS = {
    "mp4": "mpeg4 aac",
    "mov": "libx264 pcm_s16le",
    "mkv": "mpeg4 flac",
    "webm": "libvpx libopus",
    "ts": "mpeg2video mp2",
    "mpg": "mpeg2video mp2",
    "avi": "ffv1 pcm_s16le",
    "divx": "mpeg4 mp2 avi",
    "flv": "flv libmp3lame",
    "ogv": "libvpx libopus ogg",
    "wmv": "wmv2 wmav2 asf",
}
AUDIOS = {
    "wav": "pcm_s16le",
    "aiff": "pcm_s16be",
    "au": "pcm_s16be",
    "w64": "pcm_s16le",
    "caf": "pcm_s16be",
    "flac": "flac",
    "wv": "wavpack",
    "tta": "tta",
    "ogg": "libopus",
    "mp3": "libmp3lame",
    "m4a": "aac mp4",
    "aac": "aac adts",
}
IMAGES = ("png", "jpg", "gif", "webp", "bmp", "tiff")
AT_BEGIN = {key: {"movflags": "faststart"} for key in ("mp4", "mov", "m4a")}  # a file whose index is cut off can't be opened
PROMISED = {*VIDEOS, *AUDIOS} - {"ts", "mpg", "ogv", "ogg", "aac"}  # their headers say how long they are
HEADER = 4096  # bytes
LACKING = 0.7  # seconds that may be missing without a word: half a second, and two frames


# --- whole media -------------------------------------------------------------------------------------------------------------------------


def seeds(folder: Path) -> dict[str, bytes]:
    """Writes one small file of each kind and returns them by suffix."""
    frames = [numbered(number) for number in range(round(10 * LENGTH))]
    made = {}
    for suffix, codecs in VIDEOS.items():
        video, audio, container = [*codecs.split(), None][:3]
        rate = 44_100 if audio in ("wmav2", "libmp3lame") else 48_000
        fps = 25 if video == "mpeg2video" else 10
        shown = frames if fps == 10 else [frames[10 * number // fps] for number in range(round(fps * LENGTH))]
        tracks = Video(shown, rate=fps, codec=video or ""), Audio(sound(rate), rate, audio or "", layout="stereo")
        made[suffix] = write_tracks(folder / f"x.{suffix}", *tracks, container=container, options=AT_BEGIN.get(suffix)).read_bytes()
    for suffix, codecs in AUDIOS.items():
        codec, container = [*codecs.split(), None][:2]
        rate = 48_000 if codec == "libopus" else 16_000
        track = Audio(sound(rate), rate, codec or "", layout="stereo")
        path = write_tracks(folder / f"x.{suffix}", track, container=container, options=AT_BEGIN.get(suffix))
        made[suffix] = path.read_bytes()
    rng = np.random.default_rng(0)
    for suffix in IMAGES:
        image = Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8))
        turned = Image.Exif()
        turned[0x0112] = 6  # the orientation
        (image.convert("P") if suffix == "gif" else image).save(folder / f"x.{suffix}", exif=turned)
        made[suffix] = (folder / f"x.{suffix}").read_bytes()
    return made


def sound(rate: int) -> np.ndarray:
    """Makes noise under a tone in two channels, so that no coding makes it small."""
    left = tone(440, LENGTH, rate, 0.3) + np.random.default_rng(0).uniform(-0.1, 0.1, round(LENGTH * rate)).astype(np.float32)
    return np.stack([left, left[::-1]])


# --- damage ------------------------------------------------------------------------------------------------------------------------------


def in_header(content: bytes, rng: random.Random) -> bytes:
    """Changes a few bytes near the beginning or the end, where containers keep their fields."""
    head = min(len(content) // 2, rng.choice([64, 512, 2048]))
    change = rng.choice(CHANGES[1:3] + CHANGES[4:5])
    if rng.random() < 0.6:
        return change(content[:head], rng) + content[head:]
    return content[:-head] + change(content[-head:], rng)


def in_field(content: bytes, rng: random.Random) -> bytes:
    """Gives a number that stands behind a four-letter name another value."""
    names = (b"tkhd", b"mdhd", b"stts", b"stsz", b"stco", b"stsc", b"elst", b"ctts", b"avih", b"strh", b"strf", b"idx1", b"fmt ", b"data")
    names += (b"fLaC", b"OggS", b"OpusHead", b"\x44\x89", b"\x2a\xd7\xb1", b"\xb0", b"\xba", b"IHDR", b"\xff\xc0", b"\x00\x00\x01\xba")
    places = [place for name in names if (place := content.find(name)) >= 0]
    if not places:
        return in_header(content, rng)
    at = rng.choice(places) + 4 + rng.randrange(40)
    value = rng.choice([bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\1\0\0\0", rng.randbytes(4), rng.randbytes(1)])
    return content[:at] + value + content[at + len(value) :]


def hole(content: bytes, rng: random.Random) -> bytes:
    """Fills a block with zeros, as an interrupted download does."""
    begin, end = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:begin] + bytes(end - begin) + content[end:]


def removed(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:begin] + content[end:]


def swapped(content: bytes, rng: random.Random) -> bytes:
    size = rng.choice([64, 188, 512, 4096])
    blocks = [content[begin : begin + size] for begin in range(0, len(content), size)]
    one, other = rng.randrange(len(blocks)), rng.randrange(len(blocks))
    blocks[one], blocks[other] = blocks[other], blocks[one]
    return b"".join(blocks)


DAMAGES: tuple[Change, ...] = (*CHANGES, cut, in_header, in_header, in_field, in_field, hole, removed, swapped)


class Input(NamedTuple):
    """Is a file to try."""

    name: str
    content: bytes
    what: str  # was done to it
    source: str  # suffix of the whole file
    promises: bool  # whether its header is whole, and says how long it is


def damaged(whole: dict[str, bytes], rng: random.Random) -> Input:
    """Returns a changed file."""
    source = rng.choice(list(whole))
    content, suffix, kind = whole[source], source, rng.random()
    if kind < 0.06:
        suffix = rng.choice(list(RANK))[1:]
        return Input(f"x.{suffix}", content, "renamed", source, False)
    if kind < 0.12:
        other = rng.choice(list(whole))
        return Input(f"x.{suffix}", content + whole[other], f"joined to {other}", source, False)
    names = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        change = rng.choice(DAMAGES)
        names.append(change.__name__)
        content = change(content, rng) if content else content
    promises = source in PROMISED and content[:HEADER] == whole[source][:HEADER]
    return Input(f"x.{suffix}", content, " ".join(names), source, promises)


# --- what must be true -------------------------------------------------------------------------------------------------------------------


def predicted(path: Path) -> list[Clip]:
    """Decodes a file as launch.predict does."""
    found = list(cut_timed(path, clip_id="x", stride=FORM.seconds, form=FORM, rest="whole"))
    assert all(0 <= seconds <= FORM.seconds for _, seconds in found)
    return [clip for clip, _ in found]


def timeline(path: Path) -> list[Clip]:
    return [clip for clip, _ in cut_timed(path, clip_id="x", stride=0.5, form=FORM, rest="whole")]


def prepared(path: Path) -> list[Clip]:
    """Decodes a file as launch.prepare does."""
    return [decode_clip(path, clip_id="x", form=FORM)]


def prepared_long(path: Path) -> list[Clip]:
    return [decode_clip(path, clip_id="x", form=ClipForm(seconds=10, frame_size=SIDE, allow_missing=True))]


def prepared_both(path: Path) -> list[Clip]:
    return [decode_clip(path, clip_id="x", form=ClipForm(seconds=2, frame_size=SIDE, max_mismatch=1))]


def cut_up(path: Path) -> list[Clip]:
    return list(cut_clips(path, clip_id="x", stride=1, form=FORM))


def heard(path: Path) -> list[Clip]:
    """Decodes a file as a manifest's audio."""
    return [Clip("x", decode_audio(path), (), ())]


def shown(path: Path) -> list[Clip]:
    """Decodes a file as a manifest's frame."""
    try:
        image = decode_image(path.read_bytes(), SIDE, reduced=True)
    except ValueError as error:
        raise ClipError(str(path), "video", str(error)) from error
    return [Clip("x", np.zeros(0, np.int16), (encode_jpeg(image),), (), frame_times=(0.0,))]


READERS: Sequence[Callable[[Path], list[Clip]]] = (predicted, timeline, prepared, prepared_long, prepared_both, cut_up, heard, shown)


def check(clips: list[Clip], most: float) -> None:
    """Fails unless the values of clips are sane."""
    starts = [clip.start for clip in clips]
    assert clips, "nothing, without a word"
    assert starts == sorted(set(starts)), starts
    for clip in clips:
        assert clip.waveform.dtype == np.int16
        assert len(clip.waveform) <= clip_samples(most), len(clip.waveform)
        assert len(clip.waveform) or clip.frames
        assert len(clip.frames) <= 10
        assert list(clip.frame_times) == sorted(clip.frame_times), clip.frame_times
        assert all(0 <= moment <= most and math.isfinite(moment) for moment in clip.frame_times), clip.frame_times
        for frame in clip.frames:
            image = Image.open(io.BytesIO(frame))
            image.load()
            assert (image.size, image.mode) == ((SIDE, SIDE), "RGB")


def covered(clips: list[Clip]) -> float:
    """Returns up to which second there is anything."""
    return max(clip.start + max([len(clip.waveform) / SAMPLE_RATE, *(moment + 0.1 for moment in clip.frame_times)]) for clip in clips)


def outcome(path: Path, given: Input, read: Callable[[Path], list[Clip]]) -> str:
    """Reads a file and returns how it ended: READ, REFUSED, or what is wrong with what came of it."""
    begin = time.monotonic()
    path.write_bytes(given.content)
    how = READ
    try:
        clips = read(path)
        check(clips, 10 if read in (prepared_long, heard) else 2 if read is prepared_both else 1)
        if given.promises and read in (predicted, timeline, prepared_long, cut_up):
            end = covered(clips)
            assert end > LENGTH - LACKING, f"ends after {end:.2f} s of {LENGTH} s, without a word"
    except ClipError as error:
        text = str(error)
        how = f"no plain line: {text!r}" if "\n" in text or len(text) > 500 or not text.startswith(str(path)) else REFUSED
    except BaseException as error:
        how = f"{type(error).__name__}: {error}"
    took = time.monotonic() - begin
    return f"took {took:.0f} s" if how in (READ, REFUSED) and took > SECONDS else how


def tried(folder: Path, count: int, seed: int, isolate: bool = False) -> Iterator[tuple[str, Input, str]]:
    """Yields a description, the input and the outcome of `count` changed files."""
    whole = seeds(folder)
    for number in range(seed, seed + count):
        rng = random.Random(number)  # noqa: S311 - no secret
        given = damaged(whole, rng)
        read = rng.choice(READERS if given.source in IMAGES else READERS[:-1])
        how = (alone if isolate else outcome)(folder / given.name, given, read)
        yield f"{number} {read.__name__} {given.name} of {given.source}: {given.what}", given, how


def alone(path: Path, given: Input, read: Callable[[Path], list[Clip]]) -> str:
    """Does what `outcome` does in a process of its own, and also returns a crash, a hang, and memory beyond the limit."""
    receive, send = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(2 * SECONDS)
        os.write(send, outcome(path, given, read).encode(errors="replace")[:4000])
        os._exit(0)
    os.close(send)
    _, status, used = os.wait4(child, 0)
    with os.fdopen(receive, "rb") as pipe:
        how = pipe.read().decode()
    ended = f"ended by signal {signal.Signals(status & 127).name}" if status & 127 else ""
    large = f"took {used.ru_maxrss >> 10} MiB" if used.ru_maxrss << 10 > BYTES else ""
    return ended or (large if how in (READ, REFUSED) and large else how)


def test_each_kind_of_file_is_read_whole(tmp_path: Path) -> None:
    for suffix, content in seeds(tmp_path).items():
        given = Input(f"x.{suffix}", content, "nothing", suffix, suffix in PROMISED)
        assert outcome(tmp_path / given.name, given, predicted) == READ
    assert {f".{suffix}" for suffix in (*VIDEOS, *AUDIOS, *IMAGES)} <= {*VIDEO_SUFFIXES, *AUDIO_SUFFIXES, *IMAGE_SUFFIXES}


def test_damaged_media_are_read_sanely_or_refused_in_a_line(tmp_path: Path) -> None:
    assert faults({what: how for what, _, how in tried(tmp_path, 200, 0)}) == {}


def main(seed: int, count: int) -> None:
    ended = {}
    with tempfile.TemporaryDirectory() as folder:
        for what, given, how in tried(Path(folder), count, seed, isolate=True):
            ended[what] = how
            if how not in (READ, REFUSED):
                sys.stdout.write(f"{what}: {how}\n")
                Path(f"fault-{what.split()[0]}-{given.name}").write_bytes(given.content)
    sys.stdout.write(summary(ended))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
