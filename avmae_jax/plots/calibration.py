"""Draws how far a classifier's confidence can be trusted, and how well classes are named above their thresholds.

Axis letters: B bins, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes

from avmae_jax.errors import counted
from avmae_jax.plots.canvas import SMALL, TITLE, Box, axes_at, blank, fitting, plain_axes, save, write
from avmae_jax.plots.palette import LIGHT

SHOWN = 40  # classes drawn
_PANEL, _MARGIN, _HEAD, _GAP = 400, 64, 80, 80  # pixels
_NAMES, _BARS, _ROW, _WORDS = 220, 600, 24, 340  # pixels


class Binned(Protocol):
    """Holds the clips sorted by their confidence into B bins of equal width; NaN for a bin without a clip."""

    @property
    def confidence(self) -> np.ndarray:
        """Returns the mean confidence of each bin."""
        ...

    @property
    def right(self) -> np.ndarray:
        """Returns the share of each bin that is right."""
        ...

    @property
    def clips(self) -> np.ndarray:
        """Returns the number of clips of each bin."""
        ...

    @property
    def error(self) -> float:
        """Returns the expected calibration error."""
        ...


def reliability(path: Path, before: Binned, after: Binned | None, *, heading: str) -> None:
    """Saves a PNG of the share that is right over the confidence, with the number of clips below, before and after calibration.

    Args:
      path: of the PNG; its folder is created if missing.
      before: of the probabilities as trained.
      after: of the calibrated ones; None: there are none.
      heading: one line.

    Raises:
      OSError: if the file can't be written.
    """
    panels = [("as trained" if after else "as trained; not calibrated", before), *([("calibrated", after)] if after else [])]
    wide = 2 * _MARGIN + len(panels) * _PANEL + (len(panels) - 1) * _GAP
    figure = blank(wide, _HEAD + _PANEL + 186)
    write(figure, 14, 22, fitting(f"{heading}: is it as often right as it says?", wide - 28, TITLE), size=TITLE)
    for number, (name, found) in enumerate(panels):
        left = _MARGIN + number * (_PANEL + _GAP)
        write(figure, left, _HEAD - 20, f"{name}: expected calibration error {found.error:.3f}")
        _draw_shares(axes_at(figure, Box(left, _HEAD, _PANEL, _PANEL)), found)
        counts = axes_at(figure, Box(left, _HEAD + _PANEL + 44, _PANEL, 60))
        counts.bar(_centres(found), found.clips, width=0.9 / len(found.clips), color=LIGHT.line)
        counts.set(xlim=(0, 1), xticks=(), ylim=(0, max(1, 1.35 * found.clips.max())))
        counts.set_yticks([])
        for place, count in zip(_centres(found), found.clips, strict=True):
            if count:
                counts.text(place, count, f"{count:,}", ha="center", va="bottom", fontsize=SMALL, color=LIGHT.soft)
        counts.spines[["top", "right", "left"]].set_visible(False)
        write(figure, left, _HEAD + _PANEL + 120, "clips by the probability of their likeliest class", color=LIGHT.soft)
    lines = ("bar: share of the clips whose likeliest class is right", "orange: their mean probability, which should be the same")
    for number, words in enumerate(lines):
        write(figure, _MARGIN, _HEAD + _PANEL + 146 + 20 * number, words, color=LIGHT.soft)
    save(figure, path)


def _centres(found: Binned) -> np.ndarray:
    return (np.arange(len(found.clips)) + 0.5) / len(found.clips)


def _draw_shares(axes: Axes, found: Binned) -> None:
    """Draws the share of each bin as a bar, and an orange mark at the mean confidence of the bin."""
    width = 0.9 / len(found.clips)
    there = found.clips > 0
    centres, right, confidence = _centres(found)[there], found.right[there], found.confidence[there]
    axes.bar(centres, right, width=width, color=LIGHT.series[0], alpha=0.75)
    axes.hlines(confidence, centres - width / 2, centres + width / 2, color=LIGHT.series[1], linewidth=3)
    axes.plot((0, 1), (0, 1), color=LIGHT.soft, linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.2, 0.4, 0.6, 0.8, 1), yticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
    for side in (axes.xaxis, axes.yaxis):
        side.set_major_formatter("{x:.0%}")
    plain_axes(axes)


def class_f1(path: Path, rows: Sequence[Mapping[str, Any]], *, heading: str) -> None:
    """Saves a PNG with a bar for the F1 of each class that some clip has, the best first, and a mark at its threshold.

    Of more than SHOWN classes one half of the bars shows the best and the other the worst, as the heading then says.

    Args:
      path: of the PNG; its folder is created if missing.
      rows: for each class its "name", "positives", "threshold" and "f1", None without a positive.
      heading: the beginning of one line.

    Raises:
      OSError: if the file can't be written.
    """
    rated = sorted((row for row in rows if row["f1"] is not None and math.isfinite(row["f1"])), key=lambda row: -row["f1"])
    note = f"; {len(rated)} of {counted(len(rows), 'class', 'classes')} with a clip"
    if len(rated) > SHOWN:
        note += f", the {SHOWN // 2} best and the {SHOWN // 2} worst of them"
        rated = rated[: SHOWN // 2] + rated[-SHOWN // 2 :]
    height = _ROW * max(1, len(rated))
    wide = _NAMES + _BARS + _WORDS
    figure = blank(wide, 50 + height + 64)
    write(figure, 14, 22, fitting(heading + note, wide - 28, TITLE), size=TITLE)
    axes = axes_at(figure, Box(_NAMES, 44, _BARS, height))
    places = np.arange(len(rated))
    axes.barh(places, [row["f1"] for row in rated], height=0.7, color=LIGHT.series[0], alpha=0.75)
    axes.scatter([row["threshold"] for row in rated], places, marker="|", s=150, linewidth=3, color=LIGHT.series[1], zorder=3)
    axes.set(xlim=(0, 1), ylim=(max(1, len(rated)) - 0.5, -0.5), xticks=(0, 0.25, 0.5, 0.75, 1))
    axes.set_yticks(places, [fitting(row["name"], _NAMES - 20, SMALL) for row in rated], parse_math=False)
    plain_axes(axes, grid="x")
    for place, row in enumerate(rated):
        words = f"F1 {row['f1']:.3f}, named from {row['threshold']:.0%} on, {counted(row['positives'], 'clip')}"
        write(figure, _NAMES + _BARS + 12, 44 + (place + 0.5) * _ROW, words, size=SMALL, color=LIGHT.soft)
    words = "bar: F1, the harmonic mean of precision and recall; orange mark: the probability from which on the class is named"
    write(figure, 14, 44 + height + 44, words, color=LIGHT.soft)
    save(figure, path)
