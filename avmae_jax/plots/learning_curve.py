"""Draws how good methods are with how many labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes

from avmae_jax.plots.canvas import SMALL, TEXT, TITLE, WIDTH, Box, axes_at, blank, plain_axes, save, short_name, write
from avmae_jax.plots.palette import LIGHT

_TITLES = {"accuracy": "accuracy", "map": "mean average precision"}
_HEIGHT, _TOP, _LEFT, _PANEL, _GAP = 580, 72, 56, 440, 62  # pixels
_UNTUNED = ("probe", "baseline")  # classifiers on fixed features
_MARKS = "osD^vPX*"


class Point(Protocol):
    """Holds the mean of a figure over the seeds."""

    @property
    def labels(self) -> int:
        """Returns the number of labelled clips of each class."""
        ...

    @property
    def mean(self) -> float:
        """Returns the mean."""
        ...

    @property
    def spread(self) -> float | None:
        """Returns the standard deviation; None of a single seed."""
        ...


def draw_curves(path: Path, figures: Mapping[str, Mapping[str, Sequence[Point]]]) -> None:
    """Saves a PNG with a panel for each figure, a line for each method and a band of one standard deviation over the seeds.

    Args:
      path: of the PNG; its folder is created if missing.
      figures: "accuracy" and "map" -> method -> points; a figure without any is left out.

    Raises:
      OSError: if the file can't be written.
    """
    panels = [(name, curves) for name, curves in figures.items() if curves]
    figure = blank(WIDTH, _HEIGHT)
    write(
        figure, 14, 22, "How many labels does it take? Held-out clips, by the number of labelled training clips of each class", size=TITLE
    )
    methods = list(dict.fromkeys(method for _, curves in panels for method in curves))
    for number, (name, curves) in enumerate(panels):
        left = _LEFT + number * (_PANEL + _GAP)
        axes = axes_at(figure, Box(left, _TOP, _PANEL, _HEIGHT - _TOP - 84))
        for method, points in curves.items():
            _draw(axes, points, methods.index(method), method)
        _finish(axes, curves)
        if name == "accuracy":
            axes.yaxis.set_major_formatter("{x:.0%}")
        axes.set_title(_TITLES[name], fontsize=TITLE, loc="left", parse_math=False)
        if number == len(panels) - 1:
            axes.legend(fontsize=TEXT, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    write(
        figure,
        14,
        _HEIGHT - 16,
        "band: one standard deviation over the seeds; dashed: a classifier on fixed features, no network is tuned",
        color=LIGHT.soft,
    )
    save(figure, path)


def _draw(axes: Axes, points: Sequence[Point], number: int, method: str) -> None:
    labels, means = (np.array([getattr(point, name) for point in points], np.float64) for name in ("labels", "mean"))
    spread = np.array([point.spread or 0.0 for point in points])
    colour, line = LIGHT.series[number % len(LIGHT.series)], "--" if method in _UNTUNED else "-"
    axes.fill_between(labels, means - spread, means + spread, color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        labels, means, line, color=colour, marker=_MARKS[number % len(_MARKS)], markersize=7, linewidth=2, label=short_name(method, 24)
    )


def _finish(axes: Axes, curves: Mapping[str, Sequence[Point]]) -> None:
    """Sets a logarithmic axis with a tick at each number of labels."""
    there = sorted({point.labels for points in curves.values() for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(there, [str(count) for count in there])
    axes.minorticks_off()
    axes.set_xlabel("labelled clips of each class", fontsize=SMALL, color=LIGHT.soft)
    plain_axes(axes)
