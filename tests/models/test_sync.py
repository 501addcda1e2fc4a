"""Models of pairs: what reaches the decoder, what the contrast sees, and that pairs of a clip don't touch each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.errors import ConfigError
from avmae_jax.models import registry
from avmae_jax.models.guidance import joint_attention, patch_scores
from avmae_jax.models.pooling import unit_length
from avmae_jax.models.sync import Sync
from avmae_jax.models.sync_classifier import MODES, SyncClassifier
from avmae_jax.trees import flatten
from avmae_jax.weights.build import described
from tests.models.tiny_cavmae import CONFIG, make_inputs

SYNC = dataclasses.replace(CONFIG, kind="sync", class_token=True, registers=3)
TUNED = dataclasses.replace(SYNC, kind="sync_classifier")
CLASSES = 5


@pytest.fixture(scope="module")
def model() -> Sync:
    return Sync(SYNC, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def classifier() -> SyncClassifier:
    return SyncClassifier(TUNED, CLASSES, rngs=nnx.Rngs(0))


def of_pairs(clips: int, pairs: int) -> dict[str, jax.Array]:
    inputs, _ = make_inputs(batch=clips * pairs)
    return {name: value.reshape(clips, pairs, *value.shape[1:]) for name, value in inputs.items()}


@pytest.mark.parametrize("part", ["prefix", "registers"])
@pytest.mark.slow
def test_learned_tokens_have_no_place_in_the_decoder_but_reach_it_through_attention(model: Sync, part: str) -> None:
    out = model(*make_inputs())
    assert {name: value.shape[1] for name, value in out.latent.items()} == {"audio.patches": 2, "image.patches": 1}
    graph, state = nnx.split(model)
    changed = nnx.merge(graph, jax.tree.map(lambda x: x, state))
    token = getattr(changed.encoder.audio, part)
    token[...] += jax.random.normal(jax.random.key(1), token.shape)  # a constant would vanish in the norm before the attention
    other = changed(*make_inputs())
    assert not np.allclose(out.predictions["audio"], other.predictions["audio"])
    assert not np.allclose(out.embed_audio, other.embed_audio)
    np.testing.assert_array_equal(out.embed_image, other.embed_image)


def test_what_is_contrasted_is_the_class_token_or_the_mean_of_patches(model: Sync) -> None:
    out = model(*make_inputs())
    np.testing.assert_allclose(out.embed_audio, out.contrast["audio"]["audio.global"][:, 0], atol=1e-6)
    plain = Sync(dataclasses.replace(SYNC, class_token=False), rngs=nnx.Rngs(0))(*make_inputs())
    np.testing.assert_allclose(plain.embed_audio, plain.contrast["audio"]["audio.patches"].mean(axis=1), atol=1e-6)


def test_blocks_for_the_contrast_change_nothing_else() -> None:
    deep = Sync(dataclasses.replace(SYNC, contrast_depth=2), rngs=nnx.Rngs(0))
    out = deep(*make_inputs())
    deep.encoder.contrast["audio"][1].mlp.fc2.kernel[...] *= 2
    other = deep(*make_inputs())
    np.testing.assert_array_equal(out.predictions["audio"], other.predictions["audio"])
    assert not np.allclose(out.embed_audio, other.embed_audio)


def test_vectors_are_those_of_the_masked_pass_with_nothing_hidden(model: Sync) -> None:
    inputs, noise = make_inputs()
    out = model(inputs, noise, ratios={"audio": 0.0, "image": 0.0})
    found = model.embed({name: value[:, None] for name, value in inputs.items()})
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(("audio", "image", "joint"), (4, 1, 16))
    np.testing.assert_allclose(found["audio"][:, 0], unit_length(out.embed_audio), atol=1e-5)


@pytest.mark.slow
def test_pairs_of_a_clip_have_vectors_of_their_own(model: Sync) -> None:
    inputs = of_pairs(2, 3)
    together = model.embed(inputs, ("audio", "image"))
    alone = model.embed({name: value[1:, 2:] for name, value in inputs.items()}, ("audio", "image"))
    for name, vectors in together.items():
        np.testing.assert_allclose(vectors[1, 2], alone[name][0, 0], atol=1e-5)
    only = model.embed({"audio": inputs["audio"]})
    assert list(only) == ["audio"]
    np.testing.assert_allclose(only["audio"], together["audio"], atol=1e-5)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.slow
def test_the_order_of_pairs_does_not_matter_to_a_classifier_but_each_does(classifier: SyncClassifier, mode: registry.Mode) -> None:
    inputs = of_pairs(2, 4)
    logits = classifier(inputs, mode)
    np.testing.assert_allclose(classifier({name: value[:, ::-1] for name, value in inputs.items()}, mode), logits, atol=1e-5)
    assert not np.allclose(classifier({name: value[:, :3] for name, value in inputs.items()}, mode), logits, atol=1e-5)
    np.testing.assert_allclose(classifier({name: value[1:] for name, value in inputs.items()}, mode), logits[1:], atol=1e-5)


def test_several_modes_at_once_are_each_of_them(classifier: SyncClassifier) -> None:
    inputs = of_pairs(2, 3)
    for mode, logits in classifier.each(inputs, MODES).items():
        np.testing.assert_allclose(logits, classifier(inputs, mode), atol=1e-5)


@pytest.mark.slow
def test_late_fusion_leaves_the_joint_blocks_alone_and_needs_both() -> None:
    late = SyncClassifier(dataclasses.replace(TUNED, pair_pool="late"), CLASSES, rngs=nnx.Rngs(0))
    inputs = of_pairs(2, 3)

    def total(weights: nnx.State, rest: nnx.State) -> jax.Array:
        return nnx.merge(graph, weights, rest)(inputs).sum()

    graph, weights, rest = nnx.split(late, nnx.Param, ...)
    gradients = flatten(jax.grad(total)(weights, rest))
    unused = {name for name, value in gradients.items() if not np.asarray(value).any()}
    spec = registry.kind_of(TUNED)
    declared = {name for name in gradients if spec.unused(dataclasses.replace(TUNED, pair_pool="late"), name)}
    assert declared == {name for name in unused if name.startswith(("encoder.blocks.", "encoder.norm."))}
    with pytest.raises(ValueError, match="pair_pool"):
        late(inputs, MODES[1])


@pytest.mark.slow
def test_without_blocks_over_pairs_their_logits_are_averaged() -> None:
    alone = SyncClassifier(dataclasses.replace(TUNED, pair_depth=0, pair_pool="global"), CLASSES, rngs=nnx.Rngs(0))
    inputs = of_pairs(2, 3)
    each = [alone({name: value[:, pair : pair + 1] for name, value in inputs.items()}) for pair in range(3)]
    np.testing.assert_allclose(alone(inputs), jnp.stack(each).mean(axis=0), atol=1e-5)


def test_scores_are_the_attention_of_patches_to_the_class_token_in_their_own_order(model: Sync) -> None:
    inputs, _ = make_inputs()
    tokens = model.encoder.separate(inputs)
    attention = joint_attention(model.encoder, tokens, "audio")
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)
    scores = patch_scores(model.encoder, tokens, "audio")
    np.testing.assert_allclose(scores, attention[:, :, 1:, 0].mean(axis=1), atol=1e-6)
    order = jnp.array([3, 1, 0, 2, 7, 6, 5, 4])
    shuffled = tokens | {"audio.patches": tokens["audio.patches"][:, order]}
    np.testing.assert_allclose(patch_scores(model.encoder, shuffled, "audio"), scores[:, order], atol=1e-6)


def test_scores_need_a_class_token() -> None:
    plain = Sync(dataclasses.replace(SYNC, class_token=False), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="class_token"):
        patch_scores(plain.encoder, plain.encoder.separate(make_inputs()[0]), "audio")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"kind": "cavmae"}, "class_token"),
        ({"kind": "cavmae", "class_token": False}, "registers"),
        ({"pair_pool": "late"}, "pair_pool"),
        ({"kind": "sync_classifier", "pair_pool": "late", "class_token": False}, "pair_pool"),
        ({"kind": "sync_classifier", "pair_pool": "late", "pair_depth": 0}, "pair_depth"),
        ({"audio_frames": 40}, "audio_frames"),
        ({"clip_frames": 32}, "clip_frames"),
        ({"window_rate": 0.0}, "window_rate"),
        ({"registers": -1}, "registers"),
    ],
)
def test_what_does_not_fit_names_the_field(changed: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{field}"):
        registry.build(dataclasses.replace(SYNC, **changed), CLASSES, rngs=nnx.Rngs(0))


def test_inputs_without_pairs_or_with_different_ones_are_refused(model: Sync) -> None:
    inputs = of_pairs(2, 3)
    with pytest.raises(ValueError, match=r"audio.*\(2, 64, 32\).*\[B, F, T, M\]"):
        model.embed({"audio": inputs["audio"][:, 0]})
    with pytest.raises(ValueError, match=r"audio \(2, 3\), image \(2, 2\)"):
        model.embed({"audio": inputs["audio"], "image": inputs["image"][:, :2]})


@pytest.mark.parametrize(
    ("changed", "total", "positions"),
    [
        ({}, 190_660_864, 517_120),
        ({"contrast_depth": 2}, 219_036_928, 517_120),
        ({"audio_frames": 1024, "clip_frames": 0, "registers": 4, "class_token": False, "contrast_depth": 2}, 219_418_368, 906_240),
    ],
)
def test_the_base_model_has_the_published_number_of_parameters(changed: dict[str, int], total: int, positions: int) -> None:
    config = dataclasses.replace(ModelConfig(kind="sync", class_token=True, registers=8, audio_frames=416, clip_frames=1024), **changed)
    params = {name: leaf.size for name, leaf in flatten(described(config)).items()}
    stored = sum(params.values()) + _unused_norms(config)
    assert stored == total
    assert sum(size for name, size in params.items() if name.endswith("positions")) == positions


def _unused_norms(config: ModelConfig) -> int:
    """Counts the numbers of the norms that official files store and nothing uses: two more pairs in each block that isn't joint."""
    shape = config.shape
    separate = 2 * (shape.depth - config.joint_depth) + 2 * config.contrast_depth
    return 2 * 2 * 2 * (separate * shape.width + shape.decoder_depth * shape.decoder_width)
