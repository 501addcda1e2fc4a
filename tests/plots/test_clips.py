"""Tests the drawing of a frame and a spectrogram: orientation, scale, and words for what is missing."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure

from avmae_jax.data.clip import Clip
from avmae_jax.plots.canvas import WIDTH, Box, blank, save
from avmae_jax.plots.clips import COMMON_SCALE, Axis, draw_frame, draw_spectrogram
from avmae_jax.plots.contact_sheet import contact_sheet
from tests.media import tone
from tests.plots.pixels import drawn_figures, pixels, share, words
from tests.support import Clips

BOX = Box(10, 20, 100, 60)


def drawn(figure: Figure, path: Path, box: Box = BOX) -> np.ndarray:
    """Returns the pixels inside a box."""
    save(figure, path)
    left, top, width, height = (int(side) for side in box)
    return pixels(path)[top : top + height, left : left + width]


def loud(hertz: float, amplitude: float = 0.5) -> Clip:
    return Clips(1)[0]._replace(waveform=(tone(hertz, 1.0, amplitude=amplitude) * 32_767).astype(np.int16))


def test_the_middle_frame_fills_its_box(tmp_path: Path) -> None:
    figure = blank(140, 100)
    draw_frame(figure, BOX, Clips(9)[7])
    assert share(drawn(figure, tmp_path / "a.png"), (7 / 255, 100 / 255, 0)) > 0.95  # frame 5 of 10


@pytest.mark.parametrize("frames", [(b"no image",), (b"\x89PNG\r\n\x1a\n" + b"torn",)])
def test_a_damaged_or_missing_frame_is_a_word(frames: tuple[bytes, ...]) -> None:
    figure = blank(140, 100)
    draw_frame(figure, BOX, Clips(1)[0]._replace(frames=frames))
    draw_frame(figure, BOX, Clips(1)[0]._replace(frames=()))
    draw_spectrogram(figure, BOX, Clips(1)[0]._replace(waveform=np.zeros(399, np.int16)))
    assert {"damaged image", "no image", "no audio"} <= set(words(figure))


@pytest.mark.parametrize("axis", ["none", "seconds"])
def test_low_tones_are_drawn_at_the_bottom_and_the_length_is_given(tmp_path: Path, axis: Axis) -> None:
    rows = []
    for hertz in (300.0, 5000.0):
        figure = blank(140, 100)
        draw_spectrogram(figure, BOX, loud(hertz), axis=axis)
        brightness = drawn(figure, tmp_path / "a.png")[: 40 if axis == "seconds" else 60, :60].astype(float).sum(axis=(1, 2))
        rows.append(int(brightness.argmax()))
        assert ("1 s" if axis == "seconds" else "1.0 s") in words(figure)
    assert rows[0] > rows[1] + 10


def test_loudness_can_be_compared_on_the_common_scale_only(tmp_path: Path) -> None:
    brightest = []
    for scale in (COMMON_SCALE, None):
        for amplitude in (0.001, 0.5):
            figure = blank(140, 100)
            draw_spectrogram(figure, BOX, loud(1000.0, amplitude), scale=scale)
            brightest.append(drawn(figure, tmp_path / "a.png")[:, :60].astype(int).sum(axis=2).max())
    quiet, strong, own_quiet, own_strong = brightest
    assert quiet < strong - 100
    assert own_quiet == pytest.approx(own_strong, abs=40)


def test_silence_is_drawn_in_one_colour(tmp_path: Path) -> None:
    figure = blank(140, 100)
    draw_spectrogram(figure, BOX, loud(1000.0, 0.0), axis="seconds")
    assert share(drawn(figure, tmp_path / "a.png")[:40], colormaps["magma"](0.0)[:3]) > 0.95


def test_a_contact_sheet_names_each_clip_with_its_classes(tmp_path: Path) -> None:
    clips = [Clips(9)[0]._replace(labels=(1, 0)), Clips(9)[1]._replace(id="$\\frac{$\n"), Clips(9)[2]._replace(frames=())]
    with drawn_figures() as figures:
        contact_sheet(tmp_path / "new/a.png", clips, ["harp", "oboe"], heading="three of nine")
    assert {"three of nine", "clip0: oboe, harp", "no image"} <= set(words(figures[0]))
    assert pixels(tmp_path / "new/a.png").shape == (216, WIDTH, 3)
