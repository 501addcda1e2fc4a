"""Draws a data set at a glance: frames and spectrograms of some of its clips, side by side."""

import math
from collections.abc import Sequence
from pathlib import Path

from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.plots.canvas import SMALL, TITLE, WIDTH, Box, blank, fitting, save, write
from avmae_jax.plots.clips import COMMON_SCALE, draw_frame, draw_spectrogram
from avmae_jax.plots.spectrogram_axes import LEVELS_HEIGHT, levels_along

_COLUMNS, _GAP, _MARGIN, _HEAD, _TITLE, _HEIGHT = 3, 18, 14, 50, 24, 124  # in pixels, but for the first
_CELL = (WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) // _COLUMNS
_BETWEEN = 4  # a frame and the frequencies of its spectrogram
_LEVELS = 420


def contact_sheet(path: Path, clips: Sequence[Clip], label_names: Sequence[str], *, heading: str) -> None:
    """Saves a PNG with a frame and the spectrogram of each clip; a missing half is replaced by a note.

    Args:
      path: of the PNG; its folder is created if missing.
      clips: a few dozen.
      label_names: what their labels index.
      heading: one line.

    Raises:
      OSError: if the file can't be written.
    """
    rows = max(1, math.ceil(len(clips) / _COLUMNS))
    figure = blank(WIDTH, _HEAD + rows * (_TITLE + _HEIGHT + _GAP))
    write(figure, _MARGIN, 22, fitting(heading, WIDTH - _LEVELS - 3 * _MARGIN, TITLE), size=TITLE)
    levels_along(figure, Box(WIDTH - _MARGIN - _LEVELS, 14, _LEVELS, LEVELS_HEIGHT), COMMON_SCALE, "energy of a mel band")
    for number, clip in enumerate(clips):
        left, top = _MARGIN + number % _COLUMNS * (_CELL + _GAP), _HEAD + number // _COLUMNS * (_TITLE + _HEIGHT + _GAP)
        words = f"{clip.id}: {', '.join(label_names[label] for label in clip.labels)}" if clip.labels else clip.id
        write(figure, left, top + _TITLE / 2, fitting(words, _CELL, SMALL, "bold"), size=SMALL, weight="bold")
        draw_frame(figure, Box(left, top + _TITLE, _HEIGHT, _HEIGHT), clip)
        beside = Box(left + _HEIGHT + _BETWEEN, top + _TITLE, _CELL - _HEIGHT - _BETWEEN, _HEIGHT)
        draw_spectrogram(figure, beside, clip, scale=COMMON_SCALE, axis="both")
    save(figure, path)


def overview(path: Path, source: ClipSource, count: int, *, heading: str) -> None:
    """Saves a contact sheet of some clips, spread over a source, which may be sorted by class; raises OSError."""
    contact_sheet(path, [source[number * len(source) // count] for number in range(count)], source.label_names, heading=heading)
