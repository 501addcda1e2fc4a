"""Draws the numbers of a run over its steps, from its metrics.jsonl."""

import io
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from avmae_jax.plots.canvas import SMALL, TEXT, WIDTH, blank, plain_axes, save
from avmae_jax.plots.palette import LIGHT, Scheme

_LOSSES = {"loss": "total", "mae_audio": "audio reconstruction", "mae_image": "image reconstruction", "nce": "contrastive, nats"}
_DIGITS = 18  # of a whole number of 64 bits
_SCHEDULED = ("learning_rate",)  # set, not measured
_HIGHER = ("map", "accuracy", "contrast_accuracy")  # are better the higher they are
_LOWER = ("loss", "mae_audio", "mae_image", "nce")  # and these, and loss_..., the lower
_SHARES = ("accuracy", "contrast_accuracy")  # are shown in percent
_POINTS = 400  # of a smooth curve; more can't be seen
CURVE_WIDTH, CURVE_HEIGHT = 394, 270  # pixels of curve_svg


class Best(NamedTuple):
    """Holds the best held-out value of a number."""

    step: int
    value: float


def loss_curves(path: Path, metrics_jsonl: Path, *, batch_size: int | None = None) -> None:
    """Saves a PNG of the parts of the loss over steps, on the training set (each value faint, and smoothed) and on the held-out set.

    Args:
      path: of the PNG; its folder is created if missing.
      metrics_jsonl: lines of {"step": int, "split": "train" | "eval", "loss", "mae_audio", "mae_image", "nce", ...}. Values that aren't
        finite are marked at their step; a line that a kill cut short is named in the log and left out.
      batch_size: how many pairs the contrastive loss chooses from; draws what guessing would cost, log(batch_size).

    Raises:
      OSError: if a file can't be read or written.
    """
    rows = read_metrics(metrics_jsonl)
    figure = blank(WIDTH, 720)
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.07, top=0.95, wspace=0.12, hspace=0.3)
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, _LOSSES.items(), strict=True):
        _draw_curve(axes, rows, name, title, batch_size if name == "nce" else None, LIGHT)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=SMALL, framealpha=0.9, edgecolor="none", loc="upper right")
    save(figure, path)


def curve_svg(rows: list[dict[str, Any]], name: str, title: str, *, batch_size: int | None = None, scheme: Scheme = LIGHT) -> bytes:
    """Draws one number over steps as an SVG, in the style of loss_curves, CURVE_WIDTH by CURVE_HEIGHT.

    Args:
      rows: of read_metrics.
      name: of the number.
      title: of the plot.
      batch_size: how many pairs the contrastive loss chooses from; draws what guessing would cost.
      scheme: its colours.
    """
    figure = blank(CURVE_WIDTH, CURVE_HEIGHT)
    figure.set_facecolor(scheme.page)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.set_facecolor(scheme.page)
    _draw_curve(axes, rows, name, title, batch_size, scheme)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False, labelcolor=scheme.text)
    file = io.BytesIO()
    figure.savefig(file, format="svg", facecolor=scheme.page, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return file.getvalue()


def best_of(rows: list[dict[str, Any]], name: str) -> Best | None:
    """Finds the step with the best held-out value of a number, the first of equal ones; None where no direction is better."""
    is_lower = name in _LOWER or name.startswith("loss_")
    steps, values = series(rows, "eval", name)
    finite = np.isfinite(values)
    if not (is_lower or name in _HIGHER) or not finite.any():
        return None
    place = int((values if is_lower else -values)[finite].argmin())
    return Best(int(steps[finite][place]), float(values[finite][place]))


def shown_value(name: str, value: float) -> str:
    """Formats a value of a number: shares in percent, others in three significant digits."""
    return f"{value:.1%}" if name in _SHARES else f"{value:#.3g}".rstrip(".")


def _draw_curve(axes: Axes, rows: list[dict[str, Any]], name: str, title: str, batch_size: int | None, scheme: Scheme) -> None:
    """Draws training values, held-out values and the best of them, marks of those that aren't finite, and what guessing costs."""
    shown, broken = [], []
    for split, draw in (("train", _draw_train if name not in _SCHEDULED else _draw_scheduled), ("eval", _draw_eval)):
        steps, values = series(rows, split, name)
        finite = np.isfinite(values)
        shown.append(draw(axes, steps[finite], values[finite], scheme))
        broken.append(steps[~finite])
    if len(steps := np.concatenate(broken)):
        style: dict[str, Any] = {"color": scheme.wrong, "transform": axes.get_xaxis_transform(), "label": f"not finite: {len(steps)}"}
        axes.plot(steps, 0 * steps + 0.98, "|", **style)
    if batch_size:
        chance = math.log(batch_size)
        axes.axhline(chance, color=scheme.soft, linestyle=":", linewidth=1.5, label=f"guessing: log {batch_size} = {chance:.2f}")
        shown.append(np.array([chance]))
    _fit(axes, np.concatenate(shown), scheme)
    if best := best_of(rows, name):
        _mark(axes, name, best, scheme)
    axes.set_title(title, fontsize=TEXT, loc="left", parse_math=False, color=scheme.text)
    axes.set_xlabel("step", fontsize=SMALL, color=scheme.soft)
    if name in _SHARES:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    plain_axes(axes, scheme=scheme)


def _mark(axes: Axes, name: str, best: Best, scheme: Scheme) -> None:
    """Marks the best held-out value with a star, whose value and step the legend names."""
    style: dict[str, Any] = {"color": scheme.held_out, "markersize": 15, "markeredgecolor": scheme.page, "zorder": 4}
    axes.plot([best.step], [best.value], "*", label=f"best: {shown_value(name, best.value)} at step {best.step:,}", **style)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a metrics.jsonl; lines that aren't a row with a step are named in the log and left out."""
    rows, damaged = parse_metrics(path)
    for number, line in damaged:
        logging.warning("%s: line %d isn't a row of metrics and is not drawn: %.80s", path, number, line)
    return rows


def parse_metrics(path: Path) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Splits a metrics.jsonl into its rows and its damaged lines with their numbers, counted from 1; raises OSError."""
    rows, damaged = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line, parse_int=whole_number)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int) and not isinstance(row["step"], bool):
            rows.append(row)
        else:
            damaged.append((number, line))
    return rows, damaged


def whole_number(text: str) -> int | float:
    """Reads a whole number of a JSON file; one that arithmetic could not use becomes a float, infinite if it has hundreds of digits."""
    return int(text) if len(text) <= _DIGITS else float(text)


def series(rows: list[dict[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Extracts one number over steps: float64[n], float64[n] with NaN for values that are no number; rows without the name are skipped."""
    found = [(row["step"], row[name]) for row in rows if row.get("split") == split and name in row]
    numbers = [value if isinstance(value, int | float) else math.nan for _, value in found]
    return np.array([step for step, _ in found], np.float64), np.array(numbers, np.float64)


def smooth(values: np.ndarray, reach: int) -> np.ndarray:
    """Averages each value with those up to `reach` places before and after it: float[n] -> float[n].

    The window is centred, so that the curve doesn't lag; it is short at the start, where a loss falls fast, and cut at the end.
    """
    return np.array([values[max(0, i - reach) : i + min(i, reach) + 1].mean() for i in range(len(values))])


def extremes(values: np.ndarray, parts: int = 400) -> np.ndarray:
    """Chooses the places of the lowest and the highest value of each part of a long curve, which look like all of them; int[n], rising."""
    if len(values) <= 2 * parts:
        return np.arange(len(values))
    pieces = np.array_split(np.arange(len(values)), parts)
    return np.unique([piece[find(values[piece])] for piece in pieces for find in (np.argmin, np.argmax)])


def _draw_train(axes: Axes, steps: np.ndarray, values: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Returns the values that must be visible: the smoothed ones and nearly all others, lest a stray one flatten the rest."""
    if not len(values):
        return values
    reach = min(250, len(values) // 20)
    mean = smooth(values, reach)
    faint, few = extremes(values), np.linspace(0, len(values) - 1, min(len(values), _POINTS)).round().astype(int)
    axes.plot(steps[faint], values[faint], color=scheme.training, alpha=0.25, linewidth=1)
    label = f"training, mean of {2 * reach + 1}" if reach else "training"
    axes.plot(steps[few], mean[few], color=scheme.training, linewidth=2, label=label)
    return np.concatenate([mean, np.percentile(values, (1, 99))])


def _draw_scheduled(axes: Axes, steps: np.ndarray, values: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Draws values that need no smoothing. Returns those that must be visible."""
    if len(values):
        axes.plot(steps, values, color=scheme.training, linewidth=2, label="training", drawstyle="steps-post")
    return values


def _draw_eval(axes: Axes, steps: np.ndarray, values: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Returns the values that must be visible."""
    if len(values):
        axes.plot(steps, values, "o--", color=scheme.held_out, markersize=5, linewidth=1.5, label="held out")
    return values


def _fit(axes: Axes, shown: np.ndarray, scheme: Scheme) -> None:
    """Sets limits that hold the shown values, or writes that there are none."""
    if not len(shown):
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": scheme.soft, "fontsize": SMALL}
        axes.text(0.5, 0.5, "no values yet", transform=axes.transAxes, **style)
        return
    low, high = shown.min(), shown.max()
    room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)
