"""Places axes and text by pixels, for all plots of this project.

Figures are created without pyplot, whose global state a library must not touch. Sizes of letters and widths of lines are in pixels, too.
A pixel here is one of a page that shows the plot in its full width; the file has DENSITY of them in its place, for sharp screens.
"""

import functools
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import MaxNLocator

from avmae_jax.files import replacing
from avmae_jax.plots.palette import LIGHT, Scheme

DPI = 72  # so that a point, the unit of letters, is a pixel
DENSITY = 1.5  # pixels of a file for each one of the page
WIDTH = 1200  # pixels of most plots: what a page has beside its margins in a window of 1280
TITLE, TEXT, SMALL = 15.0, 13.0, 12.0  # sizes of letters


_LEAST = 8  # letters of a name that is shortened
_MEASURED = TextToPath()


class Box(NamedTuple):
    """Describes a rectangle of a figure, in pixels from the upper left corner."""

    left: float
    top: float
    width: float
    height: float


def blank(width: float, height: float) -> Figure:
    """Creates a white figure of a size in pixels."""
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=LIGHT.page)


def axes_at(figure: Figure, box: Box) -> Axes:
    """Adds axes that fill a box."""
    left, top, width, height = box
    full_width, full_height = figure.get_size_inches() * DPI
    return figure.add_axes((left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height))


def short_name(text: str, length: int) -> str:
    """Makes a name from a file safe to draw: one line without markup or control characters; a long one loses its middle."""
    name = ascii(text)[1:-1]
    return name if len(name) <= length else f"{name[: length * 2 // 3 - 3]} ... {name[-length // 3 + 2 :]}"


def fitting(text: str, width: float, size: float = TEXT, weight: str = "normal") -> str:
    """Makes a name from a file safe to draw, and so short that it fits a width in pixels."""
    letters = min(len(ascii(text)), int(4 * width / size))  # hardly any letter is narrower than a quarter of its height
    while letters > _LEAST and _width_of(short_name(text, letters), size, weight) > width:
        letters -= 1
    return short_name(text, letters)


@functools.lru_cache(maxsize=4096)
def _width_of(text: str, size: float, weight: str) -> float:
    """Measures a line of text in pixels."""
    font = FontProperties(size=size, weight=weight)
    return float(_MEASURED.get_text_width_height_descent(text, font, ismath=False)[0])


def write(figure: Figure, left: float, middle: float, words: str, *, size: float = TEXT, **style: Any) -> None:
    """Writes text at pixels from the upper left corner; `middle` is the middle of its height."""
    full_width, full_height = figure.get_size_inches() * DPI
    style = {"color": LIGHT.text, **style}
    figure.text(left / full_width, 1 - middle / full_height, words, fontsize=size, va="center", parse_math=False, **style)


def plain_axes(axes: Axes, *, grid: Literal["both", "x"] = "both", scheme: Scheme = LIGHT) -> None:
    """Gives axes small ticks, a faint grid behind everything, and no frame at the top and the right."""
    axes.tick_params(labelsize=SMALL, length=3, width=1, color=scheme.soft, labelcolor=scheme.soft)
    axes.grid(axis=grid, color=scheme.line, linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(scheme.soft)
    axes.xaxis.get_offset_text().set_fontsize(SMALL)
    axes.yaxis.get_offset_text().set(fontsize=SMALL, color=scheme.soft)


def time_axis(axes: Axes, *, has_labels: bool = True) -> None:
    """Labels the horizontal axis in seconds and removes the frame."""
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(max(2, int(axes.get_window_extent().width / 48)), steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:g} s")
    axes.tick_params(axis="x", labelsize=SMALL, length=3, width=1, color=LIGHT.soft, labelcolor=LIGHT.soft)
    axes.tick_params(axis="x", bottom=has_labels, labelbottom=has_labels)


def save(figure: Figure, path: Path) -> None:
    """Saves a figure as a PNG; creates the folder if it is missing.

    Raises:
      OSError: if the file can't be written.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI * DENSITY)
