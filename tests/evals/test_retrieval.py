"""Tests retrieval within a set, as it is written and drawn, and searches with queries from elsewhere."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from avmae_jax.config import AppliedConfig
from avmae_jax.data.clip import Clip
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.store.tolerant import Tolerant
from avmae_jax.errors import CorruptRecordError
from avmae_jax.evals.gallery_rows import central_audio, sample_queries, search_of, section_of
from avmae_jax.evals.origin import Origin
from avmae_jax.evals.ranking import draw_per_class, rank_partners
from avmae_jax.evals.retrieval import Selection, Subset, complete, retrieve_into
from avmae_jax.evals.search import require_same_model, search
from avmae_jax.inference.embed import DatasetEmbedder, note_of
from avmae_jax.inference.embedding_files import Embeddings, collect
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.plots.canvas import DENSITY, WIDTH
from avmae_jax.weights.trained import Trained
from tests.support import ODD, Clips

SMALL = dataclasses.replace(ODD, depth=2, joint_depth=1)
KINDS = ("audio", "image")


class Labelled(Clips):
    """Gives clip n the class n % 3, and number 4 another one as well."""

    label_names: Sequence[str] = ("harp", "oboe", "horn")

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__(index)._replace(labels=(1, 2) if index == 4 else (index % 3,))


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained("model", CAVMAE(SMALL, rngs=nnx.Rngs(0)), AppliedConfig(model=SMALL), 0, ())


@pytest.fixture(scope="module")
def embed(trained: Trained) -> DatasetEmbedder:
    return DatasetEmbedder(trained, KINDS, 8)


@pytest.fixture(scope="module")
def index(trained: Trained, embed: DatasetEmbedder) -> Embeddings:
    return collect(embed(Labelled(8)), note_of(trained, Labelled(8), KINDS))


@given(ranks=st.lists(st.integers(1, 9), min_size=1, max_size=30), seed=st.integers(0, 5))
def test_the_best_the_middle_and_the_worst_are_shown(ranks: list[int], seed: int) -> None:
    chosen = sample_queries(np.array(ranks), seed)
    queries = [query for _, query in chosen]
    assert len(set(queries)) == len(queries) == min(6, len(ranks))
    assert ranks[queries[0]] == min(ranks)
    assert ranks[queries[-1]] == max(ranks)
    assert [ranks[query] for query in queries] == sorted(ranks[query] for query in queries)


@pytest.mark.slow
def test_a_whole_set_is_evaluated_and_written(embed: DatasetEmbedder, index: Embeddings, tmp_path: Path) -> None:
    done = []
    result = retrieve_into(tmp_path / "a/b", embed, Labelled(8), origin=Origin("d", "test"), on_progress=lambda *n: done.append(n))
    assert json.loads((tmp_path / "a/b/retrieval.json").read_text()) == result
    assert {path.name for path in (tmp_path / "a/b").iterdir()} == {"retrieval.json", "gallery.png"}
    assert result["ids"] == [f"clip{n}" for n in range(8)]
    assert (result["model"], result["data"], result["split"], result["clips"]) == ("model", "d", "test", 8)
    assert "harp (3)" in result["warning"]
    assert result["chance"]["r1"] == 1 / 8
    assert result["chance"]["median_rank"] == 4.5
    expected = rank_partners(index.vectors["image"], index.vectors["audio"]).figures
    assert {name: result["image_to_audio"][name] for name in expected} == expected
    assert done[-1] == (8, 0, 8)
    with Image.open(tmp_path / "a/b/gallery.png") as plot:
        assert plot.width == WIDTH * DENSITY


def test_some_clips_of_each_class_are_evaluated(embed: DatasetEmbedder, tmp_path: Path) -> None:
    class More(Labelled):
        label_names: Sequence[str] = (*Labelled.label_names, "tuba")

    result = retrieve_into(tmp_path, embed, More(8), Selection(per_class=2))
    assert len(set(result["ids"]) & {"clip0", "clip3", "clip6"}) == 2
    assert result["short_classes"] == {"tuba": 0}
    assert (result["per_class"], result["clips"]) == (2, len(result["audio_to_image"]["ranks"]))
    with pytest.raises(ValueError, match="--per_class"):
        retrieve_into(tmp_path, embed, Clips(3), Selection(per_class=1))


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


def test_only_drawn_clips_are_read(embed: DatasetEmbedder, tmp_path: Path) -> None:
    source = Known(30)
    seed = next(n for n in range(99) if 3 not in draw_per_class([source.labels_of(row) for row in range(30)], 3, 2, n)[0])
    ids = retrieve_into(tmp_path, embed, source, Selection(2, seed))["ids"]
    assert {f"clip{n}" for n in source.reads} == set(ids)


def test_a_damaged_clip_that_was_drawn_is_missing_in_its_class(
    embed: DatasetEmbedder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next clip, which the source returns in its place, is of another class and is left out."""
    source = Tolerant(Known(8), 1)
    labels = [source.labels_of(row) for row in range(8)]
    draws = [draw_per_class(labels, 3, 2, seed)[0] for seed in range(99)]
    seed, drawn = next((seed, drawn) for seed, drawn in enumerate(draws) if 3 in drawn and 4 not in drawn)
    result = retrieve_into(tmp_path, embed, source, Selection(2, seed))
    assert result["ids"] == [f"clip{row}" for row in drawn if row != 3]
    assert result["short_classes"] == {"harp": 1}
    assert re.search(rf"1 of {len(drawn)} .*clip3", caplog.text)


def test_the_heading_counts_ties() -> None:
    everywhere = {kind: np.ones(3, bool) for kind in KINDS}
    same = np.ones((3, 4), np.float32)
    embedded = Embeddings(["a", "b", "c"], np.arange(3), [(), (), ()], {"audio": same, "image": same}, everywhere, {})
    tied = section_of("audio_to_image", rank_partners(same, same), embedded, Clips(3), SMALL, 0)
    assert all(number in tied.note for number in ("100.0%", "33.3%", "3 ties"))
    distinct = np.eye(3, 4, dtype=np.float32)
    apart = dataclasses.replace(embedded, vectors=dict.fromkeys(KINDS, distinct))
    assert "ties" not in section_of("audio_to_image", rank_partners(distinct, distinct), apart, Clips(3), SMALL, 0).note


def test_a_set_without_classes_or_with_one_clip_has_ranks_all_the_same(embed: DatasetEmbedder, tmp_path: Path) -> None:
    result = retrieve_into(tmp_path, embed, Clips(1))
    assert "class" not in result["chance"]
    assert result["audio_to_image"]["ranks"] == [1]


def test_clips_without_a_partner_are_left_out(index: Embeddings) -> None:
    deaf = dataclasses.replace(index, has={**index.has, "audio": np.arange(8) > 5})
    assert complete(deaf).ids == ["clip6", "clip7"]
    assert complete(deaf).positions.tolist() == [6, 7]
    np.testing.assert_array_equal(complete(deaf).vectors["image"], index.vectors["image"][6:])
    with pytest.raises(ValueError, match=r"audio.*image"):
        complete(dataclasses.replace(index, has={**index.has, "audio": np.zeros(8, bool)}))


def test_each_side_of_a_query_finds_the_other(embed: DatasetEmbedder, index: Embeddings) -> None:
    clip = Labelled(8)[3]
    (by_audio, by_image), both = search([clip, Labelled(8)[5]], embed, index, 8)
    assert (by_audio.queried, by_image.queried) == ("audio", "image")
    for alone, together in zip(search([Labelled(8)[5]], embed, index, 8)[0], both, strict=True):
        np.testing.assert_array_equal(alone.rows, together.rows)
    scores = index.vectors["image"] @ index.vectors["audio"][3]
    np.testing.assert_allclose(by_audio.scores, np.sort(scores)[::-1], atol=1e-5)
    parts = [clip._replace(frames=()), clip._replace(waveform=clip.waveform[:0])]
    assert [[found.queried for found in hits] for hits in search(parts, embed, index, 2)] == [["audio"], ["image"]]
    assert search([], embed, index, 2) == []
    drawn = search_of(clip, by_audio, index, Labelled(8), SMALL)
    assert [card.lines[-1] for card in drawn.cards] == [index.ids[row] for row in by_audio.rows[:5]]
    with pytest.raises(ValueError, match=r"clip [0-7]"):
        search_of(clip, by_audio, index, Subset(Labelled(8), [7, 6, 5]), SMALL)


def test_clips_that_lack_the_other_side_are_not_found(embed: DatasetEmbedder, index: Embeddings) -> None:
    blind = dataclasses.replace(index, has={**index.has, "image": np.arange(8) % 2 == 1})
    ((by_audio, _),) = search([Labelled(8)[0]], embed, blind, 8)
    assert sorted(by_audio.rows) == [1, 3, 5, 7]
    of_audio = dataclasses.replace(index, has={"audio": index.has["audio"]}, vectors={"audio": index.vectors["audio"]})
    assert [found.queried for found in search([Labelled(8)[0]], embed, of_audio, 2)[0]] == ["image"]


def test_vectors_of_another_model_are_refused(trained: Trained, index: Embeddings) -> None:
    require_same_model(index, trained)
    with pytest.raises(ValueError, match=r"model.*other.*launch.embed"):
        require_same_model(index, Trained("other", CAVMAE(SMALL, rngs=nnx.Rngs(1)), AppliedConfig(model=SMALL), 0, ()))


def test_the_gallery_shows_the_centre_of_long_audio() -> None:
    samples = num_samples(SMALL.audio_frames)
    long = Clips(1)[0]._replace(waveform=np.arange(samples + 100, dtype=np.int16))
    assert central_audio(long, SMALL).waveform.tolist() == list(range(50, samples + 50))
