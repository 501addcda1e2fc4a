"""Draws what surrounds a spectrogram: frequencies, levels in dB, and what is no audio.

Axis letters: T spectrogram frames, M mel bins.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from avmae_jax.data.fbank import decibels, mel_height
from avmae_jax.plots.canvas import SMALL, Box, axes_at, write
from avmae_jax.plots.palette import HATCHING, LIGHT, PADDING, SPECTROGRAM

HERTZ_WIDTH = 38  # pixels that the frequencies take at the left
LEVELS_WIDTH = 62  # pixels that the levels take at the right
LEVELS_HEIGHT = 30  # pixels that the levels take where they lie
_TICKS = (125, 250, 500, 1000, 2000, 4000)  # Hz
_APART = 1.15 * SMALL  # pixels between the middles of two words
_BAR, _GAP = 10, 8  # pixels
_WORD = 58  # pixels of the word "padding"


def shown_hertz(mel_bins: int, height: float) -> list[int]:
    """Chooses octaves that have room beside a spectrogram of a height in pixels, the highest first; of a tiny one none."""
    chosen = list[int]()
    for hertz in reversed(_TICKS):
        place = mel_height(hertz, mel_bins) * height / mel_bins
        if SMALL / 2 <= place <= height and all(mel_height(other, mel_bins) * height / mel_bins - place >= _APART for other in chosen[-1:]):
            chosen.append(hertz)
    return chosen


def frequency_axis(axes: Axes, mel_bins: int, *, has_labels: bool = True) -> None:
    """Labels the vertical axis of a spectrogram that show_spectrogram drew: ticks in Hz, which the mel scale spaces."""
    hertz = shown_hertz(mel_bins, axes.get_window_extent().height)
    axes.set_yticks([mel_height(one, mel_bins) for one in hertz], [_kilo(one) for one in hertz])
    axes.tick_params(axis="y", labelsize=SMALL, length=3, width=1, pad=2, color=LIGHT.soft, labelcolor=LIGHT.soft)
    axes.tick_params(axis="y", left=True, labelleft=has_labels)
    if has_labels:
        style = {"ha": "right", "va": "top", "fontsize": SMALL, "color": LIGHT.soft}
        axes.annotate("Hz", (0, 1), xycoords="axes fraction", xytext=(-5, 2), textcoords="offset pixels", **style)


def _kilo(hertz: int) -> str:
    return f"{hertz // 1000}k" if hertz >= 1000 else str(hertz)


def levels_beside(figure: Figure, box: Box, scale: tuple[float, float], colours: str = SPECTROGRAM) -> None:
    """Draws the colour bar of a spectrogram upright at the right of its box, in dB; `scale` is its log-mel, dark and bright."""
    axes = axes_at(figure, Box(box.left + box.width + _GAP, box.top, _BAR, box.height))
    low, high = decibels(np.array(scale))
    axes.imshow(_ramp(colours)[::-1, None], aspect="auto", extent=(0, 1, low, high))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks(_levels(low, high, int(box.height / (1.6 * SMALL))))
    axes.yaxis.set_major_formatter(lambda level, _: f"{_decibels(level)} dB")
    axes.tick_params(labelsize=SMALL, length=3, width=1, pad=2, color=LIGHT.soft, labelcolor=LIGHT.soft)
    axes.spines[:].set_visible(False)


def levels_along(figure: Figure, box: Box, scale: tuple[float, float], words: str, colours: str = SPECTROGRAM) -> None:
    """Draws the colour bar of many spectrograms lying, in dB, with words at its left.

    Args:
      figure: to draw on.
      box: of the words and the bar; LEVELS_HEIGHT high.
      scale: log-mel of the darkest and of the brightest colour.
      words: what the colours are.
      colours: name of a colour map.
    """
    bar = Box(box.left + box.width / 2, box.top, box.width / 2 - 24, _BAR)
    axes = axes_at(figure, bar)
    low, high = decibels(np.array(scale))
    axes.imshow(_ramp(colours)[None], aspect="auto", extent=(low, high, 0, 1))
    axes.set_yticks([])
    axes.set_xticks(_levels(low, high, int(bar.width / 42)))
    axes.xaxis.set_major_formatter(lambda level, _: _decibels(level))
    axes.tick_params(labelsize=SMALL, length=3, width=1, pad=1, color=LIGHT.soft, labelcolor=LIGHT.soft)
    axes.spines[:].set_visible(False)
    write(figure, bar.left - 10, box.top + _BAR / 2, f"{words}, dB", size=SMALL, color=LIGHT.soft, ha="right")


def _ramp(colours: str) -> np.ndarray:
    return colormaps[colours](np.linspace(0, 1, 256))[:, :3]


def _levels(low: float, high: float, most: int) -> Sequence[float]:
    """Chooses round levels within a scale, `most` of them or fewer, but at least one."""
    for step in (1, 2, 5, 10, 20, 50, 100):
        levels = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
        if len(levels) <= max(1, most):
            break
    return levels if len(levels) else [round((low + high) / 2, 2)]


def _decibels(level: float) -> str:
    return f"{level:g}".replace("-", "\N{MINUS SIGN}")


def show_padding(axes: Axes, start: float, end: float, *, is_filled: bool = True) -> None:
    """Hatches the part of a spectrogram between two times, in which there is no audio, and names it where there is room."""
    low, high = axes.get_ylim()
    first, last = axes.get_xlim()
    style: dict[str, Any] = {"facecolor": PADDING if is_filled else "none", "edgecolor": HATCHING, "hatch": "///", "linewidth": 0}
    axes.add_patch(Rectangle((start, low), end - start, high - low, gid="padding", **style))
    size = axes.get_window_extent()
    wide = (end - start) / (last - first) * size.width
    if min(wide, size.height) < SMALL or max(wide, size.height) < _WORD:
        return
    axes.text(
        (start + end) / 2,
        (low + high) / 2,
        "padding",
        rotation=0 if wide >= _WORD else 90,
        ha="center",
        va="center",
        fontsize=SMALL,
        color=LIGHT.text,
        bbox={"facecolor": PADDING, "edgecolor": "none", "pad": 1.5},
    )
