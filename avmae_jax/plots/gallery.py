"""What a search found, to look at: a sound and the pictures nearest to it, a picture and the sounds nearest to it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.images import IMAGE_FORMATS
from avmae_jax.data.fbank import WINDOW, log_mel
from avmae_jax.plots.canvas import DPI, WIDTH, axes_at, save, short_name, write

Side = Literal["audio", "image"]

CARDS = 5  # in a row, beside one that is set apart
_MARGIN, _TITLE, _HEIGHT, _CAPTION, _GAP, _HEADING = 14, 22, 150, 32, 22, 44  # in pixels
_QUERY, _CARD, _BETWEEN, _APART = 262, 168, 10, 30
_CARDS_LEFT = _MARGIN + _QUERY + 26
_LETTERS = 27  # of a line under a card
_COLOURS = {"right": "#17a017", "class": "#3a76d6", "": "0.75"}


class Card(NamedTuple):
    """Something that was found."""

    clip: Clip  # its sound no longer than the model hears it
    lines: tuple[str, ...]  # one or two, under it
    mark: Literal["right", "class", ""] = ""  # right: the query's own partner; class: of the query's class


class Search(NamedTuple):
    """A row of the gallery."""

    title: str
    query: Clip
    queried: Side  # what of the query was looked for; the cards show the other side
    cards: Sequence[Card]  # CARDS of them at most ...
    apart: Card | None = None  # ... and one further down the list


class Section(NamedTuple):
    """Rows under a heading."""

    heading: str
    searches: Sequence[Search]


def draw_gallery(path: Path, sections: Sequence[Section]) -> None:
    """Saves a PNG with a row for each search: the query at the left, what was found beside it, the nearest first.

    A green frame marks the query's own partner and a blue one other clips of its class.

    Args:
      path: of the PNG; its folder is made if need be.
      sections: a dozen searches altogether.

    Raises:
      ValueError: if a picture can't be decoded, or there are too many cards.
      OSError: if the file can't be written.
    """
    row = _TITLE + _HEIGHT + _CAPTION + _GAP
    height = sum(_HEADING + len(section.searches) * row for section in sections)
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
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
    _draw(figure, _MARGIN, top + _TITLE, _QUERY, search.query, search.queried, None)
    found: Side = "image" if search.queried == "audio" else "audio"
    cards = [(_CARDS_LEFT + number * (_CARD + _BETWEEN), card) for number, card in enumerate(search.cards)]
    if search.apart is not None:
        cards.append((_CARDS_LEFT + CARDS * (_CARD + _BETWEEN) + _APART - _BETWEEN, search.apart))
    for left, card in cards:
        _draw(figure, left, top + _TITLE, _CARD, card.clip, found, card.mark)
        for number, line in enumerate(card.lines[:2]):
            middle, colour = top + _TITLE + _HEIGHT + 11 + 13 * number, "0.1" if number == 0 else "0.45"
            write(figure, left + _CARD / 2, middle, short_name(line, _LETTERS), size=7.5, color=colour, ha="center")


def _draw(figure: Figure, left: float, top: float, width: float, clip: Clip, side: Side, mark: str | None) -> None:
    """One side of a clip; a mark of None draws no frame."""
    if side == "image":
        left, width = left + (width - _HEIGHT) / 2, _HEIGHT
        pixels = _frame(clip)
    else:
        pixels = _spectrogram(clip)
    axes = axes_at(figure, left, top, width, _HEIGHT)
    if pixels is None:
        axes.text(0.5, 0.5, "no picture" if side == "image" else "no sound", ha="center", va="center", color="0.5", fontsize=8)
    elif side == "image":
        axes.imshow(pixels, aspect="auto")
    else:
        low, high = np.percentile(pixels, (0.5, 99.5))
        axes.imshow(pixels.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=max(high, low + 1e-6))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(mark is not None)
    axes.spines[:].set(color=_COLOURS[mark or ""], linewidth=4.5 if mark == "right" else 2.5 if mark else 0.5)
    if side == "audio" and pixels is not None:
        words = f"{len(clip.waveform) / SAMPLE_RATE:.1f} s"
        axes.text(0.98, 0.03, words, transform=axes.transAxes, ha="right", va="bottom", color="white", fontsize=7)


def _frame(clip: Clip) -> np.ndarray | None:
    """The frame that the model sees: uint8[H, W, 3]."""
    if not clip.frames:
        return None
    try:
        with Image.open(io.BytesIO(clip.frames[len(clip.frames) // 2]), formats=IMAGE_FORMATS) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:  # SyntaxError: Pillow's word for a broken PNG
        raise ValueError(f"clip {clip.id}: its picture can't be decoded ({error}); prepare the clip again") from error


def _spectrogram(clip: Clip) -> np.ndarray | None:
    """float32[T, M], as low and high as this sound is."""
    return log_mel(clip.waveform.astype(np.float32) / 32_768) if len(clip.waveform) >= WINDOW else None
