"""Similarities of clips by their pairs, and ranks, each against its definition; recorded values; ties; memory."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.evals.pair_ranking import WAYS, Way, pair_similarities, rank_clips, rank_pairs
from avmae_jax.evals.ranking import rank_both


def by_definition(queries: np.ndarray, targets: np.ndarray, way: Way) -> np.ndarray:
    """Computes float64[Q, N] pair by pair."""
    scores = np.empty((len(queries), len(targets)))
    for (i, query), (j, target) in itertools.product(enumerate(queries.astype(np.float64)), enumerate(targets.astype(np.float64))):
        block = query @ target.T / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(target, axis=1)
        values = np.diagonal(block) if way.startswith("diagonal") else block
        scores[i, j] = values.max() if way.endswith("max") else values.mean()
    return scores


def matrix(queries: np.ndarray, targets: np.ndarray, way: Way, **options: int) -> np.ndarray:
    return np.concatenate([scores for _, scores in pair_similarities(queries, targets, way, **options)])


def signs(rng: np.random.Generator, clips: int, pairs: int = 4) -> np.ndarray:
    """Corners of a cube in four dimensions: products are exact, and ties frequent."""
    return rng.choice(np.array([-1, 1], np.float32), (clips, pairs, 4))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("block_scores", [1, 40, 10**6])
def test_similarities_follow_their_definition_whatever_the_block(way: Way, block_scores: int) -> None:
    queries, targets = (np.random.default_rng(seed).standard_normal((count, 3, 5)) for seed, count in ((0, 9), (1, 13)))
    np.testing.assert_allclose(matrix(queries, targets, way, block_scores=block_scores), by_definition(queries, targets, way), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(clips=st.integers(1, 25), seed=st.integers(0, 999), way=st.sampled_from(WAYS), block_scores=st.integers(1, 800))
def test_ranks_and_ties_follow_the_definition(clips: int, seed: int, way: Way, block_scores: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = {"audio": signs(rng, clips), "image": signs(rng, clips)}
    found = rank_pairs(vectors, way=way, block_scores=block_scores)
    audio_to_image = by_definition(vectors["audio"], vectors["image"], way)
    for scores, direction in ((audio_to_image, "audio_to_image"), (audio_to_image.T, "image_to_audio")):
        own = np.diagonal(scores)[:, None]
        assert found[direction].ranks.tolist() == (1 + (scores > own).sum(axis=1)).tolist()
        assert found[direction].tied.tolist() == ((scores == own).sum(axis=1) > 1).tolist()


@pytest.mark.parametrize("way", WAYS)
def test_equal_clips_have_equal_similarities(way: Way) -> None:
    rng = np.random.default_rng(3)
    audio, image = rng.standard_normal((2, 203, 16, 7)).astype(np.float32)
    image[1::2] = image[:-1:2]
    found = rank_pairs({"audio": audio, "image": image}, way=way, block_scores=203 * 7)
    assert found["audio_to_image"].tied[:202].all()
    assert not found["image_to_audio"].tied.any()


def test_one_pair_a_clip_ranks_as_one_vector_a_clip() -> None:
    audio, image = np.random.default_rng(1).standard_normal((2, 30, 6)).astype(np.float32)
    plain = rank_both({"audio": audio, "image": image}, [(0,), (1,)] * 15)
    assert {name: ranked.figures for name, ranked in rank_clips({"audio": audio, "image": image}, [(0,), (1,)] * 15).items()} == {
        name: ranked.figures for name, ranked in plain.items()
    }
    for way in WAYS:
        paired = rank_clips({"audio": audio[:, None], "image": image[:, None]}, [(0,), (1,)] * 15, way)
        for name, ranked in paired.items():
            assert ranked.figures == plain[name].figures
            np.testing.assert_array_equal(ranked.nearest, plain[name].nearest)


def test_vectors_that_cannot_be_ranked_are_named() -> None:
    rows = np.ones((4, 3, 2), np.float32)
    broken = rows.copy()
    broken[2, 1] = 0
    with pytest.raises(ValueError, match=r"image: 1 of 12 vectors.*pair 1 of row 2"):
        rank_pairs({"audio": rows, "image": broken})
    with pytest.raises(ValueError, match=r"\(4, 3, 2\).*\(4, 2, 2\)"):
        rank_pairs({"audio": rows, "image": rows[:, :2]})
    with pytest.raises(ValueError, match=r"median.*diagonal_mean, diagonal_max, mean, max"):
        rank_pairs({"audio": rows, "image": rows}, way="median")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("way", ["diagonal_mean", "max"])
def test_the_whole_matrix_is_never_in_memory(way: Way) -> None:
    audio, image = np.random.default_rng(0).standard_normal((2, 3000, 2, 4)).astype(np.float32)
    vectors = {"audio": audio, "image": image}
    tracemalloc.start()
    rank_pairs(vectors, way=way, block_scores=2**14)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3000 * 3000  # a quarter of a matrix in float32
