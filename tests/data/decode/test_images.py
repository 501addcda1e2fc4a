"""Pictures as they come: cropped and resized as torchvision would, of any mode, at a reduced scale where that is asked for."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avmae_jax.data.decode import images
from avmae_jax.data.decode.images import Piece, decode_image, decode_piece
from avmae_jax.data.decode.pixels import shrink_image


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def test_an_image_of_the_right_height_is_only_cropped() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 50, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(image), 32), image[:, 9:41])
    np.testing.assert_array_equal(decode_image(encoded(image.swapaxes(0, 1)), 32), image.swapaxes(0, 1)[9:41])


@pytest.mark.parametrize(("width", "left"), [(35, 2), (37, 2), (39, 4), (41, 4)])
def test_half_a_pixel_beside_the_crop_goes_to_the_even_side(width: int, left: int) -> None:
    """Checks that the crop is rounded as by torchvision's CenterCrop."""
    image = np.random.default_rng(0).integers(0, 256, (32, width, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(image), 32), image[:, left : left + 32])


@pytest.mark.parametrize(("width", "resized"), [(35, 17), (33, 16), (39, 19)])
def test_the_long_side_is_rounded_down(width: int, resized: int) -> None:
    """Checks that sizes are rounded as by torchvision's Resize, also where half a pixel or more is left."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, width, 3)).astype(np.uint8))
    expected = np.asarray(image.resize((resized, 10), Image.Resampling.BICUBIC))
    left = round((resized - 10) / 2)
    np.testing.assert_array_equal(decode_image(encoded(np.asarray(image)), 10), expected[:, left : left + 10])


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 120), width=st.integers(1, 120), size=st.integers(1, 64))
def test_any_image_becomes_a_square_of_its_own_middle(height: int, width: int, size: int) -> None:
    side = min(height, width)
    image = np.full((height, width, 3), 200, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = 100
    got = decode_image(encoded(image), size)
    assert got.shape == (size, size, 3)
    if side >= 16 and size >= 16:  # else smoothing mixes in what lies beside
        assert (got[size // 4 : size - size // 4, size // 4 : size - size // 4] == 100).all()


def test_a_grey_or_transparent_image_has_three_channels() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(grey), 32), np.repeat(grey[..., None], 3, axis=2))
    assert decode_image(encoded(np.zeros((40, 40, 4), np.uint8)), 32).shape == (32, 32, 3)


# --- other modes, other sizes -----------------------------------------------------------------------------------------------------------


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(height: int, width: int) -> np.ndarray:
    """Smooth colours with an edge: uint8[H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    colours = np.stack([0.5 + 0.4 * np.sin(9 * x + 4 * y), x, 0.3 + 0.5 * (y > 0.4)], axis=-1)
    return (255 * colours).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 90), (65, 65), (131, 131), (400, 300), (511, 777), (1080, 1920)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_reduced_jpeg_looks_the_same(height: int, width: int, mode: str, progressive: bool) -> None:
    jpeg = saved(Image.fromarray(scene(height, width)).convert(mode), "jpeg", quality=95, progressive=progressive)
    exact, reduced = (decode_image(jpeg, 32, reduced=reduced).astype(float) for reduced in (False, True))
    assert np.abs(exact - reduced).mean() < 1.5  # of 255
    if min(height, width) < 64:
        np.testing.assert_array_equal(exact, reduced)


@pytest.mark.parametrize(("short", "decoded"), [(32, 32), (63, 63), (64, 32), (127, 64), (128, 32), (256, 32), (511, 64), (513, 65)])
def test_a_reduced_jpeg_is_never_decoded_smaller_than_needed(short: int, decoded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(images, "rgb", lambda image: seen.append(image.width) or image.copy())
    decode_image(saved(Image.new("RGB", (short, 2 * short)), "jpeg"), 32, reduced=True)
    assert seen == [decoded]


def test_a_png_is_not_reduced() -> None:
    png = encoded(scene(200, 300))
    np.testing.assert_array_equal(decode_image(png, 32, reduced=True), decode_image(png, 32))


@pytest.mark.parametrize(("ink", "seen"), [((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))])
@pytest.mark.parametrize("reduced", [False, True])
def test_the_inks_of_a_cmyk_jpeg_become_colours(ink: tuple[int, ...], seen: tuple[int, ...], reduced: bool) -> None:
    got = decode_image(saved(Image.new("CMYK", (100, 80), ink), "jpeg", quality=95), 32, reduced=reduced)
    assert got.shape == (32, 32, 3)
    assert np.abs(got.astype(int) - seen).max() <= 3


def test_a_palette_is_looked_up() -> None:
    image = Image.fromarray(scene(40, 40)).quantize(16)
    np.testing.assert_array_equal(decode_image(saved(image, "png"), 40), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode: str) -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 16, 32))
    got = decode_image(saved(image.quantize(4) if mode == "P" else image.convert(mode), "png"), 32)
    assert (got[:, :16] == 255).all()
    assert (got[:, 16:] == 0).all()


def test_half_transparent_is_half_white() -> None:
    got = decode_image(saved(Image.new("RGBA", (32, 32), (100, 0, 0, 128)), "png"), 32)
    assert np.abs(got[0, 0].astype(int) - (177, 127, 127)).max() <= 1


def test_sixteen_bits_become_eight() -> None:
    values = (np.arange(32 * 32).reshape(32, 32) * 64).astype(np.uint16)
    got = decode_image(saved(Image.fromarray(values), "png"), 32)
    np.testing.assert_array_equal(got, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_an_image_stands_as_its_exif_says(orientation: int, turn: int, reduced: bool) -> None:
    image, exif = Image.fromarray(scene(90, 150)), Image.Exif()
    exif[0x0112] = orientation
    plain = decode_image(saved(image, "jpeg", quality=95), 30, reduced=reduced)
    got = decode_image(saved(image, "jpeg", quality=95, exif=exif), 30, reduced=reduced)
    assert np.abs(got.astype(int) - np.rot90(plain, turn)).mean() < 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_an_image_of_any_mode_stands_upright(mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(32 * 32).reshape(32, 32)
    image = Image.fromarray((values * 64).astype(np.uint16)) if mode == "I;16" else Image.fromarray(scene(32, 32)).convert(mode)
    plain, turned = decode_image(saved(image, "png"), 32), decode_image(saved(image, "png", exif=exif), 32)
    np.testing.assert_array_equal(turned, np.rot90(plain, 3))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@settings(deadline=None, max_examples=25)
@given(share=st.floats(0, 0.9))
def test_an_image_cut_off_is_an_error(kind: str, share: float) -> None:
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)), kind)
    for reduced in (False, True):
        with pytest.raises(ValueError, match=rf"{int(share * len(whole))} bytes"):
            decode_image(whole[: int(share * len(whole))], 32, reduced=reduced)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff", bytes(2000)])
def test_what_is_no_image_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=f"{len(content)} bytes"):
        decode_image(content, 32)


def test_postscript_is_no_picture() -> None:
    """Pillow would hand it to Ghostscript, whatever the file is called."""
    with pytest.raises(ValueError, match="bytes"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n", 16)


@given(st.floats(0.05, 1), st.floats(0.5, 2), st.floats(0, 1), st.floats(0, 1), st.integers(8, 300), st.integers(8, 300))
def test_a_piece_lies_on_its_picture(area: float, ratio: float, x: float, y: float, width: int, height: int) -> None:
    left, top, right, bottom = Piece(area, ratio, x, y).box(width, height)
    assert -1e-9 <= left < right <= width + 1e-9
    assert -1e-9 <= top < bottom <= height + 1e-9
    assert (right - left) * (bottom - top) <= area * width * height * (1 + 1e-9)


def test_a_piece_is_cut_where_it_says() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:20, 20:] = 200
    np.testing.assert_array_equal(decode_piece(encoded(image), 16, Piece(0.1, 1, 1, 0)), np.full((16, 16, 3), 200))
    assert not decode_piece(encoded(image), 16, Piece(0.1, 1, 0, 1)).any()
    with pytest.raises(ValueError, match="8 bytes"):
        decode_piece(b"no image", 16, Piece(0.25, 1, 1, 0))


def test_the_whole_of_a_square_image_is_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode_piece(encoded(image), 32, Piece(1, 1, 0.3, 0.7)), image)


def test_an_image_file_becomes_the_same_pixels(tmp_path: Path) -> None:
    """Sixteen bits and transparency, read as a medium and as a stored frame."""
    deep = np.linspace(0, 65_535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.new("RGBA", (32, 32), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    for name in ("deep.png", "clear.png"):
        shrunk, read = shrink_image(tmp_path / name, 32), decode_image((tmp_path / name).read_bytes(), 32)
        assert np.abs(shrunk.astype(int) - read).max() <= 2  # FFmpeg's scaling
