"""Curves: no metrics file is too broken to draw, and a stray value doesn't hide the others."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from avmae_jax.plots import curves
from avmae_jax.plots.canvas import WIDTH
from avmae_jax.plots.palette import LIGHT
from tests.plots.pixels import drawn_figures, pixels, share, words


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
    curves.loss_curves(tmp_path / "pictures" / "curves.png", tmp_path / "metrics.jsonl")
    colours = pixels(tmp_path / "pictures" / "curves.png")
    assert colours.shape == (720, WIDTH, 3)
    assert (share(colours, to_rgb(LIGHT.wrong)) > 0) == any(word in text for word in ("Infinity", "NaN", "null"))  # the marks
    assert (np.ptp(colours.astype(int), axis=-1) > 100).any() == bool(text)  # colour, if there is a curve


def test_one_stray_value_does_not_flatten_the_curve(tmp_path: Path) -> None:
    rows = [{"step": i, "split": "train", "loss": 1e4 if i == 150 else 1 + i % 2} for i in range(300)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with drawn_figures() as drawn:
        curves.loss_curves(tmp_path / "curves.png", tmp_path / "metrics.jsonl")
    low, high = drawn[0].axes[0].get_ylim()
    assert low < 1
    assert 2 < high < 1e4 / 20  # the mean of 31 is seen whole, the stray value is not


def test_guessing_is_drawn_at_the_logarithm_of_the_batch(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(_metrics(30))
    with drawn_figures() as drawn:
        curves.loss_curves(tmp_path / "curves.png", tmp_path / "metrics.jsonl", batch_size=48)
    dotted = [[line for line in axes.lines if line.get_linestyle() == ":"] for axes in drawn[0].axes]
    assert [len(lines) for lines in dotted] == [0, 0, 0, 1]
    assert np.asarray(dotted[3][0].get_ydata())[0] == pytest.approx(math.log(48))
    low, high = drawn[0].axes[3].get_ylim()
    assert low < 1 / 31 < math.log(48) < high


def test_a_line_cut_short_is_named_and_the_others_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(_metrics(3).encode() + b'[1]\n{"split": "train"}\n{"step": 40, "split": "tr\xff')
    with caplog.at_level(logging.WARNING):
        rows = curves.read_metrics(path)
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
    steps, values = curves.series(rows, "train", "nce")
    np.testing.assert_array_equal(steps, [1, 4, 5])
    np.testing.assert_array_equal(values, [2.5, np.nan, 3.0])


def test_smoothing_is_centred_short_at_the_start_and_cut_at_the_end() -> None:
    values = np.array([100.0, 1, 2, 3, 4, 5])
    np.testing.assert_allclose(curves.smooth(values, 2), [100, 103 / 3, 22, 3, 3.5, 4])
    np.testing.assert_array_equal(curves.smooth(values, 0), values)
    line = np.arange(20.0)
    np.testing.assert_allclose(curves.smooth(line, 3)[:17], line[:17])  # no lag


def test_the_best_held_out_value_is_found_by_its_direction_and_marked(tmp_path: Path) -> None:
    rows = [
        {"step": step, "split": "eval", "loss": value, "accuracy": value, "odd": value} for step, value in ((1, 0.5), (2, 0.25), (3, 0.75))
    ]
    rows += [{"step": 4, "split": "eval", "loss": math.nan, "accuracy": math.inf}, {"step": 5, "split": "train", "loss": 0.0}]
    assert curves.best_of(rows, "loss") == (2, 0.25)
    assert curves.best_of(rows, "accuracy") == (3, 0.75)
    assert curves.best_of(rows, "odd") is None
    assert curves.best_of(rows[3:], "loss") is None
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with drawn_figures() as drawn:
        curves.loss_curves(tmp_path / "curves.png", tmp_path / "metrics.jsonl")
    (star,) = (line for line in drawn[0].axes[0].lines if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (2, 0.25)  # pyright: ignore[reportIndexIssue]
    assert "best: 0.250 at step 2" in words(drawn[0])


def test_training_and_held_out_differ_in_more_than_colour(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(_metrics(60))
    with drawn_figures() as drawn:
        curves.loss_curves(tmp_path / "curves.png", tmp_path / "metrics.jsonl")
    styles = {str(line.get_label()).split(",")[0]: (line.get_linestyle(), line.get_marker()) for line in drawn[0].axes[0].lines}
    assert styles["training"] == ("-", "None")
    assert styles["held out"] == ("--", "o")


def test_a_long_curve_keeps_its_extremes() -> None:
    values = np.random.default_rng(0).standard_normal(100_000)
    places = curves.extremes(values)
    assert len(places) <= 800
    assert (np.diff(places) > 0).all()
    assert (values[places].min(), values[places].max()) == (values.min(), values.max())
    np.testing.assert_array_equal(curves.extremes(values[:800]), np.arange(800))
