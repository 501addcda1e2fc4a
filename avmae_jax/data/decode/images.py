"""Encoded pictures to square arrays of pixels."""

import contextlib
import io
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

# Pillow chooses by content, and some of its other formats start programs: PostScript is run by Ghostscript.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class Piece(NamedTuple):
    """A piece of a picture of any size."""

    area: float  # share of the picture's, in (0, 1]
    ratio: float  # width over height, before it is cut to what there is
    x: float  # 0: at the left edge, 1: at the right one
    y: float

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom on a picture, in pixels."""
        pixels = self.area * width * height
        wide, high = min(width, math.sqrt(pixels * self.ratio)), min(height, math.sqrt(pixels / self.ratio))
        left, top = self.x * (width - wide), self.y * (height - high)
        return left, top, left + wide, top + high


def decode_piece(encoded: bytes, size: int, piece: Piece) -> np.ndarray:
    """A piece of an encoded picture, stretched (bicubic) to uint8[size, size, 3]; as decode_image otherwise."""
    with _opened(encoded) as opened:
        needed = math.ceil(size / math.sqrt(piece.area))
        opened.draft("RGB", (needed, needed))
        picture = rgb(opened)
        picture.info = opened.info
        picture = ImageOps.exif_transpose(picture)
        return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, piece.box(*picture.size)))


def decode_image(encoded: bytes, size: int, *, reduced: bool = False) -> np.ndarray:
    """Encoded picture -> uint8[size, size, 3]: short side resized (bicubic) unless it fits, then the centre cut out.

    Sides and offsets are rounded as by torchvision's Resize and CenterCrop, which the original loads its pictures with. Unlike there, a
    picture is turned upright as its EXIF says, transparency lies on white, and 16 bits a channel become 8 by their upper half.

    Args:
      encoded: a JPEG, or another of PICTURE_FORMATS.
      size: H = W.
      reduced: decode a JPEG at 1/2, 1/4 or 1/8 of its size where that leaves `size` or more: faster for large pictures (2.5 times at
        1280 x 720), with slightly other pixels.

    Raises:
      ValueError: if it is damaged, or no picture.
    """
    with _opened(encoded) as opened:
        drafted = opened.draft("RGB", (size, size)) if reduced else None
        box = drafted[1] if drafted else (0, 0, *opened.size)  # not in whole pixels where the scale doesn't divide the sides
        picture = rgb(opened)
        short = min(box[2:])
        if short != size:
            width, height = (int(size * side / short) for side in box[2:])
            picture = picture.resize((width, height), Image.Resampling.BICUBIC, box)
        left, top = (round((side - size) / 2) for side in picture.size)
        picture = picture.crop((left, top, left + size, top + size))
        picture.info = opened.info
        return np.asarray(ImageOps.exif_transpose(picture))


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(encoded), formats=PICTURE_FORMATS) as opened:
            yield opened
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: Pillow's word for a broken PNG
        raise ValueError(f"the picture can't be decoded ({len(encoded)} bytes): {error}") from error


def rgb(picture: Image.Image) -> Image.Image:
    """Eight bits a channel: of sixteen the upper half; what is transparent lies on white."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):  # Pillow would clip these to 255
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return picture.convert("RGB")
