"""Reads the pixels and the words of a drawn plot, for the tests of plots."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image


def pixels(path: Path) -> np.ndarray:
    """Reads a PNG's colours, uint8[H, W, 3]."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def is_colour(colours: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    """Returns where pixels have a colour, given in [0, 1]: bool[H, W]."""
    return np.all(np.abs(colours / 255 - np.array(colour)) < 0.01, axis=-1)


def share(colours: np.ndarray, colour: tuple[float, float, float]) -> float:
    return float(is_colour(colours, colour).mean())


@contextmanager
def drawn_figures() -> Iterator[list[Figure]]:
    """Yields a list of the figures that are saved meanwhile; they are written as well."""
    figures: list[Figure] = []
    save = Figure.savefig

    def record(figure: Figure, *arguments: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)  # pyright: ignore[reportArgumentType, reportCallIssue]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", record)
        yield figures


def places(figure: Figure) -> dict[str, tuple[float, float]]:
    """Finds the middle of each text of a figure, its axes included, in pixels from the upper left corner; of equal texts the last one."""
    height = figure.get_size_inches()[1] * figure.dpi
    found = {}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            found[text.get_text()] = ((box.x0 + box.x1) / 2, height - (box.y0 + box.y1) / 2)
    return found


def paddings(figure: Figure) -> list[Rectangle]:
    """Lists the hatched parts of spectrograms."""
    return [part for part in figure.findobj(Rectangle) if isinstance(part, Rectangle) and part.get_gid() == "padding" and part.get_hatch()]


def letters(figure: Figure) -> dict[str, float]:
    """Returns the size of each visible text of a figure in its pixels; of equal texts the smallest."""
    figure.draw_without_rendering()  # sets the words at the ticks
    found: dict[str, float] = {}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_visible() and text.get_text():
            found[text.get_text()] = min(float(text.get_fontsize()) * figure.dpi / 72, found.get(text.get_text(), 99))
    return found


def words(figure: Figure) -> list[str]:
    """Lists every text of a figure."""
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
