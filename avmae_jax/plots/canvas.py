"""Places axes and text by pixels, for all plots of this project.

Figures are created without pyplot, whose global state a library must not touch.
"""

from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avmae_jax.files import replacing

DPI = 100
WIDTH = 1400  # pixels of most plots


class Box(NamedTuple):
    """Describes a rectangle of a figure, in pixels from the upper left corner."""

    left: float
    top: float
    width: float
    height: float


def blank(width: float, height: float) -> Figure:
    """Creates a white figure of a size in pixels."""
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")


def axes_at(figure: Figure, box: Box) -> Axes:
    """Adds axes that fill a box."""
    left, top, width, height = box
    full_width, full_height = figure.get_size_inches() * DPI
    return figure.add_axes((left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height))


def short_name(text: str, length: int) -> str:
    """Makes a name from a file safe to draw: one line without markup or control characters; a long one loses its middle."""
    name = ascii(text)[1:-1]
    return name if len(name) <= length else f"{name[: length * 2 // 3 - 3]} ... {name[-length // 3 + 2 :]}"


def write(figure: Figure, left: float, middle: float, words: str, *, size: float, **style: Any) -> None:
    """Writes text at pixels from the upper left corner; `middle` is the middle of its height."""
    full_width, full_height = figure.get_size_inches() * DPI
    figure.text(left / full_width, 1 - middle / full_height, words, fontsize=size, va="center", parse_math=False, **style)


def time_axis(axes: Axes, *, size: float = 8) -> None:
    """Labels the horizontal axis in seconds and removes the vertical one."""
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_formatter("{x:g} s")
    axes.tick_params(labelsize=size, length=3, color="0.5", labelcolor="0.35", bottom=True, labelbottom=True)


def save(figure: Figure, path: Path) -> None:
    """Saves a figure as a PNG; creates the folder if it is missing.

    Raises:
      OSError: if the file can't be written.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
