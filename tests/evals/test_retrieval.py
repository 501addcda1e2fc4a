"""Ranks, nearest clips, drawn clips and chance, each against its definition; what is written of a set; searches from elsewhere."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avmae_jax.config import Config
from avmae_jax.data.clip import Clip
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.store.reader import Tolerant
from avmae_jax.errors import CorruptRecordError
from avmae_jax.evals import metrics
from avmae_jax.evals.ranking import class_chance, complete, draw_per_class, evaluate, nearest, same_class
from avmae_jax.evals.retrieval import Chosen, heard, picks, require_same_model, retrieve_into, search, search_of, section_of
from avmae_jax.inference.embed import Embed, note_of
from avmae_jax.inference.embedding_files import Embeddings, collect
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.weights.trained import Trained
from tests.support import ODD, Clips

SMALL = dataclasses.replace(ODD, depth=2, joint_depth=1)
KINDS = ("audio", "image")


class Labelled(Clips):
    """Clip n has the class n % 3, and number 4 another one as well."""

    label_names: Sequence[str] = ("harp", "oboe", "horn")

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__(index)._replace(labels=(1, 2) if index == 4 else (index % 3,))


@pytest.fixture(scope="module")
def trained() -> Iterator[Trained]:
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of what these tests do
    yield Trained("model", CAVMAE(SMALL, rngs=nnx.Rngs(0)), Config(model=SMALL), 0, ())
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def embed(trained: Trained) -> Embed:
    return Embed(trained, KINDS, 8)


@pytest.fixture(scope="module")
def index(trained: Trained, embed: Embed) -> Embeddings:
    return collect(embed(Labelled(8)), note_of(trained, Labelled(8), KINDS))


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
    asked, there = (rng.choice(np.array([-1, 1], np.float32), (count, 4)) for count in (queries, targets))
    found, scores = nearest(asked, there, k, block_scores=block_scores)
    expected = asked @ there.T / 4
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
        with pytest.raises(ValueError, match="give targets of the same width"):
            nearest(queries, targets, k)
    with pytest.raises(ValueError, match="targets: 1 of 1 rows have no direction"):
        nearest(one, 0 * one, 1)


def test_the_rank_of_a_partner_is_its_place_among_the_nearest() -> None:
    queries, targets = np.random.default_rng(1).standard_normal((2, 60, 5)).astype(np.float32)
    ranks, tied = metrics.partner_ranks(queries, targets)
    places = nearest(queries, targets, 60)[0]
    assert (places[np.arange(60), ranks - 1] == np.arange(60)).all()
    assert not tied.any()
    assert metrics.summarise_ranks(ranks, tied) == metrics.retrieval(queries, targets)


@settings(deadline=None, max_examples=40)
@given(labels=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=40), count=st.integers(1, 5), seed=st.integers(0, 99))
def test_so_many_clips_are_drawn_of_each_class_and_always_the_same(labels: list[list[int]], count: int, seed: int) -> None:
    members = [{row for row, own in enumerate(labels) if label in own} for label in range(5)]
    if not any(members):
        with pytest.raises(ValueError, match="the clips have no classes"):
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
    chance = class_chance(labels, 3)
    expected = []
    for own in labels[:-1]:
        hits = [any(set(own) & set(labels[row]) for row in rows) for rows in itertools.combinations(range(6), 5)]
        expected.append(np.mean(hits))
    first = [sum(bool(set(own) & set(other)) for other in labels) / 6 for own in labels[:-1]]
    assert chance == {"r1": pytest.approx(np.mean(first)), "r5": pytest.approx(np.mean(expected)), "r10": 1.0}


def test_a_hit_shares_a_class() -> None:
    found = np.array([[0, 2], [0, 1], [1, 3], [3, 0]])
    assert same_class([[0], [1], [0, 1], []], found).tolist() == [[True, True], [False, True], [True, False], [False, False]]


def test_both_ranks_and_classes_are_told() -> None:
    # Sounds 0 and 1 are exchanged, and of one class; sound 2 is right; sound 3 is nearest to picture 2, and has no class.
    sounds, pictures = np.eye(4, dtype=np.float32)[[1, 0, 2, 2]] + 0.01, np.eye(4, dtype=np.float32)
    everywhere = {kind: np.ones(4, bool) for kind in KINDS}
    labels: list[tuple[int, ...]] = [(0,), (0,), (1,), ()]
    embedded = Embeddings(list("abcd"), np.arange(4), labels, {"audio": sounds, "image": pictures}, everywhere, {})
    found = evaluate(embedded, "audio_to_image")
    assert found.figures["ranks"][:3] == [2, 2, 1]
    assert (found.figures["r1"], found.figures["r5"]) == (0.25, 1.0)
    assert found.figures["class"] == {"r1": 1.0, "r5": 1.0, "r10": 1.0}


@given(seed=st.integers(0, 99), clips=st.integers(1, 40))
def test_one_pass_finds_what_ranks_and_neighbours_find_apart(seed: int, clips: int) -> None:
    sounds, pictures = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), (2, clips, 4))  # ties are frequent
    everywhere = {kind: np.ones(clips, bool) for kind in KINDS}
    vectors = {"audio": sounds, "image": pictures}
    embedded = Embeddings([str(n) for n in range(clips)], np.arange(clips), [()] * clips, vectors, everywhere, {})
    found = evaluate(embedded, "image_to_audio")
    ranks, tied = metrics.partner_ranks(pictures, sounds)
    tops, scores = nearest(pictures, sounds, 10)
    np.testing.assert_array_equal(found.ranks, ranks)
    np.testing.assert_array_equal(found.tops, tops)
    np.testing.assert_array_equal(found.scores, scores)
    assert found.figures["ties"] == tied.sum()


@given(ranks=st.lists(st.integers(1, 9), min_size=1, max_size=30), seed=st.integers(0, 5))
def test_the_best_the_middle_and_the_worst_are_shown(ranks: list[int], seed: int) -> None:
    chosen = picks(np.array(ranks), seed)
    queries = [query for _, query in chosen]
    assert len(set(queries)) == len(queries) == min(6, len(ranks))
    assert ranks[queries[0]] == min(ranks)
    assert ranks[queries[-1]] == max(ranks)
    assert [ranks[query] for query in queries] == sorted(ranks[query] for query in queries)


def test_all_of_a_set_is_written_down(trained: Trained, index: Embeddings, tmp_path: Path) -> None:
    done = []
    result = retrieve_into(
        tmp_path / "a/b", trained, Labelled(8), batch_size=8, data="d", split="test", on_progress=lambda *n: done.append(n)
    )
    assert json.loads((tmp_path / "a/b/retrieval.json").read_text()) == result
    assert {path.name for path in (tmp_path / "a/b").iterdir()} == {"retrieval.json", "gallery.png"}
    assert result["ids"] == [f"clip{n}" for n in range(8)]
    assert (result["model"], result["data"], result["split"], result["clips"]) == ("model", "d", "test", 8)
    assert result["chance"]["r1"] == 1 / 8
    assert result["chance"]["median_rank"] == 4.5
    expected = metrics.retrieval(index.vectors["image"], index.vectors["audio"])._asdict()
    assert {name: result["image_to_audio"][name] for name in expected} == expected
    assert done == [(8, 0, 8)]
    with Image.open(tmp_path / "a/b/gallery.png") as picture:
        assert picture.width == 1400


def test_some_of_each_class_are_written_down(trained: Trained, tmp_path: Path) -> None:
    class More(Labelled):
        label_names: Sequence[str] = (*Labelled.label_names, "tuba")

    result = retrieve_into(tmp_path, trained, More(8), per_class=2, batch_size=8)
    assert len(set(result["ids"]) & {"clip0", "clip3", "clip6"}) == 2
    assert result["short_classes"] == {"tuba": 0}
    assert (result["per_class"], result["clips"]) == (2, len(result["audio_to_image"]["ranks"]))
    with pytest.raises(ValueError, match="leave --per_class out"):
        retrieve_into(tmp_path, trained, Clips(3), per_class=1)


class Known(Labelled):
    """Knows its ids and labels, as prepared sets do; clip 3 is damaged; counts what is read."""

    def __init__(self, count: int):
        super().__init__(count)
        self.reads: set[int] = set()
        self.ids = [f"clip{n}" for n in range(count)]

    def labels_of(self, index: int) -> tuple[int, ...]:
        return super().__getitem__(index).labels

    def __getitem__(self, index: int) -> Clip:
        self.reads.add(index)
        if index == 3:
            raise CorruptRecordError("the clip 'clip3' can't be read")
        return super().__getitem__(index)


def test_only_drawn_clips_are_read(trained: Trained, tmp_path: Path) -> None:
    source = Known(30)
    seed = next(n for n in range(99) if 3 not in draw_per_class([source.labels_of(row) for row in range(30)], 3, 2, n)[0])
    ids = retrieve_into(tmp_path, trained, source, per_class=2, seed=seed, batch_size=8)["ids"]
    assert {f"clip{n}" for n in source.reads} == set(ids)


def test_a_damaged_clip_that_was_drawn_is_missing_in_its_class(trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next clip, which stands in for it, is of another class and takes no part."""
    source = Tolerant(Known(8), 1)
    labels = [source.labels_of(row) for row in range(8)]
    draws = [draw_per_class(labels, 3, 2, seed)[0] for seed in range(99)]
    seed, drawn = next((seed, drawn) for seed, drawn in enumerate(draws) if 3 in drawn and 4 not in drawn)
    result = retrieve_into(tmp_path, trained, source, per_class=2, seed=seed, batch_size=8)
    assert result["ids"] == [f"clip{row}" for row in drawn if row != 3]
    assert result["short_classes"] == {"harp": 1}
    assert f"1 of {len(drawn)} drawn clips can't be read and take no part: clip3" in caplog.text


def test_ties_are_told_in_the_heading(trained: Trained) -> None:
    everywhere = {kind: np.ones(3, bool) for kind in KINDS}
    same = np.ones((3, 4), np.float32)
    embedded = Embeddings(["a", "b", "c"], np.arange(3), [(), (), ()], {"audio": same, "image": same}, everywhere, {})
    chance = {"r1": 0.3, "r5": 1.0, "r10": 1.0}
    tied = section_of("audio_to_image", evaluate(embedded, "audio_to_image"), embedded, Clips(3), trained, chance, 0)
    assert "median rank 1 of 3, 3 ties; green: its own" in tied.heading
    apart = dataclasses.replace(embedded, vectors={kind: np.eye(3, 4, dtype=np.float32) for kind in KINDS})
    assert "ties" not in section_of("audio_to_image", evaluate(apart, "audio_to_image"), apart, Clips(3), trained, chance, 0).heading


def test_a_set_without_classes_or_with_one_clip_has_ranks_all_the_same(trained: Trained, tmp_path: Path) -> None:
    result = retrieve_into(tmp_path, trained, Clips(1), batch_size=8)
    assert "class" not in result["chance"]
    assert result["audio_to_image"]["ranks"] == [1]


def test_clips_without_a_partner_take_no_part(index: Embeddings) -> None:
    deaf = dataclasses.replace(index, has={**index.has, "audio": np.arange(8) > 5})
    assert complete(deaf).ids == ["clip6", "clip7"]
    assert complete(deaf).positions.tolist() == [6, 7]
    np.testing.assert_array_equal(complete(deaf).vectors["image"], index.vectors["image"][6:])
    with pytest.raises(ValueError, match="no clip has both"):
        complete(dataclasses.replace(index, has={**index.has, "audio": np.zeros(8, bool)}))


def test_each_side_of_a_query_finds_the_other(trained: Trained, embed: Embed, index: Embeddings) -> None:
    clip = Labelled(8)[3]
    (by_sound, by_picture), both = search([clip, Labelled(8)[5]], embed, index, 8)
    assert (by_sound.queried, by_picture.queried) == ("audio", "image")
    for alone, together in zip(search([Labelled(8)[5]], embed, index, 8)[0], both, strict=True):
        np.testing.assert_array_equal(alone.rows, together.rows)
    scores = index.vectors["image"] @ index.vectors["audio"][3]
    np.testing.assert_allclose(by_sound.scores, np.sort(scores)[::-1], atol=1e-5)
    parts = [clip._replace(frames=()), clip._replace(waveform=clip.waveform[:0])]
    assert [[found.queried for found in hits] for hits in search(parts, embed, index, 2)] == [["audio"], ["image"]]
    assert search([], embed, index, 2) == []
    drawn = search_of(clip, by_sound, index, Labelled(8), trained)
    assert [card.lines[1] for card in drawn.cards] == [index.ids[row] for row in by_sound.rows[:5]]
    with pytest.raises(ValueError, match="isn't what the index was made of: its clip"):
        search_of(clip, by_sound, index, Chosen(Labelled(8), [7, 6, 5]), trained)


def test_clips_that_lack_the_other_side_are_not_found(embed: Embed, index: Embeddings) -> None:
    blind = dataclasses.replace(index, has={**index.has, "image": np.arange(8) % 2 == 1})
    ((by_sound, _),) = search([Labelled(8)[0]], embed, blind, 8)
    assert sorted(by_sound.rows) == [1, 3, 5, 7]
    of_sounds = dataclasses.replace(index, has={"audio": index.has["audio"]}, vectors={"audio": index.vectors["audio"]})
    assert [found.queried for found in search([Labelled(8)[0]], embed, of_sounds, 2)[0]] == ["image"]


def test_vectors_of_another_model_are_refused(trained: Trained, index: Embeddings) -> None:
    require_same_model(index, trained)
    with pytest.raises(ValueError, match="the index holds vectors of model, and other has other weights"):
        require_same_model(index, Trained("other", CAVMAE(SMALL, rngs=nnx.Rngs(1)), Config(model=SMALL), 0, ()))


def test_what_is_shown_of_a_sound_is_its_centre(trained: Trained) -> None:
    samples = num_samples(SMALL.audio_frames)
    long = Clips(1)[0]._replace(waveform=np.arange(samples + 100, dtype=np.int16))
    assert heard(long, trained).waveform.tolist() == list(range(50, samples + 50))
