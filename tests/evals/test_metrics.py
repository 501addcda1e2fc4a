"""Retrieval: the definition of a rank, kept by the blocked product, with ties counted. Average precision: its definition, ties included."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.evals.metrics import Retrieval, auc, average_precision, d_prime, embedding, retrieval


def _naive(queries: np.ndarray, targets: np.ndarray) -> Retrieval:
    """Straight from the definition, pair by pair, in float64."""
    ranks, ties = [], 0
    for i, query in enumerate(queries.astype(np.float64)):
        scores = [query @ target / (np.linalg.norm(query) * np.linalg.norm(target)) for target in targets.astype(np.float64)]
        ranks.append(1 + sum(score > scores[i] for score in scores))
        ties += any(score == scores[i] for j, score in enumerate(scores) if j != i)
    shares = [float(np.mean([rank <= k for rank in ranks])) for k in (1, 5, 10)]
    return Retrieval(*shares, median_rank=float(np.median(ranks)), ties=ties, clips=len(queries))


def _signs(rng: np.random.Generator, clips: int) -> np.ndarray:
    """Corners of a cube in four dimensions: their length is exactly 2, so that products are exact and ties are frequent."""
    return rng.choice(np.array([-1, 1], np.float32), (clips, 4))


@settings(deadline=None, max_examples=25)
@given(clips=st.integers(1, 40), seed=st.integers(0, 999), block_scores=st.integers(1, 2000))
def test_ranks_and_ties_follow_the_definition_whatever_the_block(clips: int, seed: int, block_scores: int) -> None:
    rng = np.random.default_rng(seed)
    queries, targets = _signs(rng, clips), _signs(rng, clips)
    assert retrieval(queries, targets, block_scores=block_scores) == _naive(queries, targets)


@pytest.mark.parametrize("seed", range(4))
def test_ranks_follow_the_definition_for_real_numbers(seed: int) -> None:
    queries, targets = np.random.default_rng(seed).standard_normal((2, 40, 7)).astype(np.float32)
    assert retrieval(queries, targets, block_scores=3 * 40) == _naive(queries, targets)


@pytest.mark.parametrize("block_scores", [1, 203 * 7, 203 * 203])
def test_equal_targets_tie_whatever_the_rounding_of_the_product(block_scores: int) -> None:
    # In the single-query product, OpenBLAS rounds the last columns differently from the first ones.
    queries, targets = np.random.default_rng(0).standard_normal((2, 203, 768)).astype(np.float32)
    targets[:] = targets[0]
    assert retrieval(queries, targets, block_scores=block_scores) == Retrieval(1.0, 1.0, 1.0, 1.0, ties=203, clips=203)


def test_memory_is_bounded_by_the_block_not_by_all_pairs() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 4)).astype(np.float32)
    tracemalloc.start()
    retrieval(rows, rows, block_scores=2**14)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # all similarities at once would be 16 MB


def test_equal_embeddings_are_all_found() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 32)).astype(np.float32)
    assert retrieval(rows, 5 * rows) == Retrieval(1.0, 1.0, 1.0, 1.0, ties=0, clips=300)


def test_opposite_embeddings_come_last() -> None:
    rows = np.eye(20, dtype=np.float32) + 0.1
    assert retrieval(rows, -rows) == Retrieval(0.0, 0.0, 0.0, 20.0, ties=0, clips=20)


def test_unrelated_embeddings_are_found_by_chance() -> None:
    queries, targets = np.random.default_rng(0).standard_normal((2, 1000, 16)).astype(np.float32)
    found = retrieval(queries, targets)
    assert found.r1 <= 0.005
    assert 0.002 <= found.r10 <= 0.025
    assert 450 <= found.median_rank <= 550
    assert found.ties == 0


def test_direction_of_search_matters() -> None:
    # Both queries are nearest to target 0; each target is nearest to its own query.
    queries = np.array([[1, 0], [0.8, 0.6]], np.float32)
    targets = np.array([[1, 0.1], [-0.5, 1]], np.float32)
    assert retrieval(queries, targets).r1 == 0.5
    assert retrieval(targets, queries).r1 == 1.0


@pytest.mark.parametrize(
    ("queries", "targets", "message"),
    [
        (np.ones((3, 4)), np.ones((4, 4)), r"\(3, 4\) and targets \(4, 4\)"),
        (np.ones(4), np.ones(4), "same shape"),
        (np.ones((0, 4)), np.ones((0, 4)), "none of them empty"),
        (np.ones((3, 4)), np.diag([1.0, 1, 0, 1])[:3], "targets: 1 of 3 rows .* row 2 has length 0"),
        (np.diag([1, np.nan]), np.eye(2), "queries: 1 of 2 rows .* row 1 has length nan"),
        (np.diag([np.inf, 1]), np.eye(2), "row 0 has length inf"),
    ],
)
def test_what_cannot_be_ranked_is_refused(queries: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval(queries.astype(np.float32), targets.astype(np.float32))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_embedding_is_the_mean_token_at_length_one(dtype: jnp.dtype) -> None:
    tokens = jnp.asarray(np.random.default_rng(0).standard_normal((3, 700, 8)) + 1, dtype)
    mean = np.asarray(tokens, np.float64).mean(axis=1)
    pooled = embedding(tokens)
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)


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
    with pytest.raises(ValueError, match="1 of the scores are not finite"):
        average_precision(np.array([[bad], [0.0]]), np.ones((2, 1)))
    with pytest.raises(ValueError, match="same shape"):
        average_precision(np.zeros((2, 1)), np.ones((2, 2)))


def pairs_won(scores: np.ndarray, has: np.ndarray) -> float:
    """The definition of AUC, pair by pair."""
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
    with pytest.raises(ValueError, match="1 of the scores are not finite"):
        auc(np.array([[bad], [0.0]]), np.ones((2, 1)))
    with pytest.raises(ValueError, match="same shape"):
        auc(np.zeros((2, 1)), np.ones((2, 2)))
