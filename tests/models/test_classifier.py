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
from avmae_jax.models.tokens import join

pytestmark = pytest.mark.usefixtures("unpolished")

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
