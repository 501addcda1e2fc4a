"""Draws where in its images a medium's audio is, along time: frames in a row, and below each the same with its heat map.

Axis letters: k frames, P rows and columns of patches, H W image.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps

from avmae_jax.plots.canvas import SMALL, TITLE, WIDTH, Box, blank, fitting, save, write
from avmae_jax.plots.clips import show_image
from avmae_jax.plots.heatmap import painted
from avmae_jax.plots.palette import LIGHT, SIGNED

FRAMES = 6  # in a row
_MARGIN, _GAP, _HEAD, _LABEL, _BAR = 14, 12, 66, 22, 40  # pixels


def draw_audio_places(path: Path, images: np.ndarray, heat: np.ndarray, times: Sequence[float], *, title: str) -> None:
    """Saves a PNG of k frames of a medium in order of time with the cosine of the audio around each with its patches.

    Args:
      path: of the PNG; its folder is created if missing.
      images: uint8[k, H, W, 3].
      heat: float32[k, P, P], cosines; all frames share one scale.
      times: s, at which the images are shown.
      title: one line.

    Raises:
      OSError: if the file can't be written.
    """
    rows = -(-len(images) // FRAMES)
    side = (WIDTH - 2 * _MARGIN - (FRAMES - 1) * _GAP) / FRAMES
    row = _LABEL + 2 * side + 2 * _GAP
    wide = min(len(images), FRAMES) * (side + _GAP) - _GAP
    figure = blank(WIDTH, _HEAD + rows * row + _BAR)
    write(figure, _MARGIN, 20, fitting(title, WIDTH - 2 * _MARGIN, TITLE, "bold"), size=TITLE, weight="bold")
    words = "cosine of the audio around each moment with each patch of its image: red is most like the audio, blue least"
    write(figure, _MARGIN, 44, words, color=LIGHT.soft)
    low, high = float(heat.min()), float(heat.max())
    for number, (image, values, time) in enumerate(zip(images, heat, times, strict=True)):
        left, top = _MARGIN + number % FRAMES * (side + _GAP), _HEAD + number // FRAMES * row
        write(figure, left, top + _LABEL / 2, f"{time:.2f} s", size=SMALL, color=LIGHT.soft)
        shown = image.astype(np.float32) / 255
        grey = np.repeat(shown.mean(axis=-1, keepdims=True), 3, axis=-1)
        for place, pixels in enumerate((shown, painted(grey, values, low, high))):
            show_image(figure, Box(left, top + _LABEL + place * (side + 4), side, side), pixels)
    middle = _HEAD + rows * row + _BAR / 2 - 8
    write(figure, _MARGIN, middle, f"{low:+.2f}", size=SMALL, color=LIGHT.soft)
    show_image(figure, Box(_MARGIN + 50, middle - 6, wide - 100, 12), colormaps[SIGNED](np.linspace(0, 1, 256))[None, :, :3])
    write(figure, _MARGIN + wide - 40, middle, f"{high:+.2f}", size=SMALL, color=LIGHT.soft)
    save(figure, path)
