"""Draws how well each image of a medium matches the audio of each of its moments, and by how much the two are apart.

Axis letters: n moments.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from avmae_jax.inference.match_over_time import MatchTimeline, MomentVectors
from avmae_jax.inference.offset import Offset
from avmae_jax.plots.canvas import SMALL, TEXT, TITLE, WIDTH, Box, axes_at, blank, fitting, plain_axes, save, time_axis, write
from avmae_jax.plots.palette import LIGHT, SPECTROGRAM

MOST_SECONDS = 120.0  # of a medium that one picture shows
_MARGIN, _TOP, _SIDE, _LEFT, _SCALE = 14, 78, 470, 62, 14  # pixels
_RIGHT, _PANEL, _BETWEEN, _BOTTOM = 690, 190, 90, 64
_HEIGHT = _TOP + _SIDE + _BOTTOM


def draw_match_matrix(
    path: Path, vectors: MomentVectors, timeline: MatchTimeline, offset: Offset, *, title: str, start: float = 0.0
) -> None:
    """Saves a PNG of the cosines of all images with all windows of audio, the lags between them, and the match of each second.

    Args:
      path: of the PNG; its folder is created if missing.
      vectors: of the medium.
      timeline: of the medium.
      offset: of the medium.
      title: one line.
      start: s, where the matrix begins; it shows MOST_SECONDS at most.

    Raises:
      OSError: if the file can't be written.
    """
    figure = blank(WIDTH, _HEIGHT)
    write(figure, _MARGIN, 20, fitting(title, WIDTH - 2 * _MARGIN, TITLE, "bold"), size=TITLE, weight="bold")
    write(figure, _MARGIN, 44, f"{offset.words()}; a positive offset: the audio comes later than the image", color=LIGHT.soft)
    _draw_matrix(figure, vectors, offset, start)
    write(figure, _RIGHT, _TOP - 14, "score of each lag, in standard deviations", size=SMALL, color=LIGHT.soft)
    _draw_lags(axes_at(figure, Box(_RIGHT, _TOP, WIDTH - _RIGHT - _MARGIN - 10, _PANEL)), offset)
    top = _TOP + _PANEL + _BETWEEN
    write(figure, _RIGHT, top - 14, "match of each second: share of others that match worse (.5: chance)", size=SMALL, color=LIGHT.soft)
    _draw_ranks(axes_at(figure, Box(_RIGHT, top, WIDTH - _RIGHT - _MARGIN - 10, _PANEL)), timeline)
    save(figure, path)


def _draw_matrix(figure: Figure, vectors: MomentVectors, offset: Offset, start: float) -> None:
    """Draws the matrix with its diagonal and the line of the offset."""
    chosen, cosines = vectors.matrix(start, start + MOST_SECONDS)
    axes = axes_at(figure, Box(_LEFT, _TOP, _SIDE, _SIDE))
    edges = _edges(vectors.times[chosen])
    ends = (edges[0], edges[-1])
    drawn = axes.pcolormesh(edges, edges, cosines, cmap=SPECTROGRAM, rasterized=True)
    axes.plot(ends, ends, color="white", linewidth=1.2, linestyle=":")
    if offset.seconds is not None:  # the audio of an image at y lies at y + offset
        for colour, width in (("black", 4.0), ("white", 2.0)):
            axes.plot(np.array(ends) + offset.seconds, ends, color=colour, linewidth=width)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends[::-1])
    time_axis(axes)
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g} s")
    axes.tick_params(axis="y", labelsize=SMALL, length=3, width=1, color=LIGHT.soft, labelcolor=LIGHT.soft)
    write(figure, _LEFT, _TOP - 14, "rows: images; columns: audio; colour: their cosine", size=SMALL, color=LIGHT.soft)
    words = "dotted: the same moment" + ("" if offset.seconds is None else f"; line: audio {offset.seconds:+.2f} s")
    write(figure, _LEFT, _TOP + _SIDE + 44, words, size=SMALL, color=LIGHT.soft)
    scale = axes_at(figure, Box(_LEFT + _SIDE + 16, _TOP, _SCALE, _SIDE))
    bar = figure.colorbar(drawn, cax=scale)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue] - a spine
    scale.tick_params(labelsize=SMALL, length=3, width=1, color=LIGHT.soft, labelcolor=LIGHT.soft)


def _draw_lags(axes: Axes, offset: Offset) -> None:
    if not len(offset.lags):
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing changes along time, or there is too little of it", ha="center", color=LIGHT.soft, fontsize=TEXT)
        return
    axes.plot(offset.lags, offset.scores, color=LIGHT.series[0], linewidth=2, marker="o", markersize=3)
    axes.axvline(0, color=LIGHT.soft, linewidth=1, linestyle=":")
    if offset.likeliest is not None:
        style = "-" if offset.seconds is not None else "--"
        axes.axvline(offset.likeliest, color=LIGHT.series[1], linewidth=2, linestyle=style)
    plain_axes(axes)
    axes.xaxis.set_major_formatter("{x:+g} s")


def _draw_ranks(axes: Axes, timeline: MatchTimeline) -> None:
    lines = (("other moments", timeline.moment_rank, "o"), ("other clips", timeline.clip_rank, "s"))
    for (name, values, mark), colour in zip(lines, LIGHT.series, strict=False):
        if np.isfinite(values).any():
            axes.plot(timeline.seconds + 0.5, values, color=colour, linewidth=2, marker=mark, markersize=4, label=name)
    axes.axhline(0.5, color=LIGHT.soft, linewidth=1, linestyle=":")
    axes.set_ylim(-0.03, 1.03)
    plain_axes(axes)
    axes.xaxis.set_major_formatter("{x:g} s")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=SMALL, frameon=False)


def _edges(times: np.ndarray) -> np.ndarray:
    """Returns the borders between moments, float64[n + 1]."""
    middles = (times[1:] + times[:-1]) / 2
    return np.concatenate([[times[0] - (middles[0] - times[0])], middles, [times[-1] + (times[-1] - middles[-1])]])
