"""Media files of every shape become clips or a named failure."""

import contextlib
import io
import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avmae_jax.data.clip import Clip
from avmae_jax.data.decode import one_clip
from avmae_jax.data.decode.form import ClipForm, clip_samples
from avmae_jax.data.decode.one_clip import decode_audio, decode_clip, frame_indices
from avmae_jax.data.decode.streams import Reader
from avmae_jax.errors import ClipError
from tests.media import loudest_hertz, number_of, numbered, tone, write_clip, write_media


def decode(path: Path, **options: Any) -> Clip:
    return decode_clip(path, clip_id="clip", form=ClipForm(frame_size=96, **options))


def numbers(clip: Clip) -> list[int]:
    return [number_of(frame) for frame in clip.frames]


def image_of(clip: Clip) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(clip.frames[0])))


def test_ten_seconds_fill_1024_spectrogram_frames() -> None:
    assert clip_samples(10.0) == 1023 * 160 + 400


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 5000))
def test_frame_indices_follow_the_written_rule(n: int) -> None:
    assert list(frame_indices(n)) == [max(0, int(i * n / 10) - 1) for i in range(10)]
    assert max(frame_indices(n)) < n


@pytest.mark.parametrize("count", [1, 3, 10, 16])
def test_any_number_of_frames_is_taken_with_their_times(tmp_path: Path, count: int) -> None:
    clip = decode(write_clip(tmp_path / "a.mp4", 3.0), seconds=2.0, frames=count)
    assert numbers(clip) == [max(0, i * 20 // count - 1) for i in range(count)]
    assert clip.frame_times == pytest.approx([number / 10 for number in numbers(clip)])


def test_frames_that_come_irregularly_keep_their_own_times(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 1.0, 1.05, 1.1, 1.5, 1.9]
    frames = [numbered(index) for index in range(8)]
    path = write_media(tmp_path / "x.mkv", frames=frames, times=times, frame_rate=20, sound=tone(300, 2), audio_codec="flac")
    clip = decode(path)
    assert clip.frame_times == pytest.approx([times[number] for number in numbers(clip)])


def test_a_clip_without_video_has_no_frame_times_and_an_image_file_has_one(tmp_path: Path) -> None:
    write_media(tmp_path / "x.wav", sound=tone(300, 1), audio_codec="pcm_s16le")
    Image.fromarray(numbered(5)).save(tmp_path / "x.png")
    found = [decode(tmp_path / name, allow_missing=True) for name in ("x.wav", "x.png")]
    assert [(len(clip.frames), clip.frame_times) for clip in found] == [(0, ()), (1, (0.0,))]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi"])
def test_frames_of_the_first_seconds_only(tmp_path: Path, name: str) -> None:
    clip = decode(write_clip(tmp_path / name, 3.0), seconds=2.0)
    assert numbers(clip) == list(frame_indices(20))
    assert len(clip.waveform) == clip_samples(2.0)
    assert clip.waveform.dtype == np.int16


def test_webm(tmp_path: Path) -> None:
    frames = [numbered(index) for index in range(20)]
    path = write_media(
        tmp_path / "a.webm", frames=frames, sound=tone(440, 2, 48_000), sample_rate=48_000, video_codec="libvpx", audio_codec="libopus"
    )
    clip = decode(path, seconds=2.0)
    assert numbers(clip) == list(frame_indices(20))
    assert abs(loudest_hertz(clip.waveform) - 440) < 1


@pytest.mark.parametrize("count", [1, 2, 7, 13])
def test_short_files_take_frames_from_what_decodes(tmp_path: Path, count: int) -> None:
    path = write_media(tmp_path / "a.mp4", frames=[numbered(i) for i in range(count)], sound=tone(300, count / 10))
    assert numbers(decode(path)) == list(frame_indices(count))


@pytest.mark.parametrize("claimed", [5, 400])
def test_a_header_that_lies_about_its_frames_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: int) -> None:
    monkeypatch.setattr(one_clip, "_guess_counts", lambda stream, seconds: (Fraction(10), 100, {claimed}))
    assert numbers(decode(write_clip(tmp_path / "a.mp4", 3.0))) == list(frame_indices(30))


def test_b_frames_are_counted_in_order_of_display(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", frames=[numbered(i) for i in range(40)], sound=tone(300, 4), video_codec="libx264")
    assert numbers(decode(path)) == list(frame_indices(40))


def test_variable_rate_counts_frames_by_the_average_rate(tmp_path: Path) -> None:
    times = [0.1 * index for index in range(10)] + [1 + 0.2 * index for index in range(10)]  # 20 frames in 3 s
    path = write_media(tmp_path / "a.mkv", frames=[numbered(i) for i in range(20)], times=times, sound=tone(300, 3))
    with one_clip.opened(path) as container:
        rate = container.streams.video[0].average_rate
    assert rate is not None
    assert numbers(decode(path, seconds=2.0, frame_rule="count")) == list(frame_indices(min(20, int(rate * 2))))


@pytest.mark.parametrize("rate", [None, 1000])
def test_a_missing_or_absurd_rate_counts_frames_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int | None) -> None:
    guess = one_clip._guess_counts

    def without_rate(stream: Any, seconds: float) -> Any:
        class Stream:
            average_rate = guessed_rate = rate
            frames, duration, time_base = stream.frames, stream.duration, stream.time_base

        return guess(Stream(), seconds)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(one_clip, "_guess_counts", without_rate)
    assert numbers(decode(write_clip(tmp_path / "a.mp4", 3.0), seconds=2.0)) == list(frame_indices(20))


def test_a_clip_of_300_ms(tmp_path: Path) -> None:
    clip = decode(write_clip(tmp_path / "a.mp4", 0.3))
    assert numbers(clip) == list(frame_indices(3))
    assert 0.25 <= len(clip.waveform) / 16_000 <= 0.5


def test_three_hours_cost_what_ten_seconds_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [np.full((16, 16, 3), 200, np.uint8)] * (3 * 3600)
    silence = np.zeros(3 * 3600 * 1000, np.float32)
    path = write_media(tmp_path / "a.mkv", frames=frames, frame_rate=1, sound=silence, sample_rate=1000, audio_codec="pcm_s16le")
    decoded = []
    real = Reader.pieces

    def counted(self: Reader) -> Iterator[Any]:
        for piece in real(self):
            decoded.append(type(piece.frame).__name__)
            yield piece

    monkeypatch.setattr(Reader, "pieces", counted)
    clip = decode(path)
    assert len(clip.waveform) == clip_samples(10.0)
    assert decoded.count("VideoFrame") == 10
    assert decoded.count("AudioFrame") < 50


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 96_000])
def test_any_sample_rate_becomes_16_khz(tmp_path: Path, rate: int) -> None:
    path = write_media(tmp_path / "a.mkv", frames=[numbered(0)] * 20, sound=tone(1000, 2, rate), sample_rate=rate, audio_codec="flac")
    waveform = decode(path).waveform
    assert abs(loudest_hertz(waveform) - 1000) < 2
    assert abs(len(waveform) / 16_000 - 2) < 0.01
    assert abs(np.abs(waveform[4000:-8000]).max() / 32768 - 0.5) < 0.01


@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("5.1", 6)])
def test_the_first_channel_is_taken_or_the_mean_of_all(tmp_path: Path, layout: str, channels: int) -> None:
    sound = np.stack([tone(500 * (channel + 1), 1) for channel in range(channels)])
    path = write_media(tmp_path / "a.mkv", sound=sound, layout=layout, audio_codec="flac")
    first, mean = decode_audio(path), decode_audio(path, channels="mean")
    np.testing.assert_allclose(first / 32768, sound[0], atol=1e-4)
    np.testing.assert_allclose(mean / 32768, sound.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le"])
def test_every_sample_format_has_the_same_scale(tmp_path: Path, codec: str) -> None:
    sound = tone(500, 0.5)
    waveform = decode_audio(write_media(tmp_path / "a.wav", sound=sound, audio_codec=codec))
    np.testing.assert_allclose(waveform / 32768, sound, atol=0.01)


def test_a_16_bit_waveform_at_16_khz_is_kept_exactly(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 8000).astype(np.int16)
    path = write_media(tmp_path / "a.wav", sound=(samples / 32768).astype(np.float32), audio_codec="pcm_s16le")
    np.testing.assert_array_equal(decode_audio(path), samples)


def test_silence_is_a_clip(tmp_path: Path) -> None:
    clip = decode(write_media(tmp_path / "a.mp4", frames=[numbered(0)] * 10, sound=np.zeros(16_000, np.float32)))
    assert not clip.waveform.any()


def test_grey_images_become_grey_rgb(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 96, dtype=np.uint8)[None, :, None], (96, 96, 3)).copy()
    path = write_media(tmp_path / "a.mkv", frames=[ramp] * 5, sound=tone(300, 0.5), video_codec="ffv1", pix_fmt="gray")
    image = image_of(decode(path)).astype(int)
    assert image.shape == (96, 96, 3)
    assert np.abs(image - ramp).max() <= 8


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (270, (0, 1))])
def test_rotated_video_stands_upright(tmp_path: Path, rotation: int, corner: tuple[int, int]) -> None:
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[:48, :48] = 255  # turning counter-clockwise by 90 degrees takes the upper left corner to the lower left
    path = write_media(tmp_path / "a.mp4", frames=[frame] * 5, sound=tone(300, 0.5), rotation=rotation)
    quadrants = image_of(decode(path)).mean(axis=2).reshape(2, 48, 2, 48).mean(axis=(1, 3))
    assert np.unravel_index(quadrants.argmax(), (2, 2)) == corner


@pytest.mark.parametrize(("height", "width"), [(48, 160), (160, 48), (300, 200), (64, 64)])
def test_the_centre_square_is_kept(tmp_path: Path, height: int, width: int) -> None:
    frame = np.zeros((height, width, 3), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    frame[top : top + side, left : left + side] = 255
    image = image_of(decode(write_media(tmp_path / "a.mp4", frames=[frame] * 5, sound=tone(300, 0.5))))
    assert image.shape == (96, 96, 3)
    assert image[3:-3, 3:-3].min() > 200


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def noise_in_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = len(content) // 3
    content[start : start + 20_000] = np.random.default_rng(0).bytes(20_000)
    path.write_bytes(content)


BROKEN: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "missing": ("a.mp4", lambda path: None, "open", "does not exist"),
    "folder": ("a.mp4", lambda path: path.mkdir(), "open", "is not a file"),
    "empty": ("a.mp4", lambda path: path.touch(), "open", "is empty"),
    "text": ("a.mp4", lambda path: path.write_text("not a film\n" * 100), "open", "can't be opened as a media file"),
    "playlist": ("a.mp4", lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://host/x.ts\n"), "open", "can't be opened"),
    "truncated": ("a.mp4", lambda path: half(write_clip(path, 4.0)), "open", "can't be opened as a media file"),
    "truncated, header first": (
        "a.mp4",
        lambda path: half(write_media(path, frames=map(numbered, range(40)), sound=tone(300, 4), options={"movflags": "faststart"})),
        "video",
        "truncated",
    ),
    "truncated mkv": ("a.mkv", lambda path: half(write_clip(path, 4.0)), "video", "is truncated: its video ends after"),
    "damaged": ("a.mkv", lambda path: noise_in_the_middle(write_clip(path, 4.0)), "video", ""),
    "without audio": ("a.mp4", lambda path: write_media(path, frames=[numbered(0)] * 9), "audio", "has no audio"),
    "without video": ("a.mp4", lambda path: write_media(path, sound=tone(300, 1)), "video", "has no moving images"),
    "zero length": ("a.mp4", lambda path: write_media(path, frames=[], sound=np.zeros(0, np.float32)), "video", "has no"),
    "zero length mkv": ("a.mkv", lambda path: write_media(path, frames=[], sound=np.zeros(0, np.float32)), "open", "End of file"),
    "too short": (
        "a.mkv",
        lambda path: write_media(path, frames=[numbered(0)], sound=np.zeros(399, np.float32), audio_codec="flac"),
        "audio",
        "399 samples",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_can_not_become_a_clip_is_named(tmp_path: Path, case: str) -> None:
    name, make, stage, reason = BROKEN[case]
    path = tmp_path / name
    make(path)
    with pytest.raises(ClipError) as caught:
        decode(path)
    assert caught.value.stage == stage, caught.value
    assert reason in caught.value.reason
    assert str(path) in str(caught.value)


@settings(deadline=None, max_examples=25)
@given(start=st.floats(0, 1), length=st.integers(1, 400), seed=st.integers(0, 99), name=st.sampled_from(["a.mp4", "a.mkv", "a.avi"]))
def test_any_damage_gives_a_clip_or_a_clip_error(
    tmp_path_factory: pytest.TempPathFactory, start: float, length: int, seed: int, name: str
) -> None:
    path = write_clip(tmp_path_factory.mktemp("damaged") / name, 0.5, size=24)
    content = bytearray(path.read_bytes())
    begin = int(start * len(content))
    content[begin : begin + length] = np.random.default_rng(seed).bytes(length)
    path.write_bytes(content)
    with contextlib.suppress(ClipError):
        assert len(decode(path).frames) == 10


def test_titles_need_not_be_unicode(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 0.3)
    path.write_bytes(path.read_bytes().replace(b"SoundHandler", b"Sound\xe4andler"))
    assert len(decode(path).frames) == 10


def test_damage_behind_the_needed_part_does_no_harm(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", 6.0)
    whole = decode(path, seconds=1.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert decode(path, seconds=1.0).frames == whole.frames


def test_an_error_survives_the_way_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(ClipError("a.mp4", "open", "is empty")))  # noqa: S301 - made one line above
    assert (error.path, error.stage, error.reason, str(error)) == ("a.mp4", "open", "is empty", "a.mp4 is empty")
