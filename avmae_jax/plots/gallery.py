"""Draws what searches found: audio with the images nearest to it, an image with the audio nearest to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avmae_jax.data.clip import Clip
from avmae_jax.plots.canvas import WIDTH, Box, blank, save, short_name, write
from avmae_jax.plots.clips import draw_frame, draw_spectrogram

Side = Literal["audio", "image"]

CARDS = 5  # in a row, beside one that is set apart
_MARGIN, _TITLE, _HEIGHT, _CAPTION, _GAP, _HEADING = 14, 22, 150, 32, 22, 44  # in pixels
_QUERY, _CARD, _BETWEEN, _APART = 262, 168, 10, 30
_CARDS_LEFT = _MARGIN + _QUERY + 26
_LETTERS = 27  # of a line under a card
_COLOURS = {"right": "#17a017", "class": "#3a76d6", "": "0.75"}


class Card(NamedTuple):
    """Holds one clip that a search found."""

    clip: Clip  # with no more audio than the model is given
    lines: tuple[str, ...]  # one or two, under it
    mark: Literal["right", "class", ""] = ""  # right: the query's own partner; class: of the query's class


class Search(NamedTuple):
    """Holds a row of the gallery."""

    title: str
    query: Clip
    queried: Side  # the side of the query that was searched with; the cards show the other side
    cards: Sequence[Card]  # CARDS of them at most ...
    apart: Card | None = None  # ... and one further down the list


class Section(NamedTuple):
    """Holds the rows under a heading."""

    heading: str
    searches: Sequence[Search]


def draw_gallery(path: Path, sections: Sequence[Section]) -> None:
    """Saves a PNG with a row for each search: the query at the left, what was found beside it, the nearest first.

    A green frame marks the query's own partner, and a blue one another clip of its class.

    Args:
      path: of the PNG; its folder is created if missing.
      sections: a dozen searches altogether.

    Raises:
      OSError: if the file can't be written.
    """
    row = _TITLE + _HEIGHT + _CAPTION + _GAP
    figure = blank(WIDTH, sum(_HEADING + len(section.searches) * row for section in sections))
    top = 0
    for section in sections:
        write(figure, _MARGIN, top + _HEADING / 2, short_name(section.heading, 180), size=10)
        top += _HEADING
        for search in section.searches:
            _draw_search(figure, top, search)
            top += row
    save(figure, path)


def _draw_search(figure: Figure, top: float, search: Search) -> None:
    write(figure, _MARGIN, top + _TITLE / 2, short_name(search.title, 170), size=9, weight="bold")
    _draw_side(figure, Box(_MARGIN, top + _TITLE, _QUERY, _HEIGHT), search.query, search.queried)
    found: Side = "image" if search.queried == "audio" else "audio"
    cards = [(_CARDS_LEFT + number * (_CARD + _BETWEEN), card) for number, card in enumerate(search.cards)]
    if search.apart is not None:
        cards.append((_CARDS_LEFT + CARDS * (_CARD + _BETWEEN) + _APART - _BETWEEN, search.apart))
    for left, card in cards:
        axes = _draw_side(figure, Box(left, top + _TITLE, _CARD, _HEIGHT), card.clip, found)
        axes.spines[:].set_visible(True)
        axes.spines[:].set(color=_COLOURS[card.mark], linewidth={"right": 4.5, "class": 2.5, "": 0.5}[card.mark])
        for number, line in enumerate(card.lines[:2]):
            middle, colour = top + _TITLE + _HEIGHT + 11 + 13 * number, "0.1" if number == 0 else "0.45"
            write(figure, left + _CARD / 2, middle, short_name(line, _LETTERS), size=7.5, color=colour, ha="center")


def _draw_side(figure: Figure, box: Box, clip: Clip, side: Side) -> Axes:
    if side == "audio":
        return draw_spectrogram(figure, box, clip)
    left, top, width, height = box
    return draw_frame(figure, Box(left + (width - height) / 2, top, height, height), clip)
