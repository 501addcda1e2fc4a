"""Tests the pictures of the match along time and of where the audio is."""

from pathlib import Path

import numpy as np
import pytest

from avmae_jax.inference.match_over_time import MomentVectors, References, match_timeline
from avmae_jax.inference.offset import NOTHING, Calibration, Offset, find_offset
from avmae_jax.plots.audio_places import draw_audio_places
from avmae_jax.plots.match_matrix import draw_match_matrix
from tests.plots.pixels import drawn_figures, pixels, words

RNG = np.random.default_rng(0)


def vectors(count: int) -> MomentVectors:
    image, audio = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in RNG.standard_normal((2, count, 8)).astype(np.float32))
    times = np.arange(count) / 4
    return MomentVectors(times, times, 0.3, audio, image)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("count", [2, 60, 1000])
def test_any_medium_is_drawn_whatever_the_title(count: int, known: bool, tmp_path: Path) -> None:
    drawn = vectors(count)
    references = References(drawn.audio, drawn.image) if known else None
    offset = find_offset(*drawn.tracks, Calibration(weights=(9.0, 0.0, 0.0)))
    path = tmp_path / "new" / "x.png"
    with drawn_figures() as figures:
        draw_match_matrix(path, drawn, match_timeline(drawn, references), offset, title="a $b_{c}$\n" + "long " * 90)
    assert pixels(path).shape[:2] == (612, 1200)
    said = " ".join(words(figures[0]))
    assert offset.words() in said
    assert ("other clips" in said) == known


def test_the_offset_is_said_and_drawn_or_that_one_cannot_tell(tmp_path: Path) -> None:
    drawn = vectors(40)
    lags = np.linspace(-2, 2, 17)
    found = Offset(1.25, 0.8, 1.25, lags, -np.abs(lags - 1.25))
    for offset, text in ((found, "audio +1.25 s"), (NOTHING, "nothing changes along time")):
        with drawn_figures() as figures:
            draw_match_matrix(tmp_path / "x.png", drawn, match_timeline(drawn), offset, title="x")
        texts = [*words(figures[0]), *(text.get_text() for axes in figures[0].axes for text in axes.texts)]
        assert any(text in each for each in texts)


@pytest.mark.parametrize("count", [1, 6, 9])
def test_frames_stand_in_rows_with_their_heat(count: int, tmp_path: Path) -> None:
    images = np.full((count, 32, 32, 3), 100, np.uint8)
    heat = RNG.standard_normal((count, 2, 2)).astype(np.float32)
    with drawn_figures() as figures:
        draw_audio_places(tmp_path / "x.png", images, heat, [0.25 * number for number in range(count)], title="x")
    assert pixels(tmp_path / "x.png").shape[1] == 1200
    assert sum(text.endswith(" s") for text in words(figures[0])) == count
    assert len(figures[0].axes) == 2 * count + 1
