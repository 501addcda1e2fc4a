"""Ranks, nearest clips, drawn clips and chance, each against its definition, with ties counted."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.evals.ranking import (
    FIGURES,
    chance,
    class_chance,
    draw_per_class,
    flat_figures,
    nearest,
    nested_figures,
    rank_both,
    rank_partners,
    same_class,
)


def _naive(queries: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Computes ranks by their definition, pair by pair, in float64."""
    ranks, ties = [], 0
    for i, query in enumerate(queries.astype(np.float64)):
        scores = [query @ target / (np.linalg.norm(query) * np.linalg.norm(target)) for target in targets.astype(np.float64)]
        ranks.append(1 + sum(score > scores[i] for score in scores))
        ties += any(score == scores[i] for j, score in enumerate(scores) if j != i)
    shares = [float(np.mean([rank <= k for rank in ranks])) for k in (1, 5, 10)]
    return {
        **dict(zip(("r1", "r5", "r10"), shares, strict=True)),
        "median_rank": float(np.median(ranks)),
        "ties": ties,
        "clips": len(ranks),
    }


def _signs(rng: np.random.Generator, clips: int) -> np.ndarray:
    """Corners of a cube in four dimensions: their length is exactly 2, so that products are exact and ties are frequent."""
    return rng.choice(np.array([-1, 1], np.float32), (clips, 4))


@settings(deadline=None, max_examples=25)
@given(clips=st.integers(1, 40), seed=st.integers(0, 999), block_scores=st.integers(1, 2000))
def test_ranks_and_ties_follow_the_definition_whatever_the_block(clips: int, seed: int, block_scores: int) -> None:
    rng = np.random.default_rng(seed)
    queries, targets = _signs(rng, clips), _signs(rng, clips)
    assert rank_partners(queries, targets, block_scores=block_scores).figures == _naive(queries, targets)


@pytest.mark.parametrize("seed", range(4))
def test_ranks_follow_the_definition_for_real_numbers(seed: int) -> None:
    queries, targets = np.random.default_rng(seed).standard_normal((2, 40, 7)).astype(np.float32)
    assert rank_partners(queries, targets, block_scores=3 * 40).figures == _naive(queries, targets)


@pytest.mark.parametrize("block_scores", [1, 203 * 7, 203 * 203])
def test_equal_targets_tie_whatever_the_rounding_of_the_product(block_scores: int) -> None:
    # In the single-query product, OpenBLAS rounds the last columns differently from the first ones.
    queries, targets = np.random.default_rng(0).standard_normal((2, 203, 768)).astype(np.float32)
    targets[:] = targets[0]
    found = rank_partners(queries, targets, block_scores=block_scores).figures
    assert found == {"r1": 1.0, "r5": 1.0, "r10": 1.0, "median_rank": 1.0, "ties": 203, "clips": 203}


def test_memory_is_bounded_by_the_block_not_by_all_pairs() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 4)).astype(np.float32)
    tracemalloc.start()
    rank_partners(rows, rows, block_scores=2**14)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # all similarities at once would be 16 MB


def test_equal_embeddings_are_all_found() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 32)).astype(np.float32)
    found = rank_partners(rows, 5 * rows).figures
    assert found == {"r1": 1.0, "r5": 1.0, "r10": 1.0, "median_rank": 1.0, "ties": 0, "clips": 300}


def test_opposite_embeddings_come_last() -> None:
    rows = np.eye(20, dtype=np.float32) + 0.1
    found = rank_partners(rows, -rows).figures
    assert found == {"r1": 0.0, "r5": 0.0, "r10": 0.0, "median_rank": 20.0, "ties": 0, "clips": 20}


def test_unrelated_embeddings_are_found_by_chance() -> None:
    queries, targets = np.random.default_rng(0).standard_normal((2, 1000, 16)).astype(np.float32)
    found = rank_partners(queries, targets).figures
    assert found["r1"] <= 0.005
    assert 0.002 <= found["r10"] <= 0.025
    assert 450 <= found["median_rank"] <= 550
    assert found["ties"] == 0


def test_direction_of_search_matters() -> None:
    # Both queries are nearest to target 0; each target is nearest to its own query.
    queries = np.array([[1, 0], [0.8, 0.6]], np.float32)
    targets = np.array([[1, 0.1], [-0.5, 1]], np.float32)
    assert rank_partners(queries, targets).figures["r1"] == 0.5
    assert rank_partners(targets, queries).figures["r1"] == 1.0


@pytest.mark.parametrize(
    ("queries", "targets", "message"),
    [
        (np.ones((3, 4)), np.ones((4, 4)), r"\(3, 4\).*\(4, 4\)"),
        (np.ones(4), np.ones(4), r"\(4,\)"),
        (np.ones((0, 4)), np.ones((0, 4)), r"\(0, 4\)"),
        (np.ones((3, 4)), np.diag([1.0, 1, 0, 1])[:3], "targets: 1 of 3 .* row 2 .*0"),
        (np.diag([1, np.nan]), np.eye(2), "queries: 1 of 2 .* row 1 .*nan"),
        (np.diag([np.inf, 1]), np.eye(2), "row 0 .*inf"),
    ],
)
def test_what_cannot_be_ranked_is_refused(queries: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_partners(queries.astype(np.float32), targets.astype(np.float32))


@settings(deadline=None, max_examples=40)
@given(
    queries=st.integers(0, 9),
    targets=st.integers(1, 300),
    k=st.integers(1, 12),
    seed=st.integers(0, 999),
    block_scores=st.integers(1, 3000),
)
def test_the_nearest_are_those_of_a_sorted_list_and_of_equal_ones_the_first(
    queries: int, targets: int, k: int, seed: int, block_scores: int
) -> None:
    # Corners of a cube: their length is exactly 2, so that products are exact and ties are frequent.
    rng = np.random.default_rng(seed)
    rows, columns = (rng.choice(np.array([-1, 1], np.float32), (count, 4)) for count in (queries, targets))
    found, scores = nearest(rows, columns, k, block_scores=block_scores)
    expected = rows @ columns.T / 4
    np.testing.assert_array_equal(found, np.argsort(-expected, axis=1, kind="stable")[:, :k])
    np.testing.assert_array_equal(scores, np.take_along_axis(expected, found, axis=1))


def test_the_nearest_of_many_real_numbers_are_those_of_a_sorted_list() -> None:
    queries, targets = np.random.default_rng(0).standard_normal((2, 3000, 12)).astype(np.float32)
    queries = queries[:50]
    found, scores = nearest(queries, targets, 10, block_scores=2**16)
    exact = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (targets / np.linalg.norm(targets, axis=1, keepdims=True)).T
    np.testing.assert_array_equal(found, np.argsort(-exact, axis=1)[:, :10])
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :10], rtol=1e-5)


def test_what_has_no_neighbours_is_refused() -> None:
    one = np.ones((1, 3), np.float32)
    for queries, targets, k in ((one, np.ones((2, 4), np.float32), 1), (one, one[:0], 1), (one, one, 0)):
        with pytest.raises(ValueError, match=r"k .*[01]"):
            nearest(queries, targets, k)
    with pytest.raises(ValueError, match="targets: 1 of 1"):
        nearest(one, 0 * one, 1)


def test_the_rank_of_a_partner_is_its_place_among_the_nearest() -> None:
    queries, targets = np.random.default_rng(1).standard_normal((2, 60, 5)).astype(np.float32)
    found = rank_partners(queries, targets)
    places = nearest(queries, targets, 60)[0]
    assert (places[np.arange(60), found.ranks - 1] == np.arange(60)).all()
    assert not found.tied.any()


@settings(deadline=None, max_examples=40)
@given(labels=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=40), count=st.integers(1, 5), seed=st.integers(0, 99))
def test_so_many_clips_are_drawn_of_each_class_and_always_the_same(labels: list[list[int]], count: int, seed: int) -> None:
    members = [{row for row, own in enumerate(labels) if label in own} for label in range(5)]
    if not any(members):
        with pytest.raises(ValueError, match="classes"):
            draw_per_class(labels, 5, count, seed)
        return
    drawn, short = draw_per_class(labels, 5, count, seed)
    assert drawn == sorted(set(drawn)) == draw_per_class(labels, 5, count, seed)[0]
    assert short == {label: len(rows) for label, rows in enumerate(members) if len(rows) < count}
    several = any(len(set(own)) > 1 for own in labels)
    for rows in members:
        found = len(rows & set(drawn))
        assert found >= min(count, len(rows)) if several else found == min(count, len(rows))


def test_another_seed_draws_other_clips() -> None:
    draws = {tuple(draw_per_class([[n % 2] for n in range(200)], 2, 5, seed)[0]) for seed in range(20)}
    assert len(draws) == 20


def test_chance_is_the_share_of_all_draws_that_have_the_class() -> None:
    labels = [[0], [0], [1], [2], [1, 2], []]
    found = class_chance(labels, 3)
    expected = []
    for own in labels[:-1]:
        hits = [any(set(own) & set(labels[row]) for row in rows) for rows in itertools.combinations(range(6), 5)]
        expected.append(np.mean(hits))
    first = [sum(bool(set(own) & set(other)) for other in labels) / 6 for own in labels[:-1]]
    assert found == {"r1": pytest.approx(np.mean(first)), "r5": pytest.approx(np.mean(expected)), "r10": 1.0}


def test_a_hit_shares_a_class() -> None:
    found = np.array([[0, 2], [0, 1], [1, 3], [3, 0]])
    assert same_class([[0], [1], [0, 1], []], found).tolist() == [[True, True], [False, True], [True, False], [False, False]]


def test_both_ranks_and_classes_are_reported() -> None:
    # Audio 0 and 1 are exchanged, and of one class; audio 2 is right; audio 3 is nearest to image 2, and has no class.
    audio, image = np.eye(4, dtype=np.float32)[[1, 0, 2, 2]] + 0.01, np.eye(4, dtype=np.float32)
    found = rank_partners(audio, image, [(0,), (0,), (1,), ()])
    assert found.ranks[:3].tolist() == [2, 2, 1]
    assert (found.figures["r1"], found.figures["r5"]) == (0.25, 1.0)
    assert found.figures["class"] == {"r1": 1.0, "r5": 1.0, "r10": 1.0}
    assert "class" not in rank_partners(audio, image, [()] * 4).figures


@given(seed=st.integers(0, 99), clips=st.integers(1, 40))
def test_ranking_and_searching_find_the_same_neighbours(seed: int, clips: int) -> None:
    queries, targets = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), (2, clips, 4))  # ties are frequent
    found = rank_partners(queries, targets)
    tops, scores = nearest(queries, targets, 10)
    np.testing.assert_array_equal(found.nearest, tops)
    np.testing.assert_array_equal(found.scores, scores)


def test_both_directions_have_one_form_in_every_file() -> None:
    audio, image = np.random.default_rng(0).standard_normal((2, 20, 3)).astype(np.float32)
    both = rank_both({"audio": audio, "image": image})
    assert both["image_to_audio"].figures == rank_partners(image, audio).figures
    flat = flat_figures(both)
    assert (flat["clips"], flat["audio_to_image_r5"]) == (20.0, both["audio_to_image"].figures["r5"])
    for name, figures in nested_figures(flat).items():
        assert figures == {figure: both[name].figures[figure] for figure in FIGURES}
    assert nested_figures({})["audio_to_image"]["r1"] is None  # a file of an older or a damaged run


def test_chance_of_a_partner_is_its_share_of_the_set() -> None:
    assert chance(8) == {"r1": 0.125, "r5": 0.625, "r10": 1.0, "median_rank": 4.5}
