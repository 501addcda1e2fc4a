"""Decodes encoded images to square arrays of pixels."""

import contextlib
import io
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

# Pillow chooses by content, and some of its other formats start programs: PostScript is run by Ghostscript.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

_STRIP = 256  # rows


class Piece(NamedTuple):
    """Describes a piece of an image of any size."""

    area: float  # share of the image's area, in (0, 1]
    ratio: float  # width over height, before it is cut to what there is
    x: float  # 0: at the left edge, 1: at the right one
    y: float

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Returns left, top, right and bottom on an image of that size, in pixels."""
        pixels = self.area * width * height
        wide, high = min(width, math.sqrt(pixels * self.ratio)), min(height, math.sqrt(pixels / self.ratio))
        left, top = self.x * (width - wide), self.y * (height - high)
        return left, top, left + wide, top + high


def decode_piece(encoded: bytes, size: int, piece: Piece) -> np.ndarray:
    """Decodes a piece of an image, stretched (bicubic) to uint8[size, size, 3].

    Orientation, transparency and 16 bits a channel are handled as by decode_image. Raises ValueError if it is damaged, or no image.
    """
    with _opened(encoded) as opened:
        needed = math.ceil(size / math.sqrt(piece.area))
        opened.draft("RGB", (needed, needed))
        image = rgb(opened)
        image.info = opened.info
        image = ImageOps.exif_transpose(image)
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, piece.box(*image.size)))


def decode_image(encoded: bytes, size: int, *, reduced: bool = False) -> np.ndarray:
    """Decodes an image to uint8[size, size, 3]: resizes the short side (bicubic) unless it fits, then crops the centre.

    Sides and offsets are rounded as by torchvision's Resize and CenterCrop, with which the original loads its images. Unlike there, an
    image is turned upright as its EXIF says, transparency lies on white, and 16 bits a channel become 8 by their upper half.

    Args:
      encoded: a JPEG, or another of IMAGE_FORMATS.
      size: H = W.
      reduced: decode a JPEG at 1/2, 1/4 or 1/8 of its size where that leaves `size` or more: faster for large images (2.5 times at
        1280 x 720), with slightly other pixels.

    Raises:
      ValueError: if it is damaged, or no image.
    """
    with _opened(encoded) as opened:
        drafted = opened.draft("RGB", (size, size)) if reduced else None
        box = drafted[1] if drafted else (0, 0, *opened.size)  # not in whole pixels where the scale doesn't divide the sides
        image = rgb(opened)
        short = min(box[2:])
        if short != size:
            width, height = (int(size * side / short) for side in box[2:])
            image = image.resize((width, height), Image.Resampling.BICUBIC, box)
        left, top = (round((side - size) / 2) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
        image.info = opened.info
        return np.asarray(ImageOps.exif_transpose(image))


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS) as opened:
            yield opened
    except Exception as error:  # Pillow lets pass whatever a damaged header makes it raise
        raise ValueError(f"the image can't be decoded ({len(encoded)} bytes): {error}") from error


def rgb(image: Image.Image) -> Image.Image:
    """Converts an image to eight bits a channel, of sixteen the upper half, and lays transparency on white."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow would clip these to 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        whole = Image.new("RGB", image.size)
        for top in range(0, image.height, _STRIP):  # as a whole it would be in memory four times
            strip = image.crop((0, top, image.width, min(image.height, top + _STRIP))).convert("RGBA")
            whole.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
        return whole
    return image.convert("RGB")
