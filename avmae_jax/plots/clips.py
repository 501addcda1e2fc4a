"""Draws the two halves of a clip: its middle frame and its spectrogram.

Axis letters: H W image, T spectrogram frames, M mel bins.
"""

import io
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.images import IMAGE_FORMATS
from avmae_jax.data.fbank import SILENCE, WINDOW, log_mel
from avmae_jax.plots.canvas import SMALL, Box, axes_at, time_axis
from avmae_jax.plots.palette import LIGHT, SPECTROGRAM
from avmae_jax.plots.spectrogram_axes import HERTZ_WIDTH, frequency_axis

COMMON_SCALE = (-16.0, 4.0)  # log-mel of the darkest and of the brightest colour, where the loudness of clips is to be compared
BELOW_LOUDEST = (-14.0, 0.0)  # the same below the loudest value of a clip, where quiet clips are to be seen as well as loud ones
SPECTROGRAM_COLOURS = SPECTROGRAM
SECONDS_HEIGHT = 20  # pixels below a spectrogram for its seconds
_SMALLEST_RANGE = 1e-6
_AUDIBLE = 1.0  # nepers of energy above an empty frame

Axis = Literal["none", "seconds", "both"]


def draw_frame(figure: Figure, box: Box, clip: Clip) -> Axes:
    """Draws a clip's middle frame, which fills the box, or writes that it is missing or damaged.

    One damaged frame doesn't cost a plot of many clips.
    """
    axes = _bare_axes(figure, box)
    if not clip.frames:
        _note(axes, "no image")
        return axes
    try:
        with Image.open(io.BytesIO(clip.frames[clip.middle]), formats=IMAGE_FORMATS) as image:
            axes.imshow(np.asarray(image.convert("RGB")), aspect="auto")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow raises SyntaxError for a broken PNG
        _note(axes, "damaged image")
    return axes


def draw_spectrogram(figure: Figure, box: Box, clip: Clip, *, scale: tuple[float, float] | None = None, axis: Axis = "none") -> Axes:
    """Draws a clip's log-mel spectrogram, low mel at the bottom, or writes that there is no audio.

    Args:
      figure: to draw on.
      box: the spectrogram with its axes.
      clip: all of its audio is drawn.
      scale: log-mel of the darkest and of the brightest colour, such as COMMON_SCALE; None: BELOW_LOUDEST of this clip.
      axis: "both" draws Hz and seconds; "seconds" draws these alone, beside a spectrogram that has both; "none" writes the length in
        the corner.
    """
    left, top, width, height = box
    room = HERTZ_WIDTH * (axis == "both")
    axes = _bare_axes(figure, Box(left + room, top, width - room, height - SECONDS_HEIGHT * (axis != "none")))
    if len(clip.waveform) < WINDOW:
        _note(axes, "no audio")
        return axes
    seconds, values = len(clip.waveform) / SAMPLE_RATE, log_mel(clip.waveform.astype(np.float32) / 32_768).T
    low, high = below_loudest(values) if scale is None else scale
    show_spectrogram(axes, values, (0, seconds), cmap=SPECTROGRAM, vmin=low, vmax=high)
    if axis == "none":
        style: dict[str, Any] = {"ha": "right", "va": "bottom", "color": "white", "fontsize": SMALL}
        axes.text(0.98, 0.03, f"{seconds:.1f} s", transform=axes.transAxes, **style)
        return axes
    time_axis(axes)
    if axis == "both":
        frequency_axis(axes, len(values))
    return axes


def own_scale(values: np.ndarray) -> tuple[float, float]:
    """Returns the ends of a colour scale for one spectrogram: all but the highest and the lowest 0.5 % of its values."""
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(max(high, low + _SMALLEST_RANGE))


def below_loudest(values: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the scale BELOW_LOUDEST for a spectrogram; silence has the darkest colour."""
    low, high = BELOW_LOUDEST
    loudest = float(values.max())
    if loudest < SILENCE + _AUDIBLE:
        loudest = SILENCE - low
    return loudest + low, loudest + high


def show_image(figure: Figure, box: Box, pixels: np.ndarray) -> Axes:
    """Draws float[H, W, 3] in [0, 1] into a box."""
    axes = _bare_axes(figure, box)
    axes.imshow(pixels, aspect="auto")
    return axes


def show_spectrogram(axes: Axes, values: np.ndarray, span: tuple[float, float], **colours: Any) -> None:
    """Shows [M, T] (or [M, T, 3] in colours) with low mel at the bottom; `span` is its time in seconds."""
    axes.imshow(values, origin="lower", aspect="auto", extent=(*span, 0, len(values)), **colours)


def _bare_axes(figure: Figure, box: Box) -> Axes:
    axes = axes_at(figure, box)
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    return axes


def _note(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=LIGHT.soft, fontsize=SMALL)
