"""Vectors of each frame of a clip: what they are, for both kinds of model, and files that hold them."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import AppliedConfig, DataConfig, ReadConfig
from avmae_jax.data.batches import EvalOptions, eval_batches
from avmae_jax.data.clip import Clip
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import WeightsError
from avmae_jax.evals.origin import Origin
from avmae_jax.evals.pair_ranking import WAYS, rank_clips
from avmae_jax.evals.ranking import rank_both
from avmae_jax.evals.retrieval import Selection, retrieve_into
from avmae_jax.evals.search import open_index, read_index, search
from avmae_jax.inference.embed import KINDS, DatasetEmbedder, note_of
from avmae_jax.inference.embedding_files import Embeddings, collect, read_embeddings, write_embeddings
from avmae_jax.models import registry
from avmae_jax.weights.trained import Trained
from tests.support import ODD, Clips

SMALL = dataclasses.replace(ODD, depth=2, joint_depth=1)
PAIRS = dataclasses.replace(SMALL, kind="sync", class_token=True, registers=2, clip_frames=64, window_rate=100.0)
BOTH = ("audio", "image")
SUFFIXES = [".npz", ".array_record"]


class Coloured(Clips):
    """Gives frames that differ by more than a shade, and lets clip 1 be deaf, where `whole` is False."""

    label_names: Sequence[str] = ("harp", "oboe")

    def __init__(self, count: int, *, whole: bool = True, frames: int = 4):
        super().__init__(count, seconds=0.65)
        self._whole, self.frames = whole, frames

    def __getitem__(self, index: int) -> Clip:
        clip = super().__getitem__(index)._replace(labels=(index % 2,))
        clip = clip._replace(frames=clip.frames[: self.frames], frame_times=tuple(0.16 * n for n in range(self.frames)))
        return clip if self._whole or index != 1 else clip._replace(waveform=clip.waveform[:0])


def of_kind(kind: str, frames: int = 0) -> Trained:
    model = PAIRS if kind == "sync" else SMALL
    return Trained("model", registry.build(model, rngs=nnx.Rngs(0)), AppliedConfig(model=model, data=ReadConfig(frames=frames)), 0, ())


@pytest.fixture(scope="module")
def sync() -> Trained:
    return of_kind("sync")


def collected(embed: DatasetEmbedder, source: Clips) -> Embeddings:
    return collect(embed(source), note_of(embed.trained, source, embed.what, frames=embed.pairs_of(source)))


@pytest.fixture(scope="module")
def pairs(sync: Trained) -> Embeddings:
    return collected(DatasetEmbedder(sync, BOTH, 8), Coloured(5, whole=False))


def test_a_model_of_pairs_gives_a_vector_of_each_frame(sync: Trained, pairs: Embeddings) -> None:
    assert pairs.ids == ["clip0", "clip2", "clip3", "clip4", "clip1"]
    assert pairs.vectors["audio"].shape == pairs.vectors["image"].shape == (5, 4, 16)
    assert (pairs.has["audio"].tolist(), pairs.note["frames"]) == ([True] * 4 + [False], 4)
    assert not pairs.vectors["audio"][4].any()
    batch = next(eval_batches(Coloured(5), PAIRS, DataConfig(), 5, EvalOptions(pairs=True)))
    arrays = {name: jnp.asarray(value) for name, value in batch.items() if name != "id"}
    module = sync.module
    expected = nnx.jit(lambda module, batch: module.embed(model_inputs(batch, sync.config)))(module, arrays)
    order = [0, 2, 3, 4, 1]
    np.testing.assert_allclose(pairs.vectors["image"], np.asarray(expected["image"])[order], atol=1e-5)
    np.testing.assert_allclose(pairs.vectors["audio"][:4], np.asarray(expected["audio"])[order[:4]], atol=1e-5)
    assert np.abs(pairs.vectors["audio"][:4, 0] - pairs.vectors["audio"][:4, 3]).max() > 1e-3  # another window


def test_one_frame_is_the_middle_one_with_its_window(sync: Trained, pairs: Embeddings) -> None:
    one = collected(DatasetEmbedder(sync, BOTH, 8, "one"), Coloured(5, whole=False))
    assert one.note["frames"] == 0
    for kind in BOTH:
        np.testing.assert_allclose(one.vectors[kind], pairs.vectors[kind][:, 2], atol=1e-5)
    single = DatasetEmbedder(sync, BOTH, 1).one(Coloured(3)[2])
    np.testing.assert_allclose(single["image"], one.vectors["image"][1], atol=1e-5)


def test_all_frames_of_cav_mae_are_compared_with_all_of_the_audio() -> None:
    trained = of_kind("cavmae")
    every, one = (collected(DatasetEmbedder(trained, BOTH, 3, frames), Coloured(5)) for frames in ("all", "one"))
    assert every.vectors["audio"].shape == every.vectors["image"].shape == (5, 4, 16)
    np.testing.assert_allclose(every.vectors["image"][:, 2], one.vectors["image"], atol=1e-5)
    for frame in range(4):
        np.testing.assert_allclose(every.vectors["audio"][:, frame], one.vectors["audio"], atol=1e-5)
    mean = np.einsum("id,jkd->ij", one.vectors["audio"].astype(np.float64), every.vectors["image"].astype(np.float64)) / 4
    ranks = 1 + (mean > np.diagonal(mean)[:, None]).sum(axis=1)
    assert rank_clips(every.vectors)["audio_to_image"].ranks.tolist() == ranks.tolist()
    with pytest.raises(ValueError, match="joint"):
        DatasetEmbedder(trained, KINDS, frames="all")


@pytest.mark.parametrize(("wanted", "there", "given"), [(0, 4, 4), (2, 4, 2), (16, 4, 4)])
def test_a_data_set_with_fewer_frames_gives_those_there_are(wanted: int, there: int, given: int) -> None:
    embed = DatasetEmbedder(of_kind("sync", frames=wanted), BOTH, 8)
    assert embed.pairs_of(Coloured(2, frames=there)) == given
    assert collected(embed, Coloured(2, frames=there)).vectors["audio"].shape == (2, given, 16)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_carries_the_axis_of_frames(sync: Trained, pairs: Embeddings, suffix: str, tmp_path: Path) -> None:
    source, embed = Coloured(5, whole=False), DatasetEmbedder(sync, BOTH, 8)
    note = note_of(sync, source, BOTH, frames=4, data="d", split="test")
    assert write_embeddings(tmp_path / f"e{suffix}", embed(source), note) == 5
    found = read_embeddings(tmp_path / f"e{suffix}")
    assert (found.note, found.ids) == (note, pairs.ids)
    for kind in BOTH:
        assert found.vectors[kind].dtype == np.float32
        np.testing.assert_allclose(found.vectors[kind], pairs.vectors[kind], atol=1e-6)
        np.testing.assert_array_equal(found.has[kind], pairs.has[kind])
    with pytest.raises(ValueError, match=r"4 vectors of each clip.*launch\.embed --frames=one"):
        read_index(str(tmp_path / f"e{suffix}"), sync)
    with pytest.raises(ValueError, match=r"audio of .*\[4, 4, 16\].*frames and width are 3 and 16"):
        collect(embed(source), note | {"frames": 3})


@pytest.mark.parametrize("frames", [-1, "4", 3])
def test_a_note_of_other_frames_is_refused(pairs: Embeddings, sync: Trained, frames: object, tmp_path: Path) -> None:
    source = Coloured(5, whole=False)
    write_embeddings(tmp_path / "a.npz", DatasetEmbedder(sync, BOTH, 8)(source), pairs.note)
    with np.load(tmp_path / "a.npz") as arrays:
        changed = {**arrays, "note": np.array(json.dumps({**pairs.note, "frames": frames}))}
        np.savez(tmp_path / "b.npz", **changed)  # pyright: ignore[reportArgumentType]
    with pytest.raises(WeightsError, match=r"b\.npz .*launch\.embed"):
        read_embeddings(tmp_path / "b.npz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_before_there_were_pairs_is_read(suffix: str, tmp_path: Path) -> None:
    trained, source = of_kind("cavmae"), Coloured(3)
    embed = DatasetEmbedder(trained, BOTH, 8)
    note = {name: value for name, value in note_of(trained, source, BOTH).items() if name != "frames"}
    write_embeddings(tmp_path / f"e{suffix}", embed(source), note)
    found = read_index(str(tmp_path / f"e{suffix}"), trained)
    assert found.vectors["audio"].shape == (3, 16)


def test_an_index_of_a_model_of_pairs_is_searched_by_middle_frames(sync: Trained, tmp_path: Path) -> None:
    source, embed = Coloured(5), DatasetEmbedder(sync, BOTH, 4, "one")
    write_embeddings(tmp_path / "e.npz", embed(source), note_of(sync, source, BOTH))
    index, _ = open_index(str(tmp_path / "e.npz"), embed, "test")
    ((by_audio, by_image),) = search([source[3]], embed, index, 5)
    ranked = rank_both(index.vectors)
    assert by_audio.rows.tolist() == ranked["audio_to_image"].nearest[3].tolist()
    assert by_image.rows.tolist() == ranked["image_to_audio"].nearest[3].tolist()


@pytest.mark.parametrize("kind", ["sync", "cavmae"])
@pytest.mark.slow
def test_retrieval_is_written_with_one_frame_and_with_all(kind: str, tmp_path: Path) -> None:
    trained, source = of_kind(kind), Coloured(8)
    vectors = collected(DatasetEmbedder(trained, BOTH, 8, "all"), source).vectors
    for way in WAYS[:2]:
        result = retrieve_into(tmp_path / way, DatasetEmbedder(trained, BOTH, 8, "all"), source, Selection(pairs=way), Origin("d", "test"))
        assert (result["frames"], result["pairs"], result["clips"]) == (4, way, 8)
        expected = rank_clips(vectors, way=way)
        for direction, ranked in expected.items():
            assert result[direction]["ranks"] == ranked.ranks.tolist()
        assert (tmp_path / way / "gallery.png").is_file()
    one = retrieve_into(tmp_path / "one", DatasetEmbedder(trained, BOTH, 8, "one"), source)
    assert (one["frames"], one["pairs"]) == (1, None)
