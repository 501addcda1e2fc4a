"""A data set at a glance: frames and spectrograms of some of its clips, side by side on one picture."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.images import IMAGE_FORMATS
from avmae_jax.data.fbank import WINDOW, log_mel
from avmae_jax.plots.canvas import DPI, WIDTH, axes_at, save, short_name, write

_COLUMNS, _GAP, _MARGIN, _HEAD, _TITLE, HEIGHT = 3, 18, 14, 40, 22, 130  # in pixels, but for the first
CELL = (WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) // _COLUMNS
_NAME = 58  # letters of a title
_LOUD, _QUIET = 4.0, -16.0  # log-mel of the brightest and of the darkest colour; the same for all, so that loudness can be compared


def contact_sheet(path: Path, clips: Sequence[Clip], label_names: Sequence[str], *, heading: str) -> None:
    """Saves a PNG with a frame and the spectrogram of each clip; what a clip doesn't have stays empty, and says so.

    Args:
      path: of the PNG; its folder is made if need be.
      clips: a few dozen.
      label_names: what their labels index.
      heading: one line.

    Raises:
      OSError: if the file can't be written.
    """
    rows = max(1, math.ceil(len(clips) / _COLUMNS))
    figure = Figure(figsize=(WIDTH / DPI, (_HEAD + rows * (_TITLE + HEIGHT + _GAP)) / DPI), dpi=DPI, facecolor="white")
    write(figure, _MARGIN, 20, short_name(heading, 170), size=11)
    for number, clip in enumerate(clips):
        left, top = _MARGIN + number % _COLUMNS * (CELL + _GAP), _HEAD + number // _COLUMNS * (_TITLE + HEIGHT + _GAP)
        words = f"{clip.id}: {', '.join(label_names[label] for label in clip.labels)}" if clip.labels else clip.id
        write(figure, left, top + _TITLE / 2, short_name(words, _NAME), size=8, weight="bold")
        draw_frame(figure, left, top + _TITLE, clip)
        draw_sound(figure, left + HEIGHT + 6, top + _TITLE, clip)
    save(figure, path)


def draw_frame(figure: Figure, left: float, top: float, clip: Clip) -> None:
    """The middle frame, HEIGHT pixels high and wide, or a word in its place: a picture of many clips isn't lost for one of them."""
    if not clip.frames:
        write(figure, left + 30, top + HEIGHT / 2, "no picture", size=8, color="0.5")
        return
    try:
        with Image.open(io.BytesIO(clip.frames[len(clip.frames) // 2]), formats=IMAGE_FORMATS) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # SyntaxError: Pillow's word for a broken PNG
        write(figure, left + 12, top + HEIGHT / 2, "damaged picture", size=8, color="0.5")
        return
    axes = axes_at(figure, left, top, HEIGHT, HEIGHT)
    axes.imshow(pixels)
    axes.set_axis_off()


def draw_sound(figure: Figure, left: float, top: float, clip: Clip) -> None:
    """The spectrogram, HEIGHT pixels high with its axis and as wide as a frame leaves of a CELL."""
    if len(clip.waveform) < WINDOW:
        write(figure, left + 100, top + HEIGHT / 2, "no sound", size=8, color="0.5")
        return
    fbank = log_mel(clip.waveform.astype(np.float32) / 32_768)
    axes = axes_at(figure, left, top, CELL - HEIGHT - 6, HEIGHT - 18)
    extent = (0, len(clip.waveform) / SAMPLE_RATE, 0, fbank.shape[1])
    axes.imshow(fbank.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=_QUIET, vmax=_LOUD)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_formatter("{x:g} s")
    axes.tick_params(labelsize=7, length=2, color="0.5", labelcolor="0.35")
