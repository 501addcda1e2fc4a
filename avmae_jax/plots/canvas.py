"""Drawing by pixels, for all pictures of this project.

Figures are made without pyplot, whose global state a library mustn't touch, and reach their names by a rename, so that a viewer never sees
half a picture.
"""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avmae_jax.files import replacing

DPI = 100
WIDTH = 1400  # pixels of a picture


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at pixels from the upper left corner."""
    full_width, full_height = figure.get_size_inches() * DPI
    return figure.add_axes((left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height))


def short_name(text: str, length: int) -> str:
    """A name from a file, on one line: nothing in it may be taken for markup or break the layout; a long one loses its middle."""
    name = ascii(text)[1:-1]
    return name if len(name) <= length else f"{name[: length * 2 // 3 - 3]} ... {name[-length // 3 + 2 :]}"


def write(figure: Figure, left: float, middle: float, words: str, *, size: float, **style: Any) -> None:
    """Text at pixels from the upper left corner."""
    full_width, full_height = figure.get_size_inches() * DPI
    figure.text(left / full_width, 1 - middle / full_height, words, fontsize=size, va="center", parse_math=False, **style)


def save(figure: Figure, path: Path) -> None:
    """As a PNG that has its name once it is whole; the folder is made if need be.

    Raises:
      OSError: if the file can't be written.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
