"""Colours frames and spectrograms without axes, for pages that draw their own, whose text follows the reader's letters and colours.

Axis letters: H W image, M mel bins, T spectrogram frames.
"""

import io
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from PIL import Image

from avmae_jax.plots.clips import SPECTROGRAM_COLOURS, own_scale
from avmae_jax.plots.heatmap import painted


class Layers(NamedTuple):
    """Holds the same image twice, as uint8[H, W, 3]."""

    plain: np.ndarray
    painted: np.ndarray | None  # in grey, with a heat map over it


def frame_layers(image: np.ndarray, heat: np.ndarray | None, limits: tuple[float, float]) -> Layers:
    """Colours a frame, uint8[H, W, 3], and its heat map, float32[rows, columns]."""
    values = image.astype(np.float32) / 255
    grey = np.repeat(values.mean(axis=-1, keepdims=True), 3, axis=-1)
    return Layers(image, None if heat is None else _bytes(painted(grey, heat, *limits)))


def spectrogram_layers(log_mel: np.ndarray, heat: np.ndarray | None, limits: tuple[float, float]) -> Layers:
    """Colours a spectrogram, float32[M, T] with low mel first, high mel at the top; the heat map has low mel first, too."""
    low, high = own_scale(log_mel)
    scaled = np.clip((log_mel - low) / (high - low), 0, 1)
    grey = np.repeat(scaled[..., None], 3, axis=-1).astype(np.float32)
    plain = _bytes(colormaps[SPECTROGRAM_COLOURS](scaled)[..., :3])
    return Layers(plain[::-1], None if heat is None else _bytes(painted(grey, heat, *limits))[::-1])


def matrix_pixels(values: np.ndarray) -> np.ndarray:
    """Colours the numbers of a matrix, float32[H, W], from its lowest to its highest one."""
    low, high = float(values.min()), float(values.max())
    return _bytes(colormaps[SPECTROGRAM_COLOURS]((values - low) / max(high - low, 1e-9))[..., :3])


def heat_scale(steps: int = 9) -> list[str]:
    """Returns the colours of a heat map from its lowest to its highest value, on white, as "#rrggbb"."""
    row = painted(np.ones((1, steps, 3), np.float32), np.linspace(0, 1, steps, dtype=np.float32)[None], 0.0, 1.0)
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in _bytes(row)[0].tolist()]


def png(pixels: np.ndarray) -> bytes:
    """Encodes uint8[H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def _bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
