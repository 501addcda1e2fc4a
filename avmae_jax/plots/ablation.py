"""Draws what each addition to a way of pretraining brings: a panel for each figure, a bar for each row."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from avmae_jax.plots.canvas import SMALL, TEXT, TITLE, WIDTH, Box, axes_at, blank, plain_axes, save, write
from avmae_jax.plots.palette import LIGHT

# title, the figures that a panel shows side by side with their names, whether they are shares
_PANELS = (
    ("R@1, one frame", {"one_audio_to_image": "audio to image", "one_image_to_audio": "image to audio"}, True),
    ("R@1, all frames", {"all_audio_to_image": "audio to image", "all_image_to_audio": "image to audio"}, True),
    ("reconstruction loss", {"reconstruction": "audio + image"}, False),
    ("linear probe", {"probe": "accuracy"}, True),
)
_LEFT, _TOP, _ROW, _GAP = 190, 92, 46, 26  # pixels

Table = Mapping[str, Mapping[str, tuple[float, float]]]  # row -> figure -> mean and standard deviation


def draw_ablation(path: Path, table: Table) -> None:
    """Saves a PNG with the means over the seeds and, as lines, one standard deviation.

    Args:
      path: of the PNG; its folder is created if missing.
      table: of train/ablation.table_of, its rows from the top.

    Raises:
      OSError: if the file can't be written.
    """
    panels = [panel for panel in _PANELS if any(figure in figures for figures in table.values() for figure in panel[1])]
    height = _TOP + _ROW * len(table) + 60
    figure = blank(WIDTH, height)
    write(figure, 14, 22, "What does each addition bring? The same clips and the same seconds of training", size=TITLE)
    width = (WIDTH - _LEFT - 20) / len(panels) - _GAP
    rows = list(table)
    for number, (title, names, share) in enumerate(panels):
        axes = axes_at(figure, Box(_LEFT + number * (width + _GAP), _TOP, width, _ROW * len(rows)))
        thick = 0.7 / len(names)
        for place, (name, label) in enumerate(names.items()):
            found = [table[row].get(name, (np.nan, 0.0)) for row in rows]
            where = np.arange(len(rows)) + (place - (len(names) - 1) / 2) * thick
            means, spreads = (np.array([pair[part] for pair in found]) for part in range(2))
            axes.barh(where, means, thick * 0.9, xerr=spreads, color=LIGHT.series[place], label=label, error_kw={"ecolor": LIGHT.text})
        axes.set_title(title, fontsize=TEXT, loc="left", pad=24)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), rows if number == 0 else [""] * len(rows), fontsize=TEXT)
        if share:
            axes.xaxis.set_major_formatter("{x:.0%}")
        plain_axes(axes, grid="x")
        if len(names) > 1:
            axes.legend(
                fontsize=SMALL, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(-0.04, 0.985), handlelength=0.8, columnspacing=0.8
            )
    write(
        figure,
        14,
        height - 16,
        "bars: mean over the seeds; lines: one standard deviation; each row has what the one above it has",
        color=LIGHT.soft,
    )
    save(figure, path)
