"""Tests the features of a frozen encoder: what they are, what is stored, and the attentive probe on its tokens."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import AppliedConfig
from avmae_jax.data.clip import Clip
from avmae_jax.evals.baselines import probe_features
from avmae_jax.evals.baselines.probe_features import stored_features
from avmae_jax.inference.attentive import attentive, with_mask
from avmae_jax.inference.embed import DatasetEmbedder
from avmae_jax.inference.token_features import TokenFeatures
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.mae import MAE
from avmae_jax.models.sync import Sync
from avmae_jax.weights.trained import Trained
from tests.support import ODD, Clips

pytestmark = pytest.mark.usefixtures("optax_promotion")

SMALL = dataclasses.replace(ODD, depth=2, joint_depth=1)


class Lengths(Clips):
    """Gives clip n the class n % 2; clip 1 is three times as long as the model's audio, and clip 2 shorter than it."""

    label_names: Sequence[str] = ("harp", "oboe")

    def __getitem__(self, index: int) -> Clip:
        clip = super().__getitem__(index)
        long, short = np.tile(clip.waveform, 2)[:11_000], clip.waveform[:2_000]
        waveform = long if index == 1 else short if index == 2 else clip.waveform[:4_080]
        return clip._replace(labels=(index % 2,), waveform=waveform)


def skip(*_: int) -> None:
    pass


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained("model", CAVMAE(SMALL, rngs=nnx.Rngs(0)), AppliedConfig(model=SMALL), 0, ())


def test_the_centre_after_the_joint_blocks_is_what_embed_computes(trained: Trained) -> None:
    rows = {row.clip.id: row.arrays for row in TokenFeatures(trained, "joint", "both", batch_size=3)(Lengths(4))}
    (part,) = DatasetEmbedder(trained)(Lengths(4))
    for number, name in ((number, name) for number, name in enumerate(part.ids) if name != "clip1"):  # which has several windows
        for kind in ("audio", "image"):
            mean = rows[name][f"{kind}.centre.mean"]
            np.testing.assert_allclose(mean / np.linalg.norm(mean), part.vectors[kind][number], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", ["joint", "separate"])
def test_the_whole_clip_is_all_tokens_of_its_windows(trained: Trained, layer: str) -> None:
    compute = TokenFeatures(trained, layer, "both", tokens=True, batch_size=3)  # pyright: ignore[reportArgumentType]
    rows = [row.arrays for row in compute(Lengths(4))]
    audio, image = (SMALL.grid(modality)[0] * SMALL.grid(modality)[1] for modality in ("audio", "image"))
    assert [len(row["audio.tokens"]) for row in rows] == [audio, 3 * audio, audio, audio]
    assert len(rows[1]["image.tokens"]) == image
    for row in rows:
        tokens = row["audio.tokens"].astype(np.float64)
        np.testing.assert_allclose(row["audio.whole.mean"], tokens.mean(axis=0), rtol=0, atol=5e-3)
        np.testing.assert_allclose(row["audio.whole.std"], tokens.std(axis=0), rtol=0, atol=5e-3)
        assert row["both.whole.mean"].shape == (2 * SMALL.shape.width,)
    assert np.abs(rows[1]["audio.whole.mean"] - rows[1]["audio.centre.mean"]).max() > 1e-3
    np.testing.assert_array_equal(rows[0]["audio.whole.mean"], rows[0]["audio.centre.mean"])


def test_clips_of_audio_alone_have_its_features_alone(trained: Trained) -> None:
    (row,) = TokenFeatures(trained, "joint", "audio")(Lengths(1))
    assert {name.partition(".")[0] for name in row.arrays} == {"audio"}


def test_a_model_of_one_modality_is_refused() -> None:
    config = dataclasses.replace(SMALL, kind="mae", modality="audio")
    model = Trained("model", MAE(config, rngs=nnx.Rngs(0)), AppliedConfig(model=config), 0, ())
    with pytest.raises(ValueError, match="model is a masked autoencoder"):
        TokenFeatures(model, "joint", "audio")


def test_features_are_computed_again_for_other_clips_or_after_damage(trained: Trained, tmp_path: Path) -> None:
    path, compute = tmp_path / "f.npz", TokenFeatures(trained, "joint", "both", tokens=True, batch_size=4)
    first = stored_features(path, compute, Lengths(4), "a", skip)
    calls: list[int] = []
    again = stored_features(path, compute, Lengths(4), "a", lambda done, *_: calls.append(done))
    assert not calls
    assert (again.ids, again.videos) == (first.ids, first.videos)
    np.testing.assert_array_equal(again.targets, first.targets)
    assert {name: values.dtype for name, values in again.features.items()} == {
        name: values.dtype for name, values in first.features.items()
    }
    for source, edition in ((Lengths(4), "b"), (Lengths(3), "a")):
        calls.clear()
        stored_features(path, compute, source, edition, lambda done, *_: calls.append(done))
        assert calls
    path.write_bytes(path.read_bytes()[:300])
    assert stored_features(path, compute, Lengths(3), "a", skip).ids == ["clip0", "clip1", "clip2"]


def test_more_features_than_memory_are_refused_at_the_first_clip(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_features, "_MOST", 10)
    with pytest.raises(ValueError, match="--probes=linear,neighbours"):
        stored_features(tmp_path / "f.npz", TokenFeatures(trained, "joint", "both"), Lengths(2), "a", skip)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_attentive_probe_finds_the_one_token_that_counts(exclusive: bool) -> None:
    """Each clip has one token that says its class, marked as such, among noise, and padding that would mislead."""
    rng = np.random.default_rng(0)
    classes = np.arange(80) % 2
    clips = []
    for number in range(80):
        tokens = rng.normal(0, 1, (rng.integers(6, 12), 3))
        tokens[:, 0] = 0
        tokens[rng.integers(len(tokens))] = (8, 3 if classes[number] else -3, 0)
        clips.append(tokens)
    features, targets = with_mask(clips), np.eye(2)[classes]
    assert features.shape == (80, max(map(len, clips)), 4)
    found = attentive(features[:60], targets[:60], features[60:], decay=0.1, exclusive=exclusive, seed=0)
    assert (found.argmax(axis=1) == classes[60:]).mean() > 0.9
    padded = np.pad(features, ((0, 0), (0, 5), (0, 0)))
    same = attentive(padded[:60], targets[:60], padded[60:], decay=0.1, exclusive=exclusive, seed=0)
    np.testing.assert_allclose(same, found, rtol=0, atol=1e-3)
    assert jax.numpy.isfinite(found).all()


@pytest.mark.parametrize("layer", ["joint", "separate"])
def test_features_of_pairs_are_those_of_all_their_tokens(layer: Any) -> None:
    model = dataclasses.replace(SMALL, kind="sync", class_token=True, registers=2, audio_frames=16, clip_frames=24)
    trained = Trained("model", Sync(model, rngs=nnx.Rngs(0)), AppliedConfig(model=model), 0, ())
    rows = list(TokenFeatures(trained, layer, "both", tokens=True, batch_size=3)(Lengths(4)))
    pairs, (audio, image) = len(Clips(1)[0].frames), (rows * columns for rows, columns in map(model.grid, ("audio", "image")))
    for row in rows:
        windows = 1 if row.clip.id != "clip1" else len(row.arrays["audio.tokens"]) // (pairs * audio)
        assert row.arrays["audio.tokens"].shape == (windows * pairs * audio, 16)
        assert len(row.arrays["both.tokens"]) == windows * pairs * (audio + image)
        mean = row.arrays["audio.tokens"].astype(np.float32).mean(axis=0)
        np.testing.assert_allclose(row.arrays["audio.whole.mean"], mean, atol=5e-3)


def test_tokens_of_pairs_are_those_of_their_vectors() -> None:
    model = dataclasses.replace(SMALL, kind="sync", depth=3, joint_depth=2, audio_frames=16, clip_frames=24, unchained_contrastive=True)
    trained = Trained("model", Sync(model, rngs=nnx.Rngs(0)), AppliedConfig(model=model), 0, ())
    (row,), (part,) = TokenFeatures(trained, "joint", "both", tokens=True)(Lengths(1)), DatasetEmbedder(trained, frames="all")(Lengths(1))
    for kind in ("audio", "image"):
        vectors = row.arrays[f"{kind}.tokens"].astype(np.float32).reshape(part.vectors[kind].shape[1], -1, 16).mean(axis=1)
        np.testing.assert_allclose(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), part.vectors[kind][0], rtol=0, atol=2e-3)
