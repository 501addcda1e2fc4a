"""Tests the classifier: which tokens each mode classifies, what it must be given, and what has no effect."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.modes import MODES, MULTIMODAL, Mode, find_mode
from avmae_jax.models.pooling import deviation_summands
from avmae_jax.models.tokens import join

CONFIG = ModelConfig(kind="cavmae_classifier", depth=2, width=16, heads=2, audio_frames=64, mel_bins=32, image_size=32)
all_modes = pytest.mark.parametrize("mode", MODES, ids=str)

_logits = nnx.jit(CAVMAEClassifier.__call__, static_argnums=2)


@pytest.fixture(scope="module")
def model() -> CAVMAEClassifier:
    """Makes a classifier whose norms are random, so that a wrong stream shows."""
    model, rng = CAVMAEClassifier(CONFIG, 5, rngs=nnx.Rngs(0)), np.random.default_rng(1)
    for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] in ("scale", "bias"):
            value[...] = value[...] + jnp.asarray(rng.uniform(-0.5, 0.5, value.shape), jnp.float32)
    return model


@pytest.fixture(scope="module")
def inputs() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = {"audio": (3, 64, 32), "image": (3, 32, 32, 3)}
    return {modality: jnp.asarray(rng.standard_normal(shape), jnp.float32) for modality, shape in shapes.items()}


@all_modes
@pytest.mark.slow
def test_the_mean_of_the_tokens_of_the_modes_streams_is_classified(
    model: CAVMAEClassifier, inputs: dict[str, jax.Array], mode: Mode
) -> None:
    @nnx.jit
    def by_hand(model: CAVMAEClassifier) -> jax.Array:
        encoder = model.encoder
        segments = {modality: join(encoder.separate({modality: inputs[modality]})) for modality in mode.inputs}
        passes = []
        for stream in mode.streams:
            sequence = jnp.concatenate([segments[modality] for modality in ("audio", "image") if modality in segments], axis=1)
            for block in encoder.blocks:
                sequence = block(sequence, stream)
            passes.append(encoder.norm[stream](sequence))
        return model.head(jnp.stack(passes).mean(axis=0).mean(axis=1))

    np.testing.assert_allclose(_logits(model, inputs, mode), by_hand(model), atol=1e-5)


@all_modes
@pytest.mark.slow
def test_each_computes_what_single_calls_do(model: CAVMAEClassifier, inputs: dict[str, jax.Array], mode: Mode) -> None:
    together = nnx.jit(lambda model, inputs: list(model.each(inputs, MODES).values()))(model, inputs)
    np.testing.assert_allclose(together[MODES.index(mode)], _logits(model, inputs, mode), atol=1e-5)


@pytest.mark.parametrize(("name", "unused"), [("audio", "image"), ("image", "audio")])
def test_an_input_that_the_mode_does_not_take_has_no_effect_and_may_be_missing(
    model: CAVMAEClassifier, inputs: dict[str, jax.Array], name: str, unused: str
) -> None:
    mode = find_mode(name)
    expected = _logits(model, inputs, mode)
    np.testing.assert_array_equal(_logits(model, inputs | {unused: inputs[unused] + jnp.nan}, mode), expected)
    np.testing.assert_array_equal(_logits(model, {name: inputs[name]}, mode), expected)


@pytest.mark.parametrize("missing", ["audio", "image"])
def test_a_missing_input_is_named(model: CAVMAEClassifier, inputs: dict[str, jax.Array], missing: str) -> None:
    rest = {modality: x for modality, x in inputs.items() if modality != missing}
    with pytest.raises(ValueError, match=missing):
        nnx.eval_shape(lambda model: model(rest, MULTIMODAL), model)


def test_one_modality_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.modality.*audio.*cavmae_classifier"):
        CAVMAEClassifier(dataclasses.replace(CONFIG, modality="audio"), 5, rngs=nnx.Rngs(0))


POOLS = ("mean", "mean_std", "attentive")


def pooling(head_pool: str, **settings: float) -> CAVMAEClassifier:
    """Makes a classifier whose query, if it has one, isn't 0."""
    model = CAVMAEClassifier(dataclasses.replace(CONFIG, head_pool=head_pool, **settings), 5, rngs=nnx.Rngs(0))
    if model.head.query is not None:
        model.head.query[...] = jnp.asarray(np.random.default_rng(3).standard_normal(16) * 3, jnp.float32)
    return model


@pytest.mark.parametrize("head_pool", POOLS)
@all_modes
@pytest.mark.slow
def test_the_head_is_given_what_the_config_says_in_every_mode(head_pool: str, inputs: dict[str, jax.Array], mode: Mode) -> None:
    model = pooling(head_pool)
    tokens = np.asarray(join(model.final(model.separate({name: inputs[name] for name in mode.inputs}), mode)), np.float64)
    if head_pool == "mean":
        expected = tokens.mean(axis=1)
    elif head_pool == "mean_std":
        expected = np.concatenate([tokens.mean(axis=1), tokens.std(axis=1)], axis=-1)
    else:
        assert model.head.query is not None
        weights = np.exp(tokens @ np.asarray(model.head.query[...], np.float64) / 4)
        expected = (tokens * (weights / weights.sum(axis=1, keepdims=True))[..., None]).sum(axis=1)
    found = nnx.jit(lambda model, inputs: model.head.pool(model.final(model.separate(inputs), mode)))
    np.testing.assert_allclose(found(model, {name: inputs[name] for name in mode.inputs}), expected, atol=1e-4)
    logits = _logits(model, inputs, mode)
    assert logits.shape == (3, 5)
    np.testing.assert_allclose(logits, model.head(jnp.asarray(expected, jnp.float32)), atol=1e-3)


def test_attention_begins_as_the_mean(inputs: dict[str, jax.Array]) -> None:
    attentive, mean = (CAVMAEClassifier(dataclasses.replace(CONFIG, head_pool=pool), 5, rngs=nnx.Rngs(0)) for pool in ("attentive", "mean"))
    np.testing.assert_allclose(_logits(attentive, inputs, MULTIMODAL), _logits(mean, inputs, MULTIMODAL), atol=1e-5)


def test_equal_tokens_have_a_deviation_with_a_gradient() -> None:
    gradient = jax.grad(lambda tokens: deviation_summands(tokens).sum())(jnp.ones((2, 5, 3)))
    np.testing.assert_allclose(deviation_summands(jnp.ones((2, 5, 3))).sum(axis=1), 1e-3, rtol=1e-3)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("settings", [{"drop_path": 0.5}, {"head_dropout": 0.5}])
@pytest.mark.slow
def test_dropping_follows_its_key_and_is_off_in_evaluation(settings: dict[str, float], inputs: dict[str, jax.Array]) -> None:
    model, plain = pooling("mean", **settings), pooling("mean")
    each = nnx.jit(lambda model, key: list(model.each(inputs, MODES, key).values()))
    first, again, other = (each(model, jax.random.key(seed)) for seed in (0, 0, 1))
    for number, mode in enumerate(MODES):
        np.testing.assert_array_equal(first[number], again[number])
        assert (first[number] != other[number]).any()
        np.testing.assert_array_equal(_logits(model, inputs, mode), _logits(plain, inputs, mode))
        np.testing.assert_array_equal(each(plain, jax.random.key(0))[number], each(plain, None)[number])
