"""Draws an evaluation of a classifier: which classes it confuses, how well it finds each, and its worst mistakes.

Axis letters: N clips, C classes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avmae_jax.data.clip import Clip
from avmae_jax.errors import counted
from avmae_jax.plots.canvas import SMALL, TITLE, WIDTH, Box, axes_at, blank, fitting, plain_axes, save, write
from avmae_jax.plots.clips import COMMON_SCALE, draw_frame, draw_spectrogram
from avmae_jax.plots.palette import LIGHT, SHARES, readable_on
from avmae_jax.plots.spectrogram_axes import LEVELS_HEIGHT, levels_along

MOST_CONFUSED = 30  # classes of a matrix whose numbers can still be read
PANELS = 24  # curves drawn
_MARGIN, _HEAD, _GAP = 14, 66, 18  # pixels
_NAMES, _SIDE = 190, 220  # pixels beside a matrix: for the classes' names, and for their figures
_COLUMNS = 6  # of curves
_FRAME, _BETWEEN, _SPECTROGRAM = 128, 4, 256  # pixels of a mistake
_LEVELS = 420  # pixels of the colour bar


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
    shown, rows = counts[np.ix_(chosen, chosen)], [fitting(label_names[index], _NAMES - 20, SMALL) for index in chosen]
    columns = rows
    if len(rows) < len(counts):
        shown, columns = np.column_stack([shown, counts[chosen].sum(axis=1) - shown.sum(axis=1)]), [*rows, "any other"]
    cell = min(60, (WIDTH - _NAMES - _SIDE) // len(columns))
    top = _HEAD + 20
    figure = blank(WIDTH, top + cell * len(rows) + 150)
    write(figure, _MARGIN, 20, fitting(heading + note, WIDTH - 2 * _MARGIN, TITLE), size=TITLE)
    write(figure, _MARGIN, 46, "row: class of the clip; column: likeliest class; number: clips; shade: share of the row", color=LIGHT.soft)
    axes = axes_at(figure, Box(_NAMES, top, cell * len(columns), cell * len(rows)))
    _draw_matrix(axes, shown, rows, columns, letters=int(cell / (0.62 * SMALL)))
    side = _NAMES + cell * len(columns) + _GAP
    for place, words in zip((0, 60, 120), ("clips", "recall", "precision"), strict=True):
        write(figure, side + place, top - 12, words, size=SMALL, color=LIGHT.soft)
    for row, index in enumerate(chosen):
        own, given, taken = counts[index, index], counts[index].sum(), counts[:, index].sum()
        for place, words in zip((0, 60, 120), (f"{given:,}", _share(own, given), _share(own, taken)), strict=True):
            write(figure, side + place, top + (row + 0.5) * cell, words, size=SMALL)
    save(figure, path)


def _most_confused(counts: np.ndarray) -> list[int]:
    """Returns MOST_CONFUSED classes: those of the largest counts off the diagonal, then the first others where these are too few."""
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    pairs = np.argsort(-wrong, axis=None, kind="stable")
    ranked = np.column_stack(np.unravel_index(pairs[: np.count_nonzero(wrong)], wrong.shape)).ravel()
    return sorted(list(dict.fromkeys([*ranked.tolist(), *range(len(counts))]))[:MOST_CONFUSED])


def _draw_matrix(axes: Axes, counts: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, letters: int) -> None:
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = readable_on(*colormaps[SHARES](float(shares[row, column]))[:3])
        axes.text(column, row, _count(int(counts[row, column]), letters), ha="center", va="center", fontsize=SMALL, color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor", fontsize=SMALL, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, fontsize=SMALL, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_color(LIGHT.line)


def _count(count: int, letters: int) -> str:
    """Formats a count, in thousands if it hasn't room otherwise."""
    return str(count) if len(str(count)) <= letters else f"{count / 1000:.0f}k"


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
    note = f"precision over recall of {counted(len(order), 'class', 'classes')}, by average precision (AP)"
    if len(order) > PANELS:
        half = PANELS // 2
        note = f"precision over recall of the {half} best and the {half} worst of {len(order)} classes, by average precision (AP)"
        order = order[:half] + order[-half:]
    width, height, title, ticks = (WIDTH - 2 * _MARGIN - 44 - (_COLUMNS - 1) * _GAP) // _COLUMNS, 150, 42, 26
    rows = max(1, math.ceil(len(order) / _COLUMNS))
    pitch = title + height + ticks
    figure = blank(WIDTH, _HEAD + rows * pitch)
    write(figure, _MARGIN, 20, fitting(f"{heading}: {note}", WIDTH - 2 * _MARGIN, TITLE), size=TITLE)
    write(figure, _MARGIN, 46, "recall to the right, precision upwards; dashed: guessing", color=LIGHT.soft)
    for place, label in enumerate(order):
        column, row = place % _COLUMNS, place // _COLUMNS
        left, top = _MARGIN + 44 + column * (width + _GAP), _HEAD + row * pitch
        has = targets[:, label] != 0
        write(figure, left, top + 10, fitting(label_names[label], width, weight="bold"), weight="bold")
        words = f"AP {precisions[label]:.3f}, {counted(int(has.sum()), 'clip')} of {len(has):,}"
        write(figure, left, top + 28, words, size=SMALL, color=LIGHT.soft)
        axes = axes_at(figure, Box(left, top + title, width, height - 8))
        _draw_curve(axes, scores[:, label], has)
        axes.tick_params(labelleft=column == 0)
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
    axes.stairs(precision, edges, baseline=0, fill=True, color=LIGHT.series[0], alpha=0.2)
    axes.stairs(precision, edges, baseline=None, color=LIGHT.series[0], linewidth=2)
    axes.axhline(has.mean(), color=LIGHT.soft, linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for side in (axes.xaxis, axes.yaxis):
        side.set_major_formatter("{x:.0%}")
    plain_axes(axes)
    first, *_, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")  # so that neighbours don't touch


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
    note = f"; {counted(len(found), 'clip')} with the highest loss" if found else ""
    write(figure, _MARGIN, 20, fitting(heading + note, WIDTH - 2 * _MARGIN, TITLE), size=TITLE)
    if found:
        levels_along(figure, Box(WIDTH - _MARGIN - _LEVELS, 36, _LEVELS, LEVELS_HEIGHT), COMMON_SCALE, "energy of a mel band")
    for number, mistake in enumerate(found):
        left, top = _MARGIN + number % 2 * half, _HEAD + number // 2 * pitch
        draw_frame(figure, Box(left, top, _FRAME, _FRAME), mistake.clip)
        beside = Box(left + _FRAME + _BETWEEN, top, _SPECTROGRAM, _FRAME)
        draw_spectrogram(figure, beside, mistake.clip, scale=COMMON_SCALE, axis="both")
        right = beside.left + beside.width + 12
        _write_words(figure, right, top, left + half - _GAP - right, mistake)
    save(figure, path)


def _write_words(figure: Figure, left: float, top: float, width: float, mistake: Mistake) -> None:
    """Writes the clip's name, its classes in one colour, and below them in another the wrong ones that are likelier."""
    write(figure, left, top + 8, fitting(mistake.clip.id, width, SMALL, "bold"), size=SMALL, weight="bold")
    own = mistake.own or [("no class", math.nan)]
    more = f" and {len(own) - 2} more" if len(own) > 2 else ""
    lines = [("is", LIGHT.soft)] + [(_line(*pair, width), LIGHT.right) for pair in own[:2]] + ([(more, LIGHT.right)] if more else [])
    lines += [("is taken for", LIGHT.soft)]
    names = [name for name, _ in mistake.own]
    for name, probability in mistake.predicted:
        lines.append((_line(name, probability, width), LIGHT.right if name in names else LIGHT.wrong))
    for number, (line, colour) in enumerate(lines):
        write(figure, left, top + 25 + 15.5 * number, line, size=SMALL, color=colour)


def _line(name: str, probability: float, width: float) -> str:
    return fitting(name, width - 56, SMALL) + ("" if math.isnan(probability) else f"  {probability:.1%}")
