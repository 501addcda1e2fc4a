"""Tests heat maps: red is for the class, blue against it, for any medium with any title."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from avmae_jax.plots.heatmap import draw_heatmap, painted
from tests.plots.pixels import drawn_figures, paddings, pixels, words

RNG = np.random.default_rng(0)
ARRAYS = {
    "waveform": (RNG.standard_normal(7920) * 3000).astype(np.int16),  # 48 frames
    "samples": np.int32(4000),
    "image": np.full((32, 32, 3), 100, np.uint8),
}
HEAT = {"image": np.zeros((2, 2), np.float32), "audio": np.zeros((2, 3), np.float32)}


@pytest.mark.parametrize("modalities", [("image", "audio"), ("audio",), ("image",)])
@pytest.mark.parametrize("constant", [0.5, None])
def test_any_medium_is_drawn_whatever_the_title(modalities: tuple[str, ...], constant: float | None, tmp_path: Path) -> None:
    if constant is None and len(modalities) == 1:
        return  # a cosine is of two modalities
    heat = {name: RNG.standard_normal(HEAT[name].shape).astype(np.float32) for name in modalities}
    with drawn_figures() as figures:
        draw_heatmap(tmp_path / "new/x.png", heat, constant, ARRAYS, start=2.0, title="a $b_{c}$\n" + "very long " * 40)
    assert pixels(tmp_path / "new/x.png").shape[0] == 450
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]
    text = " ".join(words(figures[0]))
    assert "2 s" in text
    if constant is not None:
        assert f"logit {sum(values.sum() for values in heat.values()) + 0.5:.2f}" in text
        assert all(f"{name} {heat[name].sum():+.2f}" in text for name in modalities)


def test_the_heat_lies_where_its_patch_is(tmp_path: Path) -> None:
    heat = {name: values.copy() for name, values in HEAT.items()}
    heat["image"][0, 1] = 1.0  # the upper right quarter
    heat["audio"][1, 0] = 1.0  # high mel, in the first third of the time
    with drawn_figures() as figures:
        draw_heatmap(tmp_path / "x.png", heat, 0.0, ARRAYS, start=0.0, title="t")
    image = pixels(tmp_path / "x.png").astype(int)
    red = (image[..., 0] - image[..., 1] > 100) & (image[..., 0] - image[..., 2] > 100)
    height = image.shape[0]
    expected = {1: (0.5, 1.0, 0.5, 1.0), 3: (0.0, 1 / 3, 0.5, 1.0)}  # of the axes with heat: left, right, bottom, top
    for number, (left, right, bottom, top) in expected.items():
        box = figures[0].axes[number].get_window_extent()
        rows, columns = np.nonzero(red[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)])
        found = (columns.min() / box.width, columns.max() / box.width, 1 - rows.max() / box.height, 1 - rows.min() / box.height)
        assert found == pytest.approx((left, right, bottom, top), abs=0.02)


def test_what_follows_the_audio_is_hatched_and_named(tmp_path: Path) -> None:
    with drawn_figures() as figures:
        draw_heatmap(tmp_path / "x.png", {"audio": HEAT["audio"]}, 0.0, ARRAYS, start=2.0, title="t")
    found = paddings(figures[0])
    assert [(part.get_x(), part.get_x() + part.get_width()) for part in found] == [pytest.approx((2.23, 2.48))] * 2  # 23 of 48 frames
    assert words(figures[0]).count("padding") == 2
    assert to_rgba(found[1].get_facecolor())[3] == 0  # the heat over padding stays visible
    whole = ARRAYS | {"samples": np.int32(7920)}
    with drawn_figures() as figures:
        draw_heatmap(tmp_path / "x.png", {"audio": HEAT["audio"]}, 0.0, whole, start=2.0, title="t")
    assert not paddings(figures[0])


def test_colours_say_for_and_against() -> None:
    grey = np.full((4, 4, 3), 0.5, np.float32)
    found = painted(grey, np.array([[-1.0, 0.0], [0.5, 1.0]], np.float32), -1, 1)
    against, nothing, little, much = found[0, 0], found[0, 3], found[3, 0], found[3, 3]
    assert against[2] > 0.9 > 0.2 > against[0]
    assert much[0] > 0.9 > 0.2 > much[2]
    np.testing.assert_allclose(nothing, 0.5)
    assert 0.5 < little[0] < much[0]
