"""The match over time: vectors as the model's own, ranks among moments and clips, seconds."""

import dataclasses
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import AppliedConfig, Config
from avmae_jax.data.frontend import model_inputs
from avmae_jax.inference.match_over_time import MomentEmbedder, MomentVectors, References, match_timeline
from avmae_jax.inference.moments import Moment
from avmae_jax.models.pairs import merge_pairs
from avmae_jax.models.registry import build
from avmae_jax.weights.trained import Trained, require_match
from tests.support import ODD

SYNC = dataclasses.replace(ODD, kind="sync", class_token=True, registers=2, clip_frames=48)
RNG = np.random.default_rng(0)


def trained_of(kind: str) -> Trained:
    model = SYNC if kind == "sync" else dataclasses.replace(ODD, kind=kind)
    return Trained("model", build(model, rngs=nnx.Rngs(0)), AppliedConfig(model=model), 0, (), 0, None)


def moments_of(count: int, pairs: bool) -> list[Moment]:
    found = []
    for number in range(count):
        image = RNG.integers(0, 255, (16, 16, 3), np.uint8)
        samples = ((48 if pairs else 24) - 1) * 160 + 400
        arrays = {"waveform": RNG.integers(-9000, 9000, samples).astype(np.int16), "samples": np.int32(samples)}
        arrays |= {"image": image[None], "window": np.array([number % 20], np.int32)} if pairs else {"image": image}
        found.append(Moment(number / 4, number / 4, arrays))
    return found


@pytest.mark.parametrize("kind", ["sync", "cavmae"])
@pytest.mark.slow
def test_vectors_are_those_that_the_model_embeds_and_the_heat_is_their_cosine_with_patches(kind: str) -> None:
    trained = trained_of(kind)
    moments = moments_of(18, kind == "sync")
    found = MomentEmbedder(trained, heat=True)(iter(moments))
    batch = {name: jnp.asarray(np.stack([moment.arrays[name] for moment in moments])) for name in moments[0].arrays}
    expected = cast(Any, trained.module).embed(model_inputs(batch, trained.config))
    np.testing.assert_allclose(found.audio, np.asarray(expected["audio"]).reshape(18, -1), atol=1e-5)
    np.testing.assert_allclose(found.match, np.einsum("nd,nd->n", found.audio, np.asarray(expected["image"]).reshape(18, -1)), atol=1e-5)
    assert found.heat is not None
    assert found.heat.shape == (18, 2, 2)
    assert np.abs(found.heat).max() <= 1 + 1e-6
    if kind == "cavmae":  # whose image vector is the mean of its patches: both point the same way
        assert np.corrcoef(found.heat.mean(axis=(1, 2)), found.match)[0, 1] > 0.9


@pytest.mark.slow
def test_the_heat_is_of_the_block_that_the_vectors_come_from() -> None:
    config = dataclasses.replace(SYNC, unchained_contrastive=True)
    module: Any = build(config, rngs=nnx.Rngs(0))
    trained = Trained("model", module, AppliedConfig(model=config), 0, (), 0, None)
    moments = moments_of(3, True)
    found = MomentEmbedder(trained, heat=True)(iter(moments))
    batch = {name: jnp.asarray(np.stack([moment.arrays[name] for moment in moments])) for name in moments[0].arrays}
    tokens = module.encoder.separate(merge_pairs(model_inputs(batch, trained.config)))
    patches = np.array(module.encoder.joint(tokens, "image", unchained=True)["image.patches"])
    patches /= np.linalg.norm(patches, axis=-1, keepdims=True)
    assert found.heat is not None
    np.testing.assert_allclose(found.heat.reshape(3, -1), np.einsum("nld,nd->nl", patches, found.audio), atol=1e-5)


def test_a_classifier_whose_joint_blocks_were_left_behind_has_no_match() -> None:
    late = dataclasses.replace(SYNC, kind="sync_classifier", pair_pool="late")
    for config, fits in ((late, False), (dataclasses.replace(late, pair_pool="mean"), True)):
        trained = Trained("tuned", None, AppliedConfig(model=config), 3, ("a", "b", "c"), 0, None)  # pyright: ignore[reportArgumentType]
        assert trained.has_match == fits
    with pytest.raises(ValueError, match="pair_pool=late"):
        require_match(dataclasses.replace(trained, config=Config(model=late)))


@pytest.mark.parametrize("kind", ["mae", "ast"])
def test_a_kind_without_vectors_is_refused(kind: str) -> None:
    trained = Trained("m.pth", None, AppliedConfig(model=dataclasses.replace(ODD, kind=kind, modality="audio")), 0, (), 0, None)  # pyright: ignore
    with pytest.raises(ValueError, match=r"m\.pth .*no match"):
        require_match(trained)


def vectors_of(image: np.ndarray, audio: np.ndarray, window: float = 0.3) -> MomentVectors:
    times = np.arange(len(image)) / 4
    image, audio = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, audio))
    return MomentVectors(times, times, window, audio.astype(np.float32), image.astype(np.float32))


def test_a_moment_that_matches_better_than_all_others_has_rank_one() -> None:
    rows = RNG.standard_normal((40, 16))
    found = match_timeline(vectors_of(rows, rows))
    assert found.seconds.tolist() == list(range(10))
    np.testing.assert_allclose(found.match, 1, atol=1e-6)
    np.testing.assert_allclose(found.moment_rank, 1)
    assert np.isnan(found.clip_rank).all()


def test_ranks_of_unrelated_audio_are_about_a_half() -> None:
    draw = RNG.standard_normal
    references = References(*(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in draw((2, 200, 16)).astype(np.float32)))
    found = match_timeline(vectors_of(draw((400, 16)), draw((400, 16))), references)
    assert found.moment_rank.mean() == pytest.approx(0.5, abs=0.06)
    assert found.clip_rank.mean() == pytest.approx(0.5, abs=0.06)


def test_moments_whose_windows_overlap_are_no_others() -> None:
    rows = RNG.standard_normal((12, 16))
    assert np.isnan(match_timeline(vectors_of(rows, rows, window=2.0)).moment_rank).all()


def test_the_matrix_is_of_the_time_that_is_asked_for() -> None:
    vectors = vectors_of(RNG.standard_normal((40, 16)), RNG.standard_normal((40, 16)))
    chosen, cosines = vectors.matrix(2.0, 4.0)
    assert chosen.tolist() == list(range(8, 16))
    assert cosines[1, 3] == pytest.approx(float(vectors.image[9] @ vectors.audio[11]))


def test_references_leave_out_what_clips_lack() -> None:
    rows = np.eye(16, dtype=np.float32)[None].repeat(2, axis=0)
    rows[0, 3] = 0
    assert len(References.of({"audio": rows, "image": rows}).audio) == 31
    with pytest.raises(ValueError, match="0 vectors of image"):
        References.of({"audio": rows})
