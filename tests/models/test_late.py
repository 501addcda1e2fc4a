"""The classifier with late fusion: its logits are sums, each modality is independent of the other, and statistics are what they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.fft import dct

from avmae_jax.config import ModelConfig
from avmae_jax.models import late, statistics
from avmae_jax.models.late import LateClassifier
from avmae_jax.models.registry import build
from avmae_jax.trees import flatten
from avmae_jax.weights.official import from_official, to_official
from avmae_jax.weights.official_sizes import infer_sizes

CONFIG = ModelConfig(
    kind="late_classifier", depth=2, width=16, heads=2, decoder_depth=1, decoder_width=16, decoder_heads=2,
    audio_frames=32, mel_bins=32, image_size=32, head_pool="mean_std", image_factor=0.5,
)  # fmt: skip
AUDIO, IMAGE = late.MODES[1:]


@pytest.fixture
def inputs() -> dict[str, jax.Array]:
    audio, image = jax.random.split(jax.random.key(0))
    return {"audio": jax.random.normal(audio, (3, 32, 32)), "image": jax.random.normal(image, (3, 32, 32, 3))}


@pytest.fixture
def model(inputs: dict[str, jax.Array]) -> LateClassifier:
    model = build(CONFIG, 5, rngs=nnx.Rngs(0))
    assert isinstance(model, LateClassifier)
    for number, head in enumerate((model.head["audio"], model.head["image"])):
        head.statistics.kernel[...] = jax.random.normal(jax.random.key(number), head.statistics.kernel.shape)
    model.standardise({name: np.asarray(values) for name, values in late.measure(inputs).items()})
    return model


@pytest.mark.slow
def test_logits_of_both_are_the_audio_s_and_a_share_of_the_image_s(model: LateClassifier, inputs: dict[str, jax.Array]) -> None:
    found = model.each(inputs, late.MODES)
    assert np.allclose(found[late.BOTH], found[AUDIO] + 0.5 * found[IMAGE], atol=1e-5)
    assert np.allclose(found[AUDIO], model({"audio": inputs["audio"]}, AUDIO), atol=1e-6)


def test_a_modality_has_no_part_in_the_logits_of_the_other(model: LateClassifier, inputs: dict[str, jax.Array]) -> None:
    def total(image: jax.Array) -> jax.Array:
        return model.each(inputs | {"image": image}, [AUDIO])[AUDIO].sum()

    assert not np.asarray(jax.grad(total)(inputs["image"])).any()


def test_statistics_are_centred_and_divided_by_those_of_training_clips(model: LateClassifier, inputs: dict[str, jax.Array]) -> None:
    measured = late.measure(inputs)["audio"]
    head = model.head["audio"]
    assert np.allclose(head.centre[...], measured.mean(axis=0), atol=1e-5)
    wide = head.of_statistics(measured)
    z = (np.asarray(measured) - np.asarray(measured).mean(0)) / (np.asarray(measured).std(0) + 1e-3)
    assert np.allclose(wide, np.clip(z, -4, 4) @ np.asarray(head.statistics.kernel[...]), atol=1e-3)


def test_tensors_have_names_in_files_from_which_sizes_are_read() -> None:
    model = build(CONFIG, 5, rngs=nnx.Rngs(1))
    params = {name: np.asarray(leaf) for name, leaf in flatten(nnx.state(model, nnx.Param)).items()}
    tensors = to_official(params)
    found = infer_sizes(tensors, heads=2, decoder_heads=2, mel_bins=32)
    assert (found.kind, found.head_pool) == ("late_classifier", "mean_std")
    back = from_official(tensors, {name: leaf.shape for name, leaf in params.items()})
    assert all((back[name] == params[name]).all() for name in params)


def test_cosine_statistics_are_those_of_scipy() -> None:
    log_mel = np.random.default_rng(0).normal(size=(2, 20, 64)).astype(np.float32)
    coefficients = np.asarray(dct(log_mel, axis=2, norm="ortho"))[:, :, :20]
    coefficients[:, :, 0] *= np.sqrt(2)  # the first one has another scale in scipy's orthonormal form
    found = np.asarray(statistics.cosine_statistics(jnp.asarray(log_mel)))
    steps = np.diff(coefficients, axis=1)
    wanted = [coefficients.mean(1), coefficients.std(1), np.abs(steps).mean(1), steps.std(1)]
    assert np.allclose(found, np.concatenate(wanted, axis=1), atol=1e-4)


@pytest.mark.parametrize("degrees", [0, 20, 60, 90, 140])
def test_edge_statistics_tell_the_direction_of_stripes(degrees: int) -> None:
    y, x = np.mgrid[:32, :32]
    angle = np.deg2rad(degrees)
    stripes = np.sin(0.9 * (np.cos(angle) * x + np.sin(angle) * y))
    image = jnp.asarray(np.repeat(stripes[None, ..., None], 3, axis=-1), jnp.float32)
    cells = np.asarray(statistics.edge_statistics(image)).reshape(4, 4, 9)[1:3, 1:3].mean(axis=(0, 1))
    assert cells.argmax() == round(degrees / 20) % 9


def test_statistics_of_an_even_input_are_finite_and_no_gradient_runs_through_them() -> None:
    even = {"audio": jnp.zeros((1, 16, 32)), "image": jnp.zeros((1, 32, 32, 3))}
    for modality, value in even.items():
        found, gradient = jax.value_and_grad(lambda given, name=modality: late.measure({name: given})[name].sum())(value)
        assert np.isfinite(found)
        assert not np.asarray(gradient).any()


def test_patch_dropout_leaves_patches_out_in_training_alone(inputs: dict[str, jax.Array]) -> None:
    model = build(dataclasses.replace(CONFIG, patch_dropout=0.5), 5, rngs=nnx.Rngs(0))
    assert isinstance(model, LateClassifier)
    assert model.separate(inputs)["audio.patches"].shape == (3, 4, 16)
    kept = model.separate(inputs, jax.random.key(0))
    assert kept["audio.patches"].shape == (3, 2, 16)
    assert kept["statistics.audio"].shape == (3, 1, 80)
    other = model.separate(inputs, jax.random.key(1))
    assert not np.allclose(kept["audio.patches"], other["audio.patches"])
