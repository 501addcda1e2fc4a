"""Images as they look on a screen, and within limits."""

import io
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from avmae_jax.data.clip import Clip
from avmae_jax.data.decode import tones
from avmae_jax.data.decode.form import ClipForm
from avmae_jax.data.decode.many_clips import cut_clips
from avmae_jax.data.decode.media import IMAGE_SUFFIXES
from avmae_jax.data.decode.one_clip import decode_clip
from avmae_jax.data.decode.pixels import Deinterlacer, shrink
from avmae_jax.errors import ClipError
from tests.data.decode.tracks import Audio, Video, write_tracks
from tests.media import tone

ANY = ClipForm(frame_size=96, allow_missing=True)


def image_of(clip: Clip, number: int = 0) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(clip.frames[number]))).astype(int)


def disc(height: int, width: int, aspect: float) -> np.ndarray:
    """Draws what a circle looks like when it is stored in pixels that aren't square."""
    y, x = np.mgrid[0:height, 0:width]
    inside = (y - height / 2) ** 2 + ((x - width / 2) * aspect) ** 2 < (0.35 * min(height, width * aspect)) ** 2
    return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("height", "width", "aspect"), [(144, 176, "64/45"), (144, 176, "1/1"), (144, 96, "2/1"), (96, 176, "1/2"), (96, 96, "4/3")]
)
def test_a_circle_is_a_circle(tmp_path: Path, height: int, width: int, aspect: str) -> None:
    shape = Fraction(aspect)
    for name, rotation in (("x.mp4", 0), ("x.mp4", 90), ("x.mov", 180), ("x.mp4", 270), ("x.mkv", 0), ("x.mkv", 90), ("x.avi", 0)):
        check_disc(write_tracks(tmp_path / name, Video([disc(height, width, float(shape))] * 3, aspect=shape, rotation=rotation)))


def check_disc(path: Path) -> None:
    for clip in (decode_clip(path, clip_id="x", form=ANY), *cut_clips(path, clip_id="x", form=ANY)):
        bright = image_of(clip).mean(axis=2) > 128
        wide, high = (np.ptp(np.nonzero(bright.any(axis=axis))[0]) + 1 for axis in (0, 1))
        assert wide / high == pytest.approx(1, abs=0.03)
        assert high == pytest.approx(0.7 * 96, abs=3)


def perceptual(nits: float) -> float:
    """Computes the PQ curve of SMPTE ST 2084, from light to a code in [0, 1]."""
    y = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hybrid(share: float) -> float:
    """Computes the curve of hybrid log-gamma, from light to a code in [0, 1]."""
    return (3 * share) ** 0.5 if share <= 1 / 12 else 0.17883277 * np.log(12 * share - 0.28466892) + 0.55991073


def deep(code: float, transfer: int) -> av.VideoFrame:
    frame = av.VideoFrame(32, 32, "yuv420p10le")
    for plane, value in zip(frame.planes, (round(64 + 876 * code), 512, 512), strict=True):
        plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
    frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = transfer, 9, 9, 1
    return frame


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range_is_mapped_to_the_standard_one(transfer: int) -> None:
    """Compares with the codes read as standard video: mid grey is darker, white brighter, black is the same, and the order stays."""
    light = (0, 5, 26, 203, 1000) if transfer == 16 else (0, 0.01, 0.05, 0.26, 1)
    codes = [(perceptual if transfer == 16 else hybrid)(value) for value in light]
    mapped = [int(shrink(deep(code, transfer), 16).mean()) for code in codes]
    plain = [int(shrink(deep(code, 1), 16).mean()) for code in codes]
    assert mapped[0] <= 1
    assert mapped == sorted(mapped)
    assert mapped[1] < plain[1] or transfer == 18
    assert mapped != plain
    assert mapped[-1] > 190


def fields(step: int) -> av.VideoFrame:
    """Makes an interlaced frame, uint8[64, 64], of a bar that moves by 8 pixels from one field to the next."""
    image = np.full((64, 64), 16, np.uint8)
    for parity in (0, 1):
        left = (16 * step + 8 * parity) % 48
        image[parity::2, left : left + 12] = 235
    frame = av.VideoFrame.from_ndarray(np.concatenate([image.ravel(), np.full(2048, 128, np.uint8)]).reshape(96, 64), format="yuv420p")
    frame.pts, frame.time_base = step, Fraction(1, 25)
    return frame


def combing(frame: av.VideoFrame) -> float:
    rows = frame.to_ndarray(format="gray").astype(float)
    return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())


def test_progressive_frames_pass_as_they_are() -> None:
    frame = fields(0)
    assert list(Deinterlacer().add(frame)) == [frame]


def test_interlaced_video_is_deinterlaced(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream: Any = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 64, "yuv420p", {"flags": "+ildct+ilme", "qmin": "1", "qmax": "1"}
        for step in range(50):
            container.mux(stream.encode(fields(step)))
        container.mux(stream.encode(None))
    deinterlacer = Deinterlacer()
    with av.open(str(tmp_path / "x.mkv")) as container:
        woven = list(container.decode(video=0))
    seen = [frame for woven_frame in woven for frame in deinterlacer.add(woven_frame)] + list(deinterlacer.finish())
    assert woven[0].interlaced_frame
    assert [frame.time for frame in seen] == pytest.approx([frame.time for frame in woven])
    assert max(combing(frame) for frame in seen[1:]) < combing(woven[1]) / 4
    form = ClipForm(frame_size=64, allow_missing=True, seconds=2)
    for clip in (decode_clip(tmp_path / "x.mkv", clip_id="x", form=form), *cut_clips(tmp_path / "x.mkv", clip_id="x", form=form)):
        assert len(clip.frames) == 10
        rows = image_of(clip, 5).mean(axis=2)
        assert np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean() < combing(woven[1]) / 4


@pytest.mark.parametrize("mode", ["P", "RGBA", "L"])
def test_an_image_above_the_limit_is_refused_before_it_is_decoded(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new(mode, (300, 200))
    if mode == "P":
        image.info["transparency"] = 0
    image.save(tmp_path / "x.png")
    assert decode_clip(tmp_path / "x.png", clip_id="x", form=ClipForm(allow_missing=True, max_pixels=60_000)).frames
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ClipError, match=r"300 x 200.*max_pixels"):
        decode_clip(tmp_path / "x.png", clip_id="x", form=ClipForm(allow_missing=True, max_pixels=59_999))


def test_max_pixels_decides_where_pillow_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # Pillow refuses twice as many
    assert decode_clip(tmp_path / "x.png", clip_id="x", form=ClipForm(allow_missing=True, max_pixels=60_000)).frames
    with pytest.raises(ClipError, match=r"300 x 200.*max_pixels"):
        decode_clip(tmp_path / "x.png", clip_id="x", form=ClipForm(allow_missing=True, max_pixels=59_999))
    assert Image.MAX_IMAGE_PIXELS == 20_000


def test_a_video_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "x.mp4", Video([np.zeros((64, 96, 3), np.uint8)] * 3), Audio(tone(300, 1), codec="aac"))
    assert decode_clip(path, clip_id="x", form=ClipForm(max_pixels=64 * 96)).frames
    with pytest.raises(ClipError, match=r"96 x 64.*max_pixels"):
        decode_clip(path, clip_id="x", form=ClipForm(max_pixels=64 * 96 - 1))


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (3000, 20)])
def test_a_very_long_image_is_its_middle(tmp_path: Path, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "blue")
    image.paste(
        (255, 0, 0),
        (size[0] // 2 - 40 if size[0] > 80 else 0, size[1] // 2 - 40 if size[1] > 80 else 0, size[0] // 2 + 40, size[1] // 2 + 40),
    )
    image.save(tmp_path / "x.png")
    found = image_of(decode_clip(tmp_path / "x.png", clip_id="x", form=ANY))
    assert found.shape == (96, 96, 3)
    assert (found[:, :, 0] > 240).all()


def test_text_that_inflates_is_refused(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 70_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=text)
    with pytest.raises(ClipError, match="can't be decoded as an image"):
        decode_clip(tmp_path / "x.png", clip_id="x", form=ANY)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_an_image_of_every_suffix_is_decoded(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (50, 40), (250, 0, 0)).save(tmp_path / f"x{suffix}")
    assert (image_of(decode_clip(tmp_path / f"x{suffix}", clip_id="x", form=ANY))[:, :, 0] > 240).all()


@pytest.mark.parametrize("name", ["x.png", "x.mp4", "x.wav"])
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / f"device{name}").symlink_to("/dev/zero")
    (tmp_path / f"loop{name}").symlink_to(tmp_path / f"loop{name}")
    for path in (tmp_path / name, tmp_path / f"device{name}", tmp_path / f"loop{name}"):
        with pytest.raises(ClipError) as caught:
            decode_clip(path, clip_id="x", form=ANY)
        assert caught.value.stage == "open"


@pytest.mark.slow
@pytest.mark.parametrize("transfer", tones.HIGH_RANGE)
def test_the_stored_tables_of_high_dynamic_range_are_those_of_ffmpeg(transfer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets FFmpeg compute the whole table, which takes some 10 s."""
    computed = tones.computed(transfer, 9).reshape(-1) / 255
    monkeypatch.setattr(tones, "computed", lambda *_: pytest.fail("computed"))
    stored = np.asarray(tones.to_standard_range(transfer, 9).table)
    assert np.abs(stored - computed).max() <= 1.01 / 255


@pytest.mark.parametrize("field", ["color_trc", "color_primaries", "colorspace"])
@pytest.mark.parametrize("value", [0, 3, 200])
def test_colours_of_reserved_numbers_are_the_usual_ones(field: str, value: int) -> None:
    plain, odd = deep(0.5, 1), deep(0.5, 1)
    for frame in (plain, odd):
        frame.color_trc = frame.color_primaries = frame.colorspace = 2
    setattr(odd, field, value)
    assert np.abs(shrink(odd, 16).astype(int) - shrink(plain, 16)).max() <= 6
