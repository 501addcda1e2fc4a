"""Draws how far a classifier's confidence can be trusted, and how well classes are named above their thresholds.

Axis letters: B bins, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes

from avmae_jax.plots.canvas import Box, axes_at, blank, save, short_name, write

SHOWN = 40  # classes drawn
_PANEL, _MARGIN, _HEAD, _GAP = 380, 60, 70, 70  # pixels
_NAMES, _BARS, _ROW = 220, 520, 24  # pixels


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
    figure = blank(2 * _MARGIN + len(panels) * _PANEL + (len(panels) - 1) * _GAP, _HEAD + _PANEL + 166)
    write(figure, 14, 22, short_name(f"{heading}: is it as often right as it says?", 62 * len(panels)), size=11)
    for number, (name, found) in enumerate(panels):
        left = _MARGIN + number * (_PANEL + _GAP)
        write(figure, left, _HEAD - 14, f"{name}: expected calibration error {found.error:.3f}", size=10)
        _draw_shares(axes_at(figure, Box(left, _HEAD, _PANEL, _PANEL)), found)
        counts = axes_at(figure, Box(left, _HEAD + _PANEL + 36, _PANEL, 60))
        counts.bar(_centres(found), found.clips, width=0.9 / len(found.clips), color="0.7")
        counts.set(xlim=(0, 1), xticks=(), ylim=(0, max(1, 1.35 * found.clips.max())))
        counts.set_yticks([])
        for place, count in zip(_centres(found), found.clips, strict=True):
            if count:
                counts.text(place, count, str(count), ha="center", va="bottom", fontsize=8, color="0.35")
        counts.spines[["top", "right", "left"]].set_visible(False)
        write(figure, left, _HEAD + _PANEL + 112, "clips by the probability of their likeliest class", size=9, color="0.35")
    lines = ("bar: share of the clips whose likeliest class is right", "red: their mean probability, which should be the same")
    for number, words in enumerate(lines):
        write(figure, 14, _HEAD + _PANEL + 134 + 18 * number, words, size=9, color="0.35")
    save(figure, path)


def _centres(found: Binned) -> np.ndarray:
    return (np.arange(len(found.clips)) + 0.5) / len(found.clips)


def _draw_shares(axes: Axes, found: Binned) -> None:
    """Draws the share of each bin as a bar, and a red mark at the mean confidence of the bin."""
    width = 0.9 / len(found.clips)
    there = found.clips > 0
    centres, right, confidence = _centres(found)[there], found.right[there], found.confidence[there]
    axes.bar(centres, right, width=width, color="C0", alpha=0.75)
    axes.hlines(confidence, centres - width / 2, centres + width / 2, color="#c0392b", linewidth=2)
    axes.plot((0, 1), (0, 1), color="0.4", linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.2, 0.4, 0.6, 0.8, 1), yticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
    axes.tick_params(labelsize=8, length=2, color="0.5", labelcolor="0.35")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


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
    note = f"; {len(rated)} of {len(rows)} classes have a clip"
    if len(rated) > SHOWN:
        note += f", the {SHOWN // 2} best and the {SHOWN // 2} worst of them"
        rated = rated[: SHOWN // 2] + rated[-SHOWN // 2 :]
    height = _ROW * max(1, len(rated))
    figure = blank(_NAMES + _BARS + 260, 50 + height + 60)
    write(figure, 14, 22, short_name(heading + note, 130), size=11)
    axes = axes_at(figure, Box(_NAMES, 44, _BARS, height))
    places = np.arange(len(rated))
    axes.barh(places, [row["f1"] for row in rated], height=0.7, color="C0", alpha=0.75)
    axes.scatter([row["threshold"] for row in rated], places, marker="|", s=120, color="#c0392b", zorder=3)
    axes.set(xlim=(0, 1), ylim=(max(1, len(rated)) - 0.5, -0.5), xticks=(0, 0.25, 0.5, 0.75, 1))
    axes.set_yticks(places, [short_name(row["name"], 30) for row in rated], fontsize=8, parse_math=False)
    axes.tick_params(labelsize=8, length=2, color="0.5", labelcolor="0.35")
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for place, row in enumerate(rated):
        words = f"F1 {row['f1']:.3f}, named from {row['threshold']:.2f} on, {row['positives']} clips"
        write(figure, _NAMES + _BARS + 12, 44 + (place + 0.5) * _ROW, words, size=8, color="0.35")
    words = "bar: F1, the harmonic mean of precision and recall; red mark: the probability from which on the class is named"
    write(figure, 14, 44 + height + 40, words, size=9, color="0.35")
    save(figure, path)
