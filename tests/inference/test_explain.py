"""Explanations: shares that add up to the logit, cosines that are those of the vectors."""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import Config, ModelConfig
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.frontend import model_inputs
from avmae_jax.inference.explain import Explainer, Explanation, shares, subject
from avmae_jax.inference.predict import Prediction, Predictor
from avmae_jax.inference.windows import of_parts
from avmae_jax.models.classifier import Head
from avmae_jax.models.pooling import unit_length
from avmae_jax.weights import io
from avmae_jax.weights.notes import Notes
from avmae_jax.weights.trained import Trained
from tests.support import ODD, made

NAMES = ("harp", "oboe", "$lute_{x}$", "horn", "drum")
MODEL = ModelConfig(
    width=16, heads=2, depth=2, decoder_width=8, decoder_heads=2, decoder_depth=1, audio_frames=48, mel_bins=32, image_size=32
)
RNG = np.random.default_rng(0)
SOUND = (RNG.standard_normal(6000) * 3000).astype(np.int16)  # 0.375 of the 0.48 s that the model takes
PICTURE = RNG.integers(0, 255, (40, 60, 3)).astype(np.uint8)


def trained(classes: int) -> Trained:
    notes = Notes(loss="ce", label_names=NAMES[:classes])
    found = made(MODEL, classes)
    found = found._replace(params={name: value * np.float32(0.3) for name, value in found.params.items()}, notes=notes)
    return Trained("here", io.made(found), notes.config(found.config), classes, NAMES[:classes])


@pytest.fixture(scope="module")
def classifier() -> Trained:
    return trained(5)


def asked(model: Trained, **parts: Any) -> tuple[Prediction, Explanation]:
    medium = of_parts(parts.get("audio"), parts.get("image"))
    ((_, prediction),) = Predictor(model)([medium])
    assert isinstance(prediction, Prediction)
    return prediction, Explainer(model)(medium, prediction)


def test_the_explanation_is_of_the_audio_that_was_predicted(classifier: Trained) -> None:
    medium = of_parts(SOUND, None)
    for fill, samples in (("repeat", num_samples(48)), ("zeros", len(SOUND))):
        ((_, prediction),) = Predictor(classifier)([medium], fill=fill)  # pyright: ignore[reportArgumentType]
        assert isinstance(prediction, Prediction)
        found = Explainer(classifier)(medium, prediction, fill=fill)  # pyright: ignore[reportArgumentType]
        assert found.row.arrays["samples"] == samples


@pytest.mark.parametrize("head_pool", ["mean", "mean_std", "attentive"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_the_shares_and_the_constant_add_up_to_the_logit(seed: int, head_pool: str) -> None:
    rng = np.random.default_rng(seed)
    head = Head(dataclasses.replace(ODD, head_pool=head_pool), 7, rngs=nnx.Rngs(seed))
    for _, param in nnx.iter_graph(head):
        if isinstance(param, nnx.Param):
            param[...] = jnp.asarray(rng.standard_normal(param[...].shape), jnp.float32)
    tokens = jnp.asarray(rng.standard_normal((3, 11, ODD.shape.width)) * 4 + 1, jnp.float32)
    labels = jnp.asarray(rng.integers(0, 7, 3), jnp.int32)
    found, constant = shares(head, tokens, labels)
    logits = head(head.pool({"audio.patches": tokens}))
    assert found.shape == (3, 11)
    np.testing.assert_allclose(found.sum(axis=1) + constant, np.asarray(logits)[np.arange(3), labels], rtol=1e-4, atol=1e-4)
    # What is left where no token says anything: the norm's shift and the bias.
    norm: Any = head.norm
    linear: Any = head.linear
    expected = norm.bias[...] @ linear.kernel[...] + linear.bias[...]
    np.testing.assert_allclose(constant, expected[labels], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", [{"audio": SOUND, "image": PICTURE}, {"audio": SOUND}, {"image": PICTURE}])
@pytest.mark.slow
def test_the_logit_of_the_first_class_is_divided_among_the_patches_of_what_there_is(parts: dict[str, Any], classifier: Trained) -> None:
    prediction, found = asked(classifier, **parts)
    assert {name: heat.shape for name, heat in found.heat.items()} == {name: MODEL.grid(name) for name in parts}
    inputs = model_inputs({name: jnp.asarray(value)[None] for name, value in found.row.arrays.items()}, Config(model=MODEL))
    model: Any = classifier.module
    logits = np.asarray(nnx.jit(lambda model: model(inputs, prediction.mode))(model))[0]
    assert prediction.top[0][0] == NAMES[logits.argmax()]
    assert subject(prediction).startswith(NAMES[logits.argmax()])
    assert found.constant is not None
    assert sum(heat.sum() for heat in found.heat.values()) + found.constant == pytest.approx(logits.max(), abs=1e-3)


@pytest.mark.slow
def test_a_pretraining_model_shows_cosines_with_the_other_modality() -> None:
    model = trained(0)
    prediction, found = asked(model, audio=SOUND, image=PICTURE)
    inputs = model_inputs({name: jnp.asarray(value)[None] for name, value in found.row.arrays.items()}, model.config)
    encoder: Any = model.module.encoder  # pyright: ignore[reportAttributeAccessIssue]

    @partial(nnx.jit, static_argnums=1)
    def features(encoder: Any, name: str) -> Any:
        return encoder.joint(encoder.separate({name: inputs[name]}), name)[f"{name}.patches"]

    audio, image = (features(encoder, name) for name in ("audio", "image"))
    for name, tokens, other in (("image", image, audio), ("audio", audio, image)):
        expected = (tokens / jnp.linalg.norm(tokens, axis=-1, keepdims=True) @ unit_length(other.mean(axis=1))[0])[0]
        np.testing.assert_allclose(found.heat[name].ravel(), expected, atol=1e-4)
    assert found.constant is None
    assert prediction.top == ()
    assert f"{prediction.match:.2f}" in subject(prediction)


def test_the_window_that_speaks_most_is_explained(classifier: Trained) -> None:
    loud = np.concatenate([np.zeros(7680, np.int16), (RNG.standard_normal(7680) * 9000).astype(np.int16), np.zeros(7680, np.int16)])
    prediction, found = asked(classifier, audio=loud)
    assert prediction.windows == 3
    assert found.row.start == prediction.start
    with pytest.raises(ValueError, match="class"):
        Explainer(classifier)(of_parts(SOUND, None), Prediction((), np.zeros(0), (), "audio", None, 1, 0.0, None, None, None))
