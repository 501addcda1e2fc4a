"""Tests which tracks are used, and that files are read that are joined, slightly damaged, or whose streams end at different times."""

from pathlib import Path

import av
import numpy as np
import pytest

from avmae_jax.data.decode.form import ClipForm
from avmae_jax.data.decode.many_clips import cut_clips
from avmae_jax.data.decode.media import AUDIO_SUFFIXES, IMAGE_SUFFIXES, RANK, VIDEO_SUFFIXES
from avmae_jax.data.decode.one_clip import decode_audio, decode_clip
from avmae_jax.errors import ClipError
from tests.data.decode.tracks import Audio, Video, write_tracks
from tests.media import loudest_hertz, number_of, numbered, tone

SMALL = ClipForm(seconds=2, frame_size=96)


def film(seconds: float, codec: str = "mpeg4", first: int = 0) -> Video:
    return Video([numbered(first + number) for number in range(round(10 * seconds))], codec=codec)


def test_the_default_audio_track_is_heard(tmp_path: Path) -> None:
    tracks = [film(2), Audio(tone(300, 2), default=False), Audio(tone(900, 2))]
    assert loudest_hertz(decode_audio(write_tracks(tmp_path / "x.mkv", *tracks))) == pytest.approx(900, abs=2)
    tracks[2] = Audio(tone(900, 2), default=False)
    assert loudest_hertz(decode_audio(write_tracks(tmp_path / "y.mkv", *tracks))) == pytest.approx(300, abs=2)


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_a_thumbnail_before_the_film_is_passed_over(tmp_path: Path, name: str) -> None:
    path = write_tracks(tmp_path / name, Video([numbered(999)]), film(3), Audio(tone(300, 3), codec="aac"))
    clip = decode_clip(path, clip_id="x", form=SMALL)
    assert [number_of(frame) for frame in clip.frames] == [max(0, 2 * i - 1) for i in range(10)]
    assert len(list(cut_clips(path, clip_id="x", stride=1, form=ClipForm(seconds=1)))) == 3


def test_joined_transport_streams_are_used(tmp_path: Path) -> None:
    """Cuts in the middle of packets: continuity counters jump, and a frame or two are lost."""
    path = write_tracks(tmp_path / "x.ts", film(6, "mpeg2video"), Audio(tone(300, 6), codec="mp2"))
    content = path.read_bytes()
    third = len(content) // 188 // 3 * 188
    path.write_bytes(content[:third] + content[third + 188 * 12 :])
    clips = list(cut_clips(path, clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96)))
    assert len(clips) in (5, 6)
    assert number_of(clips[4].frames[5]) // 10 == 4


def test_a_packet_that_cant_be_decoded_is_silence(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "x.mkv", film(3), Audio(tone(300, 3), codec="flac"))
    clean = decode_clip(path, clip_id="x").waveform
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(audio=0) if packet.pts is not None and packet.size][10]
    assert place is not None
    content = bytearray(path.read_bytes())
    content[place + 10 : place + 40] = bytes(30)
    path.write_bytes(content)
    waveform = decode_clip(path, clip_id="x").waveform
    assert len(waveform) == len(clean)
    lost = np.nonzero(waveform != clean)[0]
    assert 0 < len(lost) < 8000
    assert not waveform[lost].any()


@pytest.mark.parametrize(("seen", "heard"), [(3, 8), (8, 3)])
@pytest.mark.parametrize("name", ["x.mkv", "x.mp4", "x.ts"])
def test_tracks_of_other_lengths_are_no_damage(tmp_path: Path, name: str, seen: float, heard: float) -> None:
    path = write_tracks(tmp_path / name, film(seen, "mpeg2video"), Audio(tone(300, heard), codec="mp2"))
    clip = decode_clip(path, clip_id="x", form=ClipForm(seconds=10, frame_size=96))
    assert len(clip.waveform) / 16_000 == pytest.approx(heard, abs=0.1)
    assert number_of(clip.frames[-1]) == pytest.approx(seen * 9 - 1, abs=1)
    with pytest.raises(ClipError, match="of audio and"):
        decode_clip(path, clip_id="x", form=ClipForm(max_mismatch=2))


def test_a_file_that_ends_early_is_truncated_however_long_its_tracks(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "x.mkv", film(8), Audio(tone(300, 6)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(ClipError, match="truncated"):
        decode_clip(path, clip_id="x")
    assert decode_clip(path, clip_id="x", form=SMALL).frames


def test_every_suffix_has_one_rank() -> None:
    assert len(RANK) == len(VIDEO_SUFFIXES) + len(AUDIO_SUFFIXES) + len(IMAGE_SUFFIXES)


# A container for each suffix that the encoder's own doesn't fit, a codec, and a rate.
AUDIO = {
    ".aac": "aac 16000",
    ".ac3": "ac3 48000",
    ".eac3": "eac3 48000",
    ".ec3": "eac3 48000 eac3",
    ".amr": "libopencore_amrnb 8000",
    ".au": "pcm_s16be 16000",
    ".snd": "pcm_s16be 16000 au",
    ".aiff": "pcm_s16be 16000",
    ".aif": "pcm_s16be 16000 aiff",
    ".aifc": "pcm_s16be 16000 aiff",
    ".caf": "pcm_s16be 16000",
    ".flac": "flac 16000",
    ".oga": "flac 16000",
    ".mka": "flac 16000",
    ".m4a": "aac 16000 mp4",
    ".m4b": "aac 16000 mp4",
    ".m4r": "aac 16000 mp4",
    ".mp2": "mp2 16000",
    ".mp3": "libmp3lame 16000",
    ".ogg": "libopus 48000",
    ".opus": "libopus 48000",
    ".weba": "libopus 48000 webm",
    ".tta": "tta 16000",
    ".w64": "pcm_s16le 16000",
    ".wav": "pcm_s16le 16000",
    ".wv": "wavpack 16000",
    ".wma": "wmav2 44100 asf",
}
VIDEO = {
    ".mp4": "mpeg4 aac",
    ".m4v": "mpeg4 aac mp4",
    ".f4v": "mpeg4 aac mp4",
    ".mov": "mpeg4 aac",
    ".3gp": "mpeg4 aac",
    ".3g2": "mpeg4 aac",
    ".mkv": "mpeg4 aac",
    ".mk3d": "mpeg4 aac matroska",
    ".webm": "libvpx libopus",
    ".ogv": "libvpx libopus ogg",
    ".avi": "mpeg4 mp2",
    ".divx": "mpeg4 mp2 avi",
    ".flv": "flv aac",
    ".ts": "mpeg2video mp2",
    ".mts": "mpeg2video mp2 mpegts",
    ".m2ts": "mpeg2video mp2 mpegts",
    ".m2t": "mpeg2video mp2 mpegts",
    ".mpg": "mpeg2video mp2",
    ".mpeg": "mpeg2video mp2 mpeg",
    ".vob": "mpeg2video mp2",
    ".wmv": "wmv2 wmav2 asf",
    ".asf": "wmv2 wmav2",
    ".mxf": "mpeg2video pcm_s16le",
    ".dv": "dvvideo pcm_s16le",
}


def sound(rate: int, seconds: float) -> np.ndarray:
    return np.stack([tone(440, seconds, rate)] * 2)


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_audio_of_every_suffix_is_decoded(tmp_path: Path, suffix: str) -> None:
    codec, rate, container = [*AUDIO[suffix].split(), None][:3]
    mono = suffix == ".amr"
    track = Audio(sound(int(rate), 1)[: 1 if mono else 2], rate=int(rate), codec=codec, layout="mono" if mono else "stereo")
    path = write_tracks(tmp_path / f"x{suffix}", track, container=container)
    (clip,) = cut_clips(path, clip_id="x", form=ClipForm(allow_missing=True))
    assert len(clip.waveform) / 16_000 == pytest.approx(1, abs=0.1)
    assert loudest_hertz(clip.waveform) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_video_of_every_suffix_is_decoded(tmp_path: Path, suffix: str) -> None:
    video, audio, container = [*VIDEO[suffix].split(), None][:3]
    rate = 44_100 if audio == "wmav2" else 48_000
    size, frame_rate = ((576, 720), 25) if video == "dvvideo" else ((96, 96), 25)
    frames = [np.full((*size, 3), 100, np.uint8)] * frame_rate
    tracks = Video(frames, rate=frame_rate, codec=video), Audio(sound(rate, 1), rate=rate, codec=audio, layout="stereo")
    path = write_tracks(tmp_path / f"x{suffix}", *tracks, container=container)
    clip = decode_clip(path, clip_id="x")
    assert len(clip.frames) == 10
    assert loudest_hertz(clip.waveform) == pytest.approx(440, abs=2)


PROMISING = {
    "x.wav": "pcm_s16le",
    "x.aiff": "pcm_s16be",
    "x.au": "pcm_s16be",
    "x.w64": "pcm_s16le",
    "x.caf": "pcm_s16be",
    "x.mp3": "libmp3lame",
    "x.wma": "wmav2",
}


@pytest.mark.parametrize("name", PROMISING)
def test_audio_that_ends_before_its_header_says_is_truncated(tmp_path: Path, name: str) -> None:
    """FFmpeg computes the length of most of these from what is left."""
    rate = 44_100 if name == "x.wma" else 16_000
    track = Audio(sound(rate, 4)[:1], rate=rate, codec=PROMISING[name])
    path = write_tracks(tmp_path / name, track, container="asf" if name == "x.wma" else None)
    form = ClipForm(allow_missing=True)
    assert len(decode_clip(path, clip_id="x", form=form).waveform) / 16_000 == pytest.approx(4, abs=0.1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    for read in (lambda: decode_clip(path, clip_id="x", form=form), lambda: list(cut_clips(path, clip_id="x", form=form))):
        with pytest.raises(ClipError, match=r"truncated.*2\.\d.* (4\.0|3\.9)"):
            read()
    assert len(decode_clip(path, clip_id="x", form=ClipForm(seconds=2, allow_missing=True)).waveform) / 16_000 == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("share", [0.08, 0.3, 0.6])
def test_an_avi_that_ends_before_its_header_says_is_truncated(tmp_path: Path, share: float) -> None:
    path = write_tracks(tmp_path / "x.avi", film(4), Audio(tone(300, 4), codec="pcm_s16le"))
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * share)])
    for read in (decode_clip, lambda *args, **options: list(cut_clips(*args, **options))):
        with pytest.raises(ClipError, match=r"truncated|nothing"):
            read(path, clip_id="x", form=ClipForm(allow_missing=True))


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_size_that_its_writer_did_not_know_is_no_promise(tmp_path: Path, size: int) -> None:
    path = write_tracks(tmp_path / "x.wav", Audio(tone(300, 2), codec="pcm_s16le"))
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(decode_audio(path)) == pytest.approx(32_000, abs=20)
