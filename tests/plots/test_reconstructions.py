"""Pictures: hidden is grey, a perfect prediction is the original, and no metrics file is too broken to draw."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from avmae_jax.models.patches import patchify, spectrogram_picture
from avmae_jax.plots import reconstructions
from avmae_jax.train.losses import normalise_patches

PATCH = 4
IMAGE_GRID, AUDIO_GRID = (2, 2), (2, 8)


def _case(clips: int = 2, *, norm_pix: bool = False, hidden: float | None = None, seed: int = 0) -> dict[str, Any]:
    """Arguments of `reconstructions` with predictions that are right; `hidden` is 0, 1 or None for a random half."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (clips, 8, 8, 3)).astype(np.float32)
    fbanks = rng.standard_normal((clips, 32, 8)).astype(np.float32)

    def right(picture: Any) -> np.ndarray:
        patches = patchify(picture, PATCH)
        return np.asarray(normalise_patches(patches) if norm_pix else patches)  # pyright: ignore[reportArgumentType]

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
        name: reconstructions.compose(picture, pred, hidden, grid=grid, patch=case["patch"], norm_pix=case["norm_pix"])
        for name, (picture, pred, hidden, grid) in kinds.items()
        if name in only
    }
    reconstructions.reconstructions(path, panels, case["titles"], norm_pix=case["norm_pix"])


def _picture(fbanks: np.ndarray) -> np.ndarray:
    return np.asarray(spectrogram_picture(fbanks))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would have been saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(reconstructions, "save", lambda figure, path: figures.append(figure))
    return figures


def _pixels(path: Path) -> np.ndarray:
    """A PNG's colours, uint8[H, W, 3]."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def _share(pixels: np.ndarray, colour: tuple[float, float, float]) -> float:
    return float((np.abs(pixels / 255 - np.array(colour)) < 0.01).all(axis=-1).mean())


@pytest.mark.parametrize("norm_pix", [False, True])
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 999))
def test_right_predictions_reconstruct_the_original(norm_pix: bool, seed: int) -> None:
    case = _case(norm_pix=norm_pix, seed=seed)
    kinds = {"images": (case["images"], IMAGE_GRID), "fbanks": (_picture(case["fbanks"]), AUDIO_GRID)}
    for kind, (picture, grid) in kinds.items():
        panels = reconstructions.compose(picture, case[f"pred_{kind}"], case[f"hidden_{kind}"], grid=grid, patch=PATCH, norm_pix=norm_pix)
        np.testing.assert_array_equal(panels.original, picture)
        np.testing.assert_allclose(panels.reconstructed, picture, atol=1e-5 if norm_pix else 0)


def test_predictions_appear_in_hidden_places_only() -> None:
    picture = np.zeros((1, 8, 8, 3), np.float32)
    pred = np.arange(1, 5, dtype=np.float32)[None, :, None] * np.ones((1, 4, PATCH * PATCH * 3), np.float32)
    hidden = np.array([[0, 1, 0, 1]], np.float32)  # the right half
    panels = reconstructions.compose(picture, pred, hidden, grid=IMAGE_GRID, patch=PATCH, norm_pix=False)
    expected = np.zeros((1, 8, 8, 3))
    expected[:, :4, 4:], expected[:, 4:, 4:] = 2, 4
    np.testing.assert_array_equal(panels.reconstructed, expected)
    np.testing.assert_array_equal(panels.hidden, expected[..., 0] > 0)


def test_normalised_predictions_get_mean_and_contrast_of_the_original_patch() -> None:
    rng = np.random.default_rng(0)
    picture = rng.uniform(2, 5, (1, 8, 8, 1)).astype(np.float32)
    pred = rng.standard_normal((1, 4, PATCH * PATCH)).astype(np.float32)
    panels = reconstructions.compose(picture, pred, np.ones((1, 4)), grid=IMAGE_GRID, patch=PATCH, norm_pix=True)
    corner = picture[0, :4, 4:, 0]
    expected = pred[0, 1].reshape(4, 4) * corner.std(ddof=1) + corner.mean()
    np.testing.assert_allclose(panels.reconstructed[0, :4, 4:, 0], expected, rtol=1e-5)


def test_colours_show_the_image_as_it_was_and_hide_what_is_hidden() -> None:
    rgb = np.random.default_rng(0).uniform(0, 1, (1, 8, 8, 3))
    normalised = ((rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)
    hidden = np.zeros((1, 8, 8), bool)
    hidden[:, :, 4:] = True
    original, masked, reconstructed = reconstructions.image_stages(reconstructions.Panels(normalised, hidden, normalised + 100))
    np.testing.assert_allclose(original, rgb, atol=1e-6)
    np.testing.assert_allclose(masked[:, :, :4], rgb[:, :, :4], atol=1e-6)
    np.testing.assert_array_equal(masked[:, :, 4:], np.full((1, 8, 4, 3), 0.5))
    np.testing.assert_array_equal(reconstructed, np.ones((1, 8, 8, 3)))


def test_a_spectrogram_has_one_scale_for_its_three_stages_and_its_own() -> None:
    quiet = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    original = np.concatenate([quiet, 50 * quiet])
    panels = reconstructions.Panels(original, np.zeros((2, 8, 8), bool), original[:, ::-1])
    first, _, last = reconstructions.spectrogram_stages(panels)
    np.testing.assert_array_equal(first[:, ::-1], last)
    np.testing.assert_allclose(first[0], first[1], atol=1e-2)
    assert first[0, 0, 0].sum() < 0.1 < 2 < first[0, -1, -1].sum()  # dark to bright


def test_predictions_that_are_not_finite_are_seen() -> None:
    original = np.zeros((1, 8, 8, 3), np.float32)
    broken = original.copy()
    broken[0, 0, :3, 1] = [np.nan, np.inf, -np.inf]
    stages = reconstructions.image_stages(reconstructions.Panels(original, np.zeros((1, 8, 8), bool), broken))
    np.testing.assert_array_equal(stages[2][0, 0, :3], [reconstructions.BROKEN] * 3)
    np.testing.assert_array_equal(stages[2][0, 1:], stages[0][0, 1:])


@pytest.mark.parametrize("clips", [1, 3])
def test_reconstructions_are_a_png_with_a_row_for_each_clip(tmp_path: Path, clips: int) -> None:
    path = tmp_path / "new" / "folder" / "picture.png"
    _draw(path, _case(clips, norm_pix=True))
    height, width, _ = _pixels(path).shape
    assert width == 1400
    assert 200 * clips < height < 300 * clips + 100
    assert list(path.parent.iterdir()) == [path]


def test_the_masked_panels_of_the_file_are_grey_where_everything_is_hidden(tmp_path: Path) -> None:
    shares = []
    for hidden in (0.0, 1.0):
        _draw(tmp_path / f"{hidden}.png", _case(1, hidden=hidden))
        pixels = _pixels(tmp_path / f"{hidden}.png")
        shares.append(_share(pixels, reconstructions.GREY) * pixels.shape[0] * pixels.shape[1])
    grey = shares[1] - shares[0]  # pixels
    image, spectrogram = 200 * 200, 620 * 61
    assert grey == pytest.approx(image + spectrogram, rel=0.02)


def test_low_mel_is_at_the_bottom_and_time_runs_to_the_right(tmp_path: Path) -> None:
    case = _case(1)
    case["fbanks"] = np.zeros((1, 32, 8), np.float32)
    case["fbanks"][0, :8, :2] = 1  # the lowest quarter of the bins, in the first quarter of the time
    _draw(tmp_path / "picture.png", case)
    pixels = _pixels(tmp_path / "picture.png")
    bright = np.argwhere((np.abs(pixels / 255 - np.array(colormaps["magma"](1.0)[:3])) < 0.01).all(axis=-1))
    bright = bright[bright[:, 0] < 60 + 24 + 61]  # of the original; the others lie below it
    # Rows 84 to 145 and columns 662 to 1282 are the panel, see the layout's constants.
    assert (bright[:, 0].min() - 84) / 61 == pytest.approx(0.75, abs=0.04)
    assert (bright[:, 1].max() - 662) / 620 == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_the_heading_tells_how_much_is_hidden_and_what_is_borrowed(tmp_path: Path, drawn: list[Figure], norm_pix: bool) -> None:
    case = _case(1, norm_pix=norm_pix, hidden=1.0)
    case["hidden_fbanks"] = np.arange(16, dtype=np.float32)[None] % 4 == 0
    _draw(tmp_path / "picture.png", case)
    heading = drawn[0].texts[0].get_text()
    assert "100% of the image and 25% of the sound" in heading
    assert ("mean and contrast from the original" in heading) == norm_pix
    assert "clip 0" in [text.get_text() for text in drawn[0].texts]


def test_odd_titles_are_drawn_as_they_are(tmp_path: Path) -> None:
    case = _case(2)
    case["titles"] = ["$x_1 \\frac{$\nnext line 日本語", "long" * 300]
    _draw(tmp_path / "picture.png", case)
    assert _pixels(tmp_path / "picture.png").shape[1] == 1400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titles": ["one"]}, "panels for {'image': 2, 'audio': 2} clips and 1 titles"),
        ({"patch": 2}, "don't all belong"),
        ({"image_grid": (1, 4)}, r"grid \(1, 4\)"),
        ({"hidden_fbanks": np.ones((2, 15))}, r"hidden \(2, 15\)"),
        ({"pred_images": np.ones((2, 4, 16))}, r"predictions \(2, 4, 16\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _draw(tmp_path / "picture.png", (_case() | change))
    assert not list(tmp_path.iterdir())


def test_one_modality_alone_is_drawn_alone(tmp_path: Path, drawn: list[Figure]) -> None:
    headings = {"image": "100% of the image)", "audio": "100% of the sound)"}
    for modality, words in headings.items():
        _draw(tmp_path / "picture.png", _case(1, hidden=1.0), only=(modality,))
        assert words in drawn[-1].texts[0].get_text()
        assert len(drawn[-1].axes) == 3
    with pytest.raises(ValueError, match=r"panels for \{\} clips and 2 titles"):
        _draw(tmp_path / "picture.png", _case(2), only=())


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def full(_self: object, file: Path, **_: Any) -> None:
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(reconstructions.Figure, "savefig", full)
    with pytest.raises(OSError, match="No space"):
        _draw(path, _case())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _metrics(steps: int, **extra: Any) -> str:
    names = ("loss", "mae_audio", "mae_image", "nce")
    train = [{"step": 10 * i, "split": "train", **dict.fromkeys(names, 1 / (i + 1)), **extra} for i in range(1, steps + 1)]
    held_out = [{**row, "split": "eval"} for row in train[9::10]]
    return "".join(json.dumps(row) + "\n" for row in train + held_out)


@pytest.mark.parametrize(
    "text",
    [
        "",
        _metrics(1),
        _metrics(60),
        _metrics(60, nce=math.nan, loss=math.inf),
        _metrics(60, mae_audio=None, mae_image="nan"),
        _metrics(60) + '{"step": 610, "split": "train", "loss": NaN, "nce": -Infinity}\n{"step": 620, "spl',
        '{"step": 5, "split": "eval", "loss": 3.0}\n',
        '{"step": 5, "split": "train", "loss": 0.0}\n{"step": 6, "split": "other", "loss": 1.0}\n',
    ],
)
def test_loss_curves_are_drawn_from_any_metrics(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    reconstructions.loss_curves(tmp_path / "pictures" / "curves.png", tmp_path / "metrics.jsonl")
    pixels = _pixels(tmp_path / "pictures" / "curves.png")
    assert pixels.shape == (700, 1400, 3)
    assert (_share(pixels, (1, 0, 0)) > 0) == any(word in text for word in ("Infinity", "NaN", "null"))  # the red marks
    assert (pixels.min(axis=-1) < pixels.max(axis=-1)).any() == bool(text)  # colour, if there is a curve


def test_one_stray_value_does_not_flatten_the_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [{"step": i, "split": "train", "loss": 1e4 if i == 150 else 1 + i % 2} for i in range(300)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    reconstructions.loss_curves(tmp_path / "curves.png", tmp_path / "metrics.jsonl")
    low, high = drawn[0].axes[0].get_ylim()
    assert low < 1
    assert 2 < high < 1e4 / 20  # the mean of 31 is seen whole, the stray value is not


def test_guessing_is_drawn_at_the_logarithm_of_the_batch(tmp_path: Path, drawn: list[Figure]) -> None:
    (tmp_path / "metrics.jsonl").write_text(_metrics(30))
    reconstructions.loss_curves(tmp_path / "curves.png", tmp_path / "metrics.jsonl", batch_size=48)
    dashed = [[line for line in axes.lines if line.get_linestyle() == "--"] for axes in drawn[0].axes]
    assert [len(lines) for lines in dashed] == [0, 0, 0, 1]
    assert np.asarray(dashed[3][0].get_ydata())[0] == pytest.approx(math.log(48))
    low, high = drawn[0].axes[3].get_ylim()
    assert low < 1 / 31 < math.log(48) < high


def test_a_line_cut_short_is_named_and_the_others_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(_metrics(3).encode() + b'[1]\n{"split": "train"}\n{"step": 40, "split": "tr\xff')
    with caplog.at_level(logging.WARNING):
        rows = reconstructions.read_metrics(path)
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert [f"line {number} " in record.getMessage() for number, record in zip((4, 5, 6), caplog.records, strict=True)] == [True] * 3


def test_a_series_keeps_what_is_written_and_skips_what_is_not() -> None:
    rows = [
        {"step": 1, "split": "train", "nce": 2.5},
        {"step": 2, "split": "eval", "nce": 9.0},
        {"step": 3, "split": "train"},
        {"step": 4, "split": "train", "nce": None},
        {"step": 5, "split": "train", "nce": 3},
    ]
    steps, values = reconstructions.series(rows, "train", "nce")
    np.testing.assert_array_equal(steps, [1, 4, 5])
    np.testing.assert_array_equal(values, [2.5, np.nan, 3.0])


def test_smoothing_is_centred_short_at_the_start_and_cut_at_the_end() -> None:
    values = np.array([100.0, 1, 2, 3, 4, 5])
    np.testing.assert_allclose(reconstructions.smooth(values, 2), [100, 103 / 3, 22, 3, 3.5, 4])
    np.testing.assert_array_equal(reconstructions.smooth(values, 0), values)
    line = np.arange(20.0)
    np.testing.assert_allclose(reconstructions.smooth(line, 3)[:17], line[:17])  # no lag
