"""Draws an evaluation of a classifier: which classes it confuses, how well it finds each, and its worst mistakes.

Axis letters: N clips, C classes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avmae_jax.data.clip import Clip
from avmae_jax.plots.canvas import WIDTH, Box, axes_at, blank, save, short_name, write
from avmae_jax.plots.clips import COMMON_SCALE, draw_frame, draw_spectrogram

MOST_CONFUSED = 30  # classes of a matrix whose numbers can still be read
PANELS = 24  # curves drawn
_MARGIN, _HEAD, _GAP = 14, 44, 18  # pixels
_NAMES, _SIDE = 200, 220  # pixels beside a matrix: for the classes' names, and for their figures
_COLUMNS = 6  # of curves
_FRAME, _BETWEEN, _SPECTROGRAM = 130, 14, 301  # pixels of a mistake


class Mistake(NamedTuple):
    """Holds a clip whose likeliest class isn't one of its own."""

    clip: Clip
    own: list[tuple[str, float]]  # its classes and their probabilities
    predicted: list[tuple[str, float]]  # the likeliest classes and theirs, the likeliest first


def confusion(path: Path, counts: np.ndarray, label_names: Sequence[str], *, heading: str) -> None:
    """Saves a PNG of a confusion matrix: numbers of clips, shaded by their share of the row.

    Of more than MOST_CONFUSED classes those of the most frequent confusions are shown; one column counts the clips taken for any other.

    Args:
      path: of the PNG; its folder is created if missing.
      counts: int[C, C], clips of the row's class that are taken for the column's.
      label_names: C of them.
      heading: one line.

    Raises:
      OSError: if the file can't be written.
    """
    chosen, note = list(range(len(counts))), ""
    if len(counts) > MOST_CONFUSED:
        chosen = _most_confused(counts)
        note = f"; {MOST_CONFUSED} of {len(counts)} classes, those of the most frequent confusions"
    note += "; row: class of the clip, column: likeliest class, shade: share of the row"
    shown, rows = counts[np.ix_(chosen, chosen)], [short_name(label_names[index], 26) for index in chosen]
    columns = rows
    if len(rows) < len(counts):
        shown, columns = np.column_stack([shown, counts[chosen].sum(axis=1) - shown.sum(axis=1)]), [*rows, "any other"]
    cell = min(60, (WIDTH - _NAMES - _SIDE) // len(columns))
    top = _HEAD + 26
    figure = blank(WIDTH, top + cell * len(rows) + 150)
    write(figure, _MARGIN, 22, short_name(heading + note, 200), size=10)
    axes = axes_at(figure, Box(_NAMES, top, cell * len(columns), cell * len(rows)))
    _draw_matrix(axes, shown, rows, columns, size=9 if cell > 40 else 7)
    side = _NAMES + cell * len(columns) + _GAP
    for place, words in zip((0, 60, 120), ("clips", "recall", "precision"), strict=True):
        write(figure, side + place, _HEAD + 10, words, size=9, color="0.35")
    for row, index in enumerate(chosen):
        own, given, taken = counts[index, index], counts[index].sum(), counts[:, index].sum()
        for place, words in zip((0, 60, 120), (str(given), _share(own, given), _share(own, taken)), strict=True):
            write(figure, side + place, top + (row + 0.5) * cell, words, size=8)
    save(figure, path)


def _most_confused(counts: np.ndarray) -> list[int]:
    """Returns MOST_CONFUSED classes: those of the largest counts off the diagonal, then the first others where these are too few."""
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    pairs = np.argsort(-wrong, axis=None, kind="stable")
    ranked = np.column_stack(np.unravel_index(pairs[: np.count_nonzero(wrong)], wrong.shape)).ravel()
    return sorted(list(dict.fromkeys([*ranked.tolist(), *range(len(counts))]))[:MOST_CONFUSED])


def _draw_matrix(axes: Axes, counts: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, size: int) -> None:
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.6 else "0.15"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size, color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor", fontsize=8, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, fontsize=8, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.8")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def precision_recall(
    path: Path, scores: np.ndarray, targets: np.ndarray, label_names: Sequence[str], precisions: np.ndarray, *, heading: str
) -> None:
    """Saves a PNG with the precision-recall curve of each class that has a positive, the best first.

    Of more than PANELS classes one half of the panels shows the best and the other the worst, as the heading then says.

    Args:
      path: of the PNG; its folder is created if missing.
      scores: float[N, C], finite.
      targets: [N, C], not 0 where a clip has the class.
      label_names: C of them.
      precisions: float[C], average precisions; NaN for a class without a positive.
      heading: the beginning of one line.

    Raises:
      OSError: if the file can't be written.
    """
    order = [int(index) for index in np.argsort(-precisions, kind="stable") if np.isfinite(precisions[index])]
    note = f"precision over recall of {len(order)} classes, by average precision (AP)"
    if len(order) > PANELS:
        half = PANELS // 2
        note = f"precision over recall of the {half} best and the {half} worst of {len(order)} classes, by average precision (AP)"
        order = order[:half] + order[-half:]
    width, height, title, ticks = (WIDTH - 2 * _MARGIN - 30 - (_COLUMNS - 1) * _GAP) // _COLUMNS, 170, 36, 24
    rows = max(1, math.ceil(len(order) / _COLUMNS))
    pitch = title + height + ticks
    figure = blank(WIDTH, _HEAD + rows * pitch + 30)
    write(figure, _MARGIN, 22, short_name(f"{heading}: {note}", 170), size=11)
    for place, label in enumerate(order):
        column, row = place % _COLUMNS, place // _COLUMNS
        left, top = _MARGIN + 30 + column * (width + _GAP), _HEAD + row * pitch
        has = targets[:, label] != 0
        write(figure, left, top + 10, short_name(label_names[label], 28), size=9, weight="bold")
        write(figure, left, top + 25, f"AP {precisions[label]:.3f}, {has.sum()} of {len(has)} clips", size=8, color="0.35")
        axes = axes_at(figure, Box(left, top + title, width, height - 8))
        _draw_curve(axes, scores[:, label], has)
        axes.tick_params(labelleft=column == 0)
    bottom = _HEAD + rows * pitch + 10
    write(figure, _MARGIN + 30, bottom, "recall to the right, precision upwards; dashed: guessing", size=9, color="0.35")
    save(figure, path)


def curve(scores: np.ndarray, has: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes recall and precision at each distinct score that adds a hit, from the highest: float[N], bool[N] -> float64[K] twice."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(has[order])[last]
    more = np.diff(hits, prepend=0) > 0
    return hits[more] / has.sum(), hits[more] / (last[more] + 1)


def _draw_curve(axes: Axes, scores: np.ndarray, has: np.ndarray) -> None:
    """Draws precision over recall as steps, whose area is the average precision."""
    recall, precision = curve(scores, has)
    edges = np.concatenate([[0], recall])
    axes.stairs(precision, edges, baseline=0, fill=True, color="C0", alpha=0.2)
    axes.stairs(precision, edges, baseline=None, color="C0", linewidth=1.5)
    axes.axhline(has.mean(), color="0.4", linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(labelsize=8, length=2, color="0.5", labelcolor="0.35")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def mistakes(path: Path, found: Sequence[Mistake], *, heading: str) -> None:
    """Saves a PNG with the middle frame and the spectrogram of each clip, its classes, and those that it is taken for, with probabilities.

    Both halves of a clip are drawn, whichever of them the model was given.

    Args:
      path: of the PNG; its folder is created if missing.
      found: a handful; without any the heading alone is drawn.
      heading: the beginning of one line.

    Raises:
      OSError: if the file can't be written.
    """
    half, pitch = (WIDTH - 2 * _MARGIN + _GAP) // 2, _FRAME + _GAP + 4
    figure = blank(WIDTH, _HEAD + math.ceil(len(found) / 2) * pitch)
    note = f"; those with the highest loss, {len(found)} of them" if found else ""
    write(figure, _MARGIN, 22, short_name(heading + note, 170), size=11)
    for number, mistake in enumerate(found):
        left, top = _MARGIN + number % 2 * half, _HEAD + number // 2 * pitch
        draw_frame(figure, Box(left, top, _FRAME, _FRAME), mistake.clip)
        beside = Box(left + _FRAME + _BETWEEN, top, _SPECTROGRAM, _FRAME)
        draw_spectrogram(figure, beside, mistake.clip, scale=COMMON_SCALE, has_axis=True)
        right = beside.left + beside.width + 12
        _write_words(figure, right, top, left + half - _GAP - right, mistake)
    save(figure, path)


def _write_words(figure: Figure, left: float, top: float, width: float, mistake: Mistake) -> None:
    """Writes the clip's name, its classes in green, and below them in red the wrong ones that are likelier."""
    letters = int(width / 7)
    write(figure, left, top + 8, short_name(mistake.clip.id, letters), size=8, weight="bold")
    own = mistake.own or [("no class", math.nan)]
    more = f" and {len(own) - 2} more" if len(own) > 2 else ""
    lines = [("is", "0.35")] + [(_line(*pair, letters), "#1a7f37") for pair in own[:2]] + ([(more, "#1a7f37")] if more else [])
    lines += [("is taken for", "0.35")]
    names = [name for name, _ in mistake.own]
    lines += [(_line(*pair, letters), "#1a7f37" if pair[0] in names else "#c0392b") for pair in mistake.predicted]
    for number, (line, colour) in enumerate(lines):
        write(figure, left, top + 25 + 15 * number, line, size=8, color=colour)


def _line(name: str, probability: float, letters: int) -> str:
    return short_name(name, letters - 8) + ("" if math.isnan(probability) else f"  {probability:.1%}")
