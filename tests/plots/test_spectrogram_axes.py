"""Tests what surrounds a spectrogram: ticks at the right frequencies, levels in dB, and padding where there is no audio."""

import math

import numpy as np
import pytest
from matplotlib.axes import Axes

from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.fbank import SILENCE, decibels, hertz_at, log_mel, mel_filters, mel_height
from avmae_jax.plots.canvas import SMALL, Box, axes_at, blank, time_axis
from avmae_jax.plots.clips import show_spectrogram
from avmae_jax.plots.spectrogram_axes import frequency_axis, levels_along, levels_beside, show_padding, shown_hertz
from tests.media import tone
from tests.plots.pixels import paddings, places, words


def shown(height: float, mel_bins: int = 128, width: float = 300) -> Axes:
    axes = axes_at(blank(400, 300), Box(50, 20, width, height))
    show_spectrogram(axes, np.zeros((mel_bins, 100)), (0.0, 1.0))
    return axes


def hertz_of(label: str) -> float:
    return float(label.removesuffix("k")) * (1000 if label.endswith("k") else 1)


@pytest.mark.parametrize("mel_bins", [32, 64, 128])
def test_each_tone_is_brightest_at_its_height(mel_bins: int) -> None:
    for hertz in (500.0, 1000.0, 2000.0, 4000.0):
        brightest = int(log_mel(tone(hertz, 0.5), mel_bins).mean(axis=0).argmax())
        assert abs(mel_height(hertz, mel_bins) - (brightest + 0.5)) <= 1


@pytest.mark.parametrize("mel_bins", [40, 128])
def test_a_height_is_the_centre_of_its_filter(mel_bins: int) -> None:
    frequencies = np.arange(257) * SAMPLE_RATE / 512
    for mel_bin in range(mel_bins // 2, mel_bins - 1):  # low ones are narrower than a frequency of the transform
        filters = mel_filters(mel_bins)[:, mel_bin]
        assert abs(frequencies[filters.argmax()] - hertz_at(mel_bin + 0.5, mel_bins)) <= SAMPLE_RATE / 512
    heights = np.linspace(0, mel_bins, 9)
    np.testing.assert_allclose(mel_height(hertz_at(heights, mel_bins), mel_bins), heights, atol=1e-9)


@pytest.mark.parametrize(("height", "mel_bins"), [(40, 128), (58, 128), (140, 128), (250, 64)])
def test_ticks_are_where_their_frequency_is(height: float, mel_bins: int) -> None:
    axes = shown(height, mel_bins)
    frequency_axis(axes, mel_bins)
    ticks = {label.get_text(): place for label, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    assert len(ticks) >= 1
    for label, place in ticks.items():
        assert abs(mel_height(hertz_of(label), mel_bins) - place) < 1
        assert 0 < place < mel_bins
    where = sorted(place * height / mel_bins for place in ticks.values())
    assert all(np.diff(where) >= SMALL)
    assert "Hz" in words(axes.figure)  # pyright: ignore[reportArgumentType]


def test_a_tiny_spectrogram_has_no_ticks() -> None:
    assert shown_hertz(128, 4) == []


def test_a_level_is_ten_times_the_decimal_logarithm_of_an_energy() -> None:
    assert decibels(math.log(100.0)) == pytest.approx(20)
    assert decibels(SILENCE) == pytest.approx(10 * math.log10(np.finfo(np.float32).eps))


@pytest.mark.parametrize("scale", [(-16.0, 4.0), (-0.01, 0.01), (3.0, 3.01)])
def test_colour_bars_are_in_decibels(scale: tuple[float, float]) -> None:
    figure = blank(600, 300)
    levels_beside(figure, Box(20, 20, 300, 200), scale)
    levels_along(figure, Box(20, 240, 400, 30), scale, "energy")
    figure.draw_without_rendering()
    upright, lying = figure.axes
    assert upright.get_ylim() == pytest.approx(decibels(np.array(scale)))
    assert lying.get_xlim() == pytest.approx(decibels(np.array(scale)))
    assert any(word.endswith(" dB") for word in words(figure))
    assert "energy, dB" in words(figure)
    image = np.asarray(upright.images[0].get_array())
    assert image[0].sum() > image[-1].sum()  # bright, which is loud, at the top


@pytest.mark.parametrize(("start", "named"), [(0.5, True), (0.9, True), (0.98, False)])
def test_padding_is_hatched_from_its_start_to_the_end_and_named_where_there_is_room(start: float, named: bool) -> None:
    axes = shown(100)
    show_padding(axes, start, 1.0)
    time_axis(axes)
    figure = axes.get_figure(root=True)
    assert figure is not None
    (part,) = paddings(figure)
    assert (part.get_x(), part.get_x() + part.get_width(), part.get_height()) == pytest.approx((start, 1.0, 128))
    assert ("padding" in words(figure)) == named
    if named:
        assert 50 + 300 * start < places(figure)["padding"][0] < 350
