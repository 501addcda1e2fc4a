"""Draws what searches found: audio with the images nearest to it, an image with the audio nearest to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avmae_jax.data.clip import Clip
from avmae_jax.plots.canvas import SMALL, TITLE, WIDTH, Box, blank, fitting, save, write
from avmae_jax.plots.clips import BELOW_LOUDEST, SECONDS_HEIGHT, draw_frame, draw_spectrogram
from avmae_jax.plots.palette import LIGHT
from avmae_jax.plots.spectrogram_axes import HERTZ_WIDTH, LEVELS_HEIGHT, levels_along

Side = Literal["audio", "image"]

CARDS = 5  # in a row, beside one that is set apart
_MARGIN, _TITLE, _HEIGHT, _CAPTION, _GAP, _HEADING = 14, 24, 124, 52, 18, 104  # in pixels
_LINES = 3  # under a card
_QUERY, _CARD, _BETWEEN, _APART, _FIRST = 226, 140, 12, 24, 44
_CARDS_LEFT = _MARGIN + _QUERY + _FIRST
_LEVELS = 440
_COLOURS = {"right": LIGHT.right, "class": LIGHT.held_out, "": LIGHT.line}
_FRAMES = {"right": 5.0, "class": 3.0, "": 1.0}  # pixels; a width and words tell the marks apart without their colours
_LEGEND = "number: cosine of audio and image; thick blue frame: the query's own partner; orange frame: a clip of its class"


class Card(NamedTuple):
    """Holds one clip that a search found."""

    clip: Clip  # with no more audio than the model is given
    lines: tuple[str, ...]  # three at most, under it; they say what the mark says
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
    note: str = ""  # below the heading


def draw_gallery(path: Path, sections: Sequence[Section]) -> None:
    """Saves a PNG with a row for each search: the query at the left, what was found beside it, the nearest first.

    A thick blue frame marks the query's own partner, and an orange one another clip of its class.

    Args:
      path: of the PNG; its folder is created if missing.
      sections: a dozen searches altogether.

    Raises:
      OSError: if the file can't be written.
    """
    row = _TITLE + _HEIGHT + SECONDS_HEIGHT + _CAPTION + _GAP
    figure = blank(WIDTH, sum(_HEADING + len(section.searches) * row for section in sections))
    top = 0
    for section in sections:
        write(figure, _MARGIN, top + 20, fitting(section.heading, WIDTH - 2 * _MARGIN, TITLE), size=TITLE)
        write(figure, _MARGIN, top + 44, fitting(section.note, WIDTH - 2 * _MARGIN), color=LIGHT.soft)
        write(figure, _MARGIN, top + 68, _LEGEND, size=SMALL, color=LIGHT.soft)
        place = Box(WIDTH - _MARGIN - _LEVELS, top + 62, _LEVELS, LEVELS_HEIGHT)
        levels_along(figure, place, BELOW_LOUDEST, "below the loudest of a clip")
        top += _HEADING
        for search in section.searches:
            _draw_search(figure, top, search)
            top += row
    save(figure, path)


def _draw_search(figure: Figure, top: float, search: Search) -> None:
    write(figure, _MARGIN, top + _TITLE / 2, fitting(search.title, WIDTH - 2 * _MARGIN, weight="bold"), weight="bold")
    place = Box(_MARGIN + HERTZ_WIDTH, top + _TITLE, _QUERY - HERTZ_WIDTH, _HEIGHT + SECONDS_HEIGHT)
    _draw_side(figure, place, search.query, search.queried, is_first=True)
    found: Side = "image" if search.queried == "audio" else "audio"
    cards = [(_CARDS_LEFT + number * (_CARD + _BETWEEN), card) for number, card in enumerate(search.cards)]
    if search.apart is not None:
        cards.append((_CARDS_LEFT + CARDS * (_CARD + _BETWEEN) + _APART - _BETWEEN, search.apart))
    for number, (left, card) in enumerate(cards):
        axes = _draw_side(figure, Box(left, top + _TITLE, _CARD, _HEIGHT + SECONDS_HEIGHT), card.clip, found, is_first=number == 0)
        axes.spines[:].set_visible(True)
        axes.spines[:].set(color=_COLOURS[card.mark], linewidth=_FRAMES[card.mark])
        below = top + _TITLE + _HEIGHT + (SECONDS_HEIGHT if found == "audio" else 0) + 12
        for line, words in enumerate(card.lines[:_LINES]):
            colour = LIGHT.text if line == 0 else LIGHT.soft
            write(figure, left + _CARD / 2, below + 15 * line, _line(words), size=SMALL, color=colour, ha="center")


def _line(words: str) -> str:
    """Shortens a line under a card; of a clip's name the folders go first."""
    whole = fitting(words, _CARD, SMALL)
    return whole if whole == ascii(words)[1:-1] else fitting(words.rsplit("/", maxsplit=1)[-1], _CARD, SMALL)


def _draw_side(figure: Figure, box: Box, clip: Clip, side: Side, *, is_first: bool) -> Axes:
    """Draws one half of a clip; the first spectrogram of a row has frequencies at its left."""
    left, top, width, height = box
    if side == "audio":
        room = HERTZ_WIDTH * is_first
        return draw_spectrogram(figure, Box(left - room, top, width + room, height), clip, axis="both" if is_first else "seconds")
    height -= SECONDS_HEIGHT
    return draw_frame(figure, Box(left + (width - height) / 2, top, height, height), clip)
