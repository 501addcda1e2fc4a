"""Bootstrap intervals: the draws of a vectorised computation against those of a plain one."""

import numpy as np
import pytest

from avmae_jax.evals.intervals import intervals, shown
from avmae_jax.evals.metrics import average_precision
from avmae_jax.inference.forward import Scores


def made(clips: int = 40, classes: int = 5, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    targets = np.eye(classes, dtype=np.float32)[rng.integers(0, classes - 1, clips)]  # no clip has the last class
    return Scores([f"c{n}" for n in range(clips)], np.round(targets * 0.5 + rng.random((clips, classes)), 1), targets)


def test_ends_are_percentiles_of_the_figures_of_drawn_clips() -> None:
    scores = made()
    found = intervals(scores, draws=200)
    drawn = np.random.default_rng(0).integers(0, 40, (200, 40))
    given, has = scores.probabilities, scores.targets > 0
    maps = [np.nanmean(average_precision(given[rows], has[rows])) for rows in drawn]
    right = has[np.arange(40), given.argmax(axis=1)]
    assert found["map_interval"] == pytest.approx(np.percentile(maps, (2.5, 97.5)))
    assert found["accuracy_interval"] == pytest.approx(np.percentile(right[drawn].mean(axis=1), (2.5, 97.5)))


def test_they_are_seeded_and_narrow_with_more_clips() -> None:
    assert intervals(made()) == intervals(made())
    widths = [np.ptp(intervals(made(clips))["accuracy_interval"] or ()) for clips in (40, 1000)]
    assert widths[1] < widths[0] / 3


def test_several_classes_a_clip_have_no_accuracy() -> None:
    scores = made()
    scores.targets[0] = 1
    found = intervals(scores)
    assert found["accuracy_interval"] is None
    assert found["map_interval"] is not None


def test_one_clip_and_none_with_a_class() -> None:
    one = Scores(["a"], np.array([[0.7, 0.3]]), np.array([[1.0, 0.0]]))
    assert intervals(one) == {"map_interval": [1.0, 1.0], "accuracy_interval": [1.0, 1.0]}
    assert intervals(one._replace(targets=np.zeros((1, 2)))) == {"map_interval": None, "accuracy_interval": None}


def test_a_figure_is_shown_with_its_interval() -> None:
    row = {"accuracy": 0.7222, "accuracy_interval": [0.61, 0.82], "loss": 0.5, "auc": None, "map": 0.5, "map_interval": "damaged"}
    assert [shown(row, name) for name in ("accuracy", "loss", "auc", "map")] == ["0.722 (0.61 to 0.82)", "0.500", "-", "0.500"]
