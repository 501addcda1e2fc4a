"""Figures of a classifier's scores, computed by hand on a few clips and against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.evals import metrics
from avmae_jax.evals.scores import clip_losses, evaluate_scores, worst_mistakes
from avmae_jax.inference.forward import Scores

NAMES = ("harp", "oboe", "horn")
ONE_EACH = Scores(
    ["a", "b", "c", "d"],
    np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1]], np.float32),
    np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]], np.float32),
)


def test_figures_are_those_computed_by_hand() -> None:
    found = evaluate_scores(ONE_EACH, NAMES, "ce")
    harp, oboe, horn = found.per_class
    # by its score of "harp": d (not), a, b, c (not); by "oboe": c, b (not), a (not), d
    assert harp.average_precision == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert oboe.average_precision == pytest.approx((1 + 2 / 4) / 2)
    assert (harp.auc, oboe.auc) == (0.5, 0.5)
    assert (harp.recall, harp.precision) == (1.0, pytest.approx(2 / 3))
    assert (oboe.recall, oboe.precision) == (0.5, 1.0)
    assert (harp.positives, horn.positives) == (2, 0)
    assert all(math.isnan(value) for value in (horn.average_precision, horn.auc, horn.d_prime, horn.recall, horn.precision))
    assert found.map == pytest.approx((harp.average_precision + oboe.average_precision) / 2)
    assert (found.auc, found.d_prime, found.accuracy, found.top_5_accuracy) == (0.5, 0.0, 0.75, None)
    assert (found.clips, found.no_positive) == (4, ("horn",))
    assert found.loss == pytest.approx(-np.log([0.7, 0.5, 0.7, 0.1]).mean())
    assert found.confusion is not None
    assert found.confusion.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]


@settings(deadline=None, max_examples=20)
@given(clips=st.integers(2, 40), seed=st.integers(0, 99))
def test_recall_precision_and_accuracy_are_sums_of_the_confusion_matrix(clips: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = Scores([str(n) for n in range(clips)], rng.random((clips, 7)), np.eye(7)[rng.integers(0, 7, clips)])
    found = evaluate_scores(scores, [f"c{n}" for n in range(7)], "bce")
    matrix, rows = found.confusion, found.per_class
    assert matrix is not None
    assert found.accuracy == pytest.approx(np.trace(matrix) / clips)
    assert found.accuracy is not None
    assert found.top_5_accuracy is not None
    assert found.accuracy <= found.top_5_accuracy <= 1
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose([row.recall for row in rows], np.diag(matrix) / matrix.sum(axis=1))
        np.testing.assert_allclose([row.precision for row in rows], np.diag(matrix) / matrix.sum(axis=0))
    assert [row.positives for row in rows] == matrix.sum(axis=1).tolist()
    assert found.map == pytest.approx(np.nanmean(metrics.average_precision(scores.probabilities, scores.targets)))


def test_top_5_is_among_the_five_likeliest() -> None:
    given = np.tile(np.linspace(1, 0, 6), (6, 1))
    found = evaluate_scores(Scores(list("abcdef"), given, np.eye(6)), list("ABCDEF"), "bce")
    assert (found.accuracy, found.top_5_accuracy) == (pytest.approx(1 / 6), pytest.approx(5 / 6))


def test_clips_of_several_classes_have_no_accuracy() -> None:
    several = ONE_EACH._replace(targets=np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], np.float32))
    found = evaluate_scores(several, NAMES, "bce")
    assert (found.accuracy, found.top_5_accuracy, found.confusion) == (None, None, None)
    assert (found.per_class[0].recall, found.per_class[0].precision) == (1.0, pytest.approx(2 / 3))


def test_a_class_that_every_clip_has_has_no_auc() -> None:
    found = evaluate_scores(Scores(["a", "b"], np.array([[0.5, 0.5], [0.6, 0.4]]), np.array([[1, 0], [1, 0]])), ["A", "B"], "bce")
    assert (found.map, found.no_positive, found.no_negative) == (1.0, ("B",), ("A",))
    assert math.isnan(found.auc)
    assert math.isnan(found.d_prime)


def test_clips_without_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="4 clips"):
        evaluate_scores(ONE_EACH._replace(targets=np.zeros((4, 3), np.float32)), NAMES, "ce")


def test_losses_are_their_formulas() -> None:
    np.testing.assert_allclose(clip_losses(ONE_EACH, "ce"), -np.log([0.7, 0.5, 0.7, 0.1]), rtol=1e-6)
    assert clip_losses(ONE_EACH, "bce")[0] == pytest.approx(-np.log([0.7, 0.8, 0.9]).mean())


def test_mistakes_are_sorted_by_their_loss() -> None:
    swapped = ONE_EACH._replace(targets=ONE_EACH.targets[::-1])  # a: 0.2, b: 0.4, c: 0.2 and d: 0.8, which is right
    assert worst_mistakes(swapped, "ce") == [0, 2, 1]
    assert worst_mistakes(ONE_EACH, "ce") == [3]
