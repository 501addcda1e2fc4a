"""Compares average precision, AUC and d' with their definitions, ties included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.evals.metrics import auc, average_precision, d_prime


def test_average_precision_is_the_mean_precision_at_each_hit() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    targets = np.array([[1, 0], [0, 0], [1, 0], [0, 1]])
    np.testing.assert_allclose(average_precision(scores, targets), [(1 + 2 / 3) / 2, 1.0])


def test_clips_of_equal_score_share_one_threshold() -> None:
    scores, targets = np.zeros((4, 1)), np.array([[1], [0], [0], [0]])
    assert average_precision(scores, targets) == [0.25]  # whatever their order
    assert average_precision(scores, targets[::-1]) == [0.25]


@settings(deadline=None, max_examples=30)
@given(clips=st.integers(1, 30), seed=st.integers(0, 99))
def test_only_the_order_of_scores_counts(clips: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, targets = rng.integers(0, 6, (clips, 3)).astype(np.float64), rng.random((clips, 3)) < 0.4
    found, order = average_precision(scores, targets), rng.permutation(clips)
    np.testing.assert_allclose(average_precision(np.exp(scores)[order], targets[order]), found, rtol=1e-12)
    has = targets.any(axis=0)
    assert np.isnan(found[~has]).all()
    assert ((found[has] > 0) & (found[has] <= 1 + 1e-12)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"1 .*finite"):
        average_precision(np.array([[bad], [0.0]]), np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"\(2, 1\).*\(2, 2\)"):
        average_precision(np.zeros((2, 1)), np.ones((2, 2)))


def pairs_won(scores: np.ndarray, has: np.ndarray) -> float:
    """Computes AUC by its definition, pair by pair."""
    won = [(yes > no) + (yes == no) / 2 for yes in scores[has] for no in scores[~has]]
    return float(np.mean(won)) if won else np.nan


@settings(deadline=None, max_examples=30)
@given(clips=st.integers(1, 30), seed=st.integers(0, 99))
def test_auc_is_the_share_of_pairs_in_the_right_order(clips: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, targets = rng.integers(0, 6, (clips, 3)).astype(np.float64), rng.random((clips, 3)) < 0.4
    found, order = auc(scores, targets), rng.permutation(clips)
    np.testing.assert_allclose(found, [pairs_won(scores[:, c], targets[:, c]) for c in range(3)], rtol=1e-12)
    np.testing.assert_allclose(auc(-scores, targets), 1 - found, rtol=1e-12)
    np.testing.assert_allclose(auc(scores, ~targets), 1 - found, rtol=1e-12)
    np.testing.assert_allclose(auc(np.exp(scores)[order], targets[order]), found, rtol=1e-12)


def test_auc_needs_clips_with_the_class_and_without() -> None:
    scores, targets = np.array([[0.9, 0.5, 0.1], [0.1, 0.6, 0.2]]), np.array([[1, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(auc(scores, targets), [1.0, np.nan, np.nan])


def test_d_prime_is_the_distance_of_two_normal_distributions() -> None:
    assert d_prime(0.5) == 0
    assert d_prime(0.76025) == pytest.approx(1.0, abs=1e-4)  # the normal distribution function at 1 / sqrt(2)
    assert d_prime(0.2) == pytest.approx(-d_prime(0.8))
    assert (d_prime(1.0), d_prime(0.0)) == (np.inf, -np.inf)
    rng = np.random.default_rng(0)
    has = rng.random((4000, 1)) < 0.5
    assert d_prime(auc(rng.standard_normal((4000, 1)) + 1.7 * has, has)[0]) == pytest.approx(1.7, abs=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_auc_refuses_scores_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match=r"1 .*finite"):
        auc(np.array([[bad], [0.0]]), np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"\(2, 1\).*\(2, 2\)"):
        auc(np.zeros((2, 1)), np.ones((2, 2)))
