"""Tests the gallery: each query with what it found, frames in their colours, odd names, and words for what is missing."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from avmae_jax.data.clip import Clip
from avmae_jax.plots.canvas import WIDTH
from avmae_jax.plots.gallery import Card, Search, Section, draw_gallery
from avmae_jax.plots.palette import LIGHT
from tests.plots.pixels import drawn_figures, pixels, words
from tests.support import Clips

OWN, SAME = (tuple(round(255 * part) for part in to_rgb(colour)) for colour in (LIGHT.right, LIGHT.held_out))
HOSTILE = "$\\frac{$ [bold]\x1b[31m\n" + "x" * 300


def cards(marks: str, clip: Clip | None = None) -> list[Card]:
    names = {"r": "right", "c": "class", ".": ""}
    return [Card(clip or Clips(9)[n], (f"0.5  {n}", "id"), names[mark]) for n, mark in enumerate(marks)]  # pyright: ignore[reportArgumentType]


def drawn(path: Path, *searches: Search) -> np.ndarray:
    draw_gallery(path, [Section("heading", searches)])
    return pixels(path)


def count(colours: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((colours == np.array(colour)).all(axis=-1).sum())


@pytest.mark.parametrize("queried", ["audio", "image"])
def test_the_right_one_and_those_of_its_class_are_framed(queried: str, tmp_path: Path) -> None:
    def row(marks: str, apart: str = "") -> Search:
        return Search("title", Clips(9)[8], queried, cards(marks), *cards(apart))  # pyright: ignore[reportArgumentType]

    among, apart = drawn(tmp_path / "a.png", row("r..c.")), drawn(tmp_path / "a.png", row(".....", "r"))
    assert count(among, OWN) > 1000
    assert count(among, SAME) > 500
    assert count(apart, SAME) == 0
    assert (np.flatnonzero((among == np.array(OWN)).all(axis=-1).any(axis=0)) < 450).all()
    assert (np.flatnonzero((apart == np.array(OWN)).all(axis=-1).any(axis=0)) > 1040).all()  # set apart, at the right


def test_a_row_for_each_search_and_a_heading_for_each_section(tmp_path: Path) -> None:
    one = Search("title", Clips(1)[0], "audio", cards("..."))
    heights = []
    for sections in ([Section("h", [one])], [Section("h", [one, one])], [Section("h", [one]), Section("h", [one])]):
        draw_gallery(tmp_path / "new/a.png", sections)
        heights.append(len(pixels(tmp_path / "new/a.png")))
    assert heights[0] < heights[1] < heights[2]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_missing_half_is_a_word_and_no_name_breaks_the_plot(tmp_path: Path) -> None:
    empty = Clip(HOSTILE, np.zeros(0, np.int16), (), ())
    silent = Clips(1)[0]._replace(waveform=np.zeros(4000, np.int16))
    rows = [Search(HOSTILE, empty, side, [Card(empty, (HOSTILE, HOSTILE)), Card(silent, ("a",))]) for side in ("audio", "image")]
    with drawn_figures() as figures:
        assert drawn(tmp_path / "a.png", *rows).shape[1] == WIDTH  # pyright: ignore[reportArgumentType]
    assert {"no image", "no audio"} <= set(words(figures[0]))


def test_a_damaged_frame_is_a_word_and_the_others_are_drawn(tmp_path: Path) -> None:
    damaged = Clips(1)[0]._replace(frames=(b"no image",))
    with drawn_figures() as figures:
        drawn(tmp_path / "a.png", Search("t", Clips(1)[0], "audio", [*cards("r", damaged), *cards(".")]))
    assert words(figures[0]).count("damaged image") == 1
    assert [len(axes.images) for axes in figures[0].axes[1:]] == [1, 0, 1]  # after the colour bar
