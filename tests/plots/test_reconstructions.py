"""Reconstructions: hidden is grey, and a perfect prediction is the original."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.figure import Figure

from avmae_jax.data.fbank import decibels
from avmae_jax.inference.panels import Panels, compose
from avmae_jax.models.patches import patchify, spectrogram_image
from avmae_jax.plots import reconstructions
from avmae_jax.plots.canvas import WIDTH
from avmae_jax.train.losses import normalise_patches
from tests.plots.pixels import drawn_figures, is_colour, paddings, pixels, share, words

PATCH = 4
IMAGE_GRID, AUDIO_GRID = (2, 2), (2, 8)


def _case(clips: int = 2, *, norm_pix: bool = False, hidden: float | None = None, seed: int = 0) -> dict[str, Any]:
    """Arguments of `reconstructions` with predictions that are right; `hidden` is 0, 1 or None for a random half."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (clips, 8, 8, 3)).astype(np.float32)
    fbanks = rng.standard_normal((clips, 32, 8)).astype(np.float32)

    def right(inputs: Any) -> np.ndarray:
        patches = patchify(jnp.asarray(inputs), PATCH)
        return np.asarray(normalise_patches(patches) if norm_pix else patches)

    def mask(length: int) -> np.ndarray:
        chosen = rng.random((clips, length)) < 0.5 if hidden is None else np.full((clips, length), hidden)
        return chosen.astype(np.float32)

    return {
        "images": images,
        "pred_images": right(images),
        "hidden_images": mask(4),
        "fbanks": fbanks,
        "pred_fbanks": right(_picture(fbanks)),
        "hidden_fbanks": mask(16),
        "image_grid": IMAGE_GRID,
        "audio_grid": AUDIO_GRID,
        "patch": PATCH,
        "norm_pix": norm_pix,
        "titles": [f"clip {i}" for i in range(clips)],
    }


def _draw(path: Path, case: dict[str, Any], only: tuple[str, ...] = ("image", "audio")) -> None:
    """Composes the panels of a case and draws them."""
    kinds = {
        "image": (case["images"], case["pred_images"], case["hidden_images"], case["image_grid"]),
        "audio": (_picture(case["fbanks"]), case["pred_fbanks"], case["hidden_fbanks"], case["audio_grid"]),
    }
    panels = {
        name: compose(inputs, pred, hidden, grid=grid, patch=case["patch"], norm_pix=case["norm_pix"])
        for name, (inputs, pred, hidden, grid) in kinds.items()
        if name in only
    }
    reconstructions.reconstructions(path, panels, case["titles"], norm_pix=case["norm_pix"])


def _picture(fbanks: np.ndarray) -> np.ndarray:
    return np.asarray(spectrogram_image(jnp.asarray(fbanks)))


@pytest.mark.parametrize("norm_pix", [False, True])
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 999))
def test_right_predictions_reconstruct_the_original(norm_pix: bool, seed: int) -> None:
    case = _case(norm_pix=norm_pix, seed=seed)
    kinds = {"images": (case["images"], IMAGE_GRID), "fbanks": (_picture(case["fbanks"]), AUDIO_GRID)}
    for kind, (inputs, grid) in kinds.items():
        panels = compose(inputs, case[f"pred_{kind}"], case[f"hidden_{kind}"], grid=grid, patch=PATCH, norm_pix=norm_pix)
        np.testing.assert_array_equal(panels.original, inputs)
        np.testing.assert_allclose(panels.reconstructed, inputs, atol=1e-5 if norm_pix else 0)


def test_colours_show_the_image_as_it_was_and_hide_what_is_hidden() -> None:
    rgb = np.random.default_rng(0).uniform(0, 1, (1, 8, 8, 3))
    normalised = ((rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)
    hidden = np.zeros((1, 8, 8), bool)
    hidden[:, :, 4:] = True
    original, masked, reconstructed = reconstructions.image_stages(Panels(normalised, hidden, normalised + 100))
    np.testing.assert_allclose(original, rgb, atol=1e-6)
    np.testing.assert_allclose(masked[:, :, :4], rgb[:, :, :4], atol=1e-6)
    np.testing.assert_array_equal(masked[:, :, 4:], np.full((1, 8, 4, 3), reconstructions.GREY, np.float32))
    np.testing.assert_array_equal(reconstructed, np.ones((1, 8, 8, 3)))


def test_a_spectrogram_has_one_scale_for_its_three_stages_and_its_own() -> None:
    quiet = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    original = np.concatenate([quiet, 50 * quiet])
    panels = Panels(original, np.zeros((2, 8, 8), bool), original[:, ::-1])
    first, _, last = reconstructions.spectrogram_stages(panels)
    np.testing.assert_array_equal(first[:, ::-1], last)
    np.testing.assert_allclose(first[0], first[1], atol=1e-2)
    assert first[0, 0, 0].sum() < 0.1 < 2 < first[0, -1, -1].sum()  # dark to bright


def test_predictions_that_are_not_finite_are_seen() -> None:
    original = np.zeros((1, 8, 8, 3), np.float32)
    broken = original.copy()
    broken[0, 0, :3, 1] = [np.nan, np.inf, -np.inf]
    stages = reconstructions.image_stages(Panels(original, np.zeros((1, 8, 8), bool), broken))
    np.testing.assert_array_equal(stages[2][0, 0, :3], [reconstructions.BROKEN] * 3)
    np.testing.assert_array_equal(stages[2][0, 1:], stages[0][0, 1:])


@pytest.mark.parametrize("clips", [1, 3])
@pytest.mark.slow
def test_reconstructions_are_a_png_with_a_row_for_each_clip(tmp_path: Path, clips: int) -> None:
    path = tmp_path / "new" / "folder" / "plot.png"
    _draw(path, _case(clips, norm_pix=True))
    height, width, _ = pixels(path).shape
    assert width == WIDTH
    assert 200 * clips < height < 300 * clips + 100
    assert list(path.parent.iterdir()) == [path]


def test_the_masked_panels_of_the_file_are_grey_where_everything_is_hidden(tmp_path: Path) -> None:
    shares = []
    for hidden in (0.0, 1.0):
        with drawn_figures() as drawn:
            _draw(tmp_path / f"{hidden}.png", _case(1, hidden=hidden))
        boxes = [axes.get_window_extent() for axes in drawn[0].axes[:6]]
        colours = pixels(tmp_path / f"{hidden}.png")
        shares.append(share(colours, reconstructions.GREY) * colours.shape[0] * colours.shape[1])
    grey = shares[1] - shares[0]  # pixels
    image, spectrogram = (box.width * box.height for box in boxes[1::3])
    assert grey == pytest.approx(image + spectrogram, rel=0.02)


def test_low_mel_is_at_the_bottom_and_time_runs_to_the_right(tmp_path: Path) -> None:
    case = _case(1)
    case["fbanks"] = np.zeros((1, 32, 8), np.float32)
    case["fbanks"][0, :8, :2] = 1  # the lowest quarter of the bins, in the first quarter of the time
    with drawn_figures() as drawn:
        _draw(tmp_path / "plot.png", case)
    colours, box = pixels(tmp_path / "plot.png"), drawn[0].axes[3].get_window_extent()  # of the original spectrogram
    top = round(len(colours) - box.y1)
    inside = colours[top : top + round(box.height), round(box.x0) : round(box.x1)]
    bright = np.argwhere(is_colour(inside, colormaps["magma"](1.0)[:3]))
    assert bright[:, 0].min() / box.height == pytest.approx(0.75, abs=0.04)
    assert bright[:, 1].max() / box.width == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_the_heading_names_how_much_is_hidden_and_what_is_borrowed(tmp_path: Path, norm_pix: bool) -> None:
    case = _case(1, norm_pix=norm_pix, hidden=1.0)
    case["hidden_fbanks"] = np.arange(16, dtype=np.float32)[None] % 4 == 0
    with drawn_figures() as drawn:
        _draw(tmp_path / "plot.png", case)
    (heading,) = (text for text in words(drawn[0]) if "100%" in text)
    assert "25%" in heading
    assert ("contrast" in heading) == norm_pix
    assert "clip 0" in words(drawn[0])


def test_odd_titles_are_drawn_as_they_are(tmp_path: Path) -> None:
    case = _case(2)
    case["titles"] = ["$x_1 \\frac{$\nnext line 日本語", "long" * 300]
    _draw(tmp_path / "plot.png", case)
    assert pixels(tmp_path / "plot.png").shape[1] == WIDTH


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titles": ["one"]}, "2.* 1 titles"),
        ({"patch": 2}, "patches of 2"),
        ({"image_grid": (1, 4)}, r"grid \(1, 4\)"),
        ({"hidden_fbanks": np.ones((2, 15))}, r"hidden \(2, 15\)"),
        ({"pred_images": np.ones((2, 4, 16))}, r"predictions \(2, 4, 16\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _draw(tmp_path / "plot.png", (_case() | change))
    assert not list(tmp_path.iterdir())


def test_one_modality_alone_is_drawn_alone(tmp_path: Path) -> None:
    for modality in ("image", "audio"):
        with drawn_figures() as drawn:
            _draw(tmp_path / "plot.png", _case(1, hidden=1.0), only=(modality,))
        (heading,) = (text for text in words(drawn[0]) if "100%" in text)
        assert [other for other in ("image", "audio") if other in heading] == [modality]
        assert len([axes for axes in drawn[0].axes if axes.images]) == (3 if modality == "image" else 4)  # with a colour bar
    with pytest.raises(ValueError, match="titles"):
        _draw(tmp_path / "plot.png", _case(2), only=())


def test_padding_is_hatched_in_every_stage_and_levels_are_in_decibels(tmp_path: Path) -> None:
    fbank = np.random.default_rng(0).standard_normal((2, 16, 100, 1)).astype(np.float32)
    fbank[0, :, 60:] = 50.0  # padding decides no colour
    panels = Panels(fbank, np.zeros((2, 16, 100), bool), fbank, np.array([60, 100]), np.array([[-5.0, 4.0], [-5.0, 4.0]]))
    with drawn_figures() as drawn:
        reconstructions.reconstructions(tmp_path / "x.png", {"audio": panels}, ["short", "long"], norm_pix=False)
    assert [(part.get_x(), part.get_x() + part.get_width()) for part in paddings(drawn[0])] == [pytest.approx((0.6, 1.0))] * 3
    assert words(drawn[0]).count("padding") == 3
    low, high = drawn[0].axes[3].get_ylim()  # of the first clip's colour bar
    assert (low, high) == pytest.approx(decibels(np.array(reconstructions.spectrogram_scale(panels, 0))))
    expected = np.percentile(fbank[0, :, :60], (0.5, 99.5)) * 4 - 5
    assert (low, high) == pytest.approx(10 / np.log(10) * expected, abs=1e-3)
    assert "Hz" in words(drawn[0])


def test_a_failed_write_leaves_the_old_plot_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plot.png"
    path.write_bytes(b"old")

    def full(_self: object, file: Path, **_: Any) -> None:
        file.write_bytes(b"half")
        raise OSError("disk")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="disk"):
        _draw(path, _case())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
