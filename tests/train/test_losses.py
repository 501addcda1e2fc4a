"""The pretraining losses against plain NumPy loops over examples and patches."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.config import LossConfig
from avmae_jax.models.cavmae import Pretraining
from avmae_jax.models.masking import mask_from_noise
from avmae_jax.models.tokens import join
from avmae_jax.train.losses import (
    contrastive_loss,
    normalise_patches,
    pretraining_losses,
    pretraining_weights,
    reconstruction_loss,
    weighted_sum,
)

PATCH = 4
_contrast = jax.jit(contrastive_loss, static_argnames=("bidirectional", "groups"))
_reconstruct = jax.jit(reconstruction_loss, static_argnames=("patch", "norm_pix"))


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _reconstruction(picture: np.ndarray, pred: np.ndarray, hidden: np.ndarray, norm_pix: bool) -> float:
    """The MAE loss by its definition, patch by patch."""
    columns, errors = picture.shape[2] // PATCH, []
    for b, token in zip(*np.nonzero(hidden), strict=True):
        y, x = PATCH * (token // columns), PATCH * (token % columns)
        target = picture[b, y : y + PATCH, x : x + PATCH].astype(np.float64).ravel()
        if norm_pix:
            mean = sum(target) / len(target)
            variance = sum((target - mean) ** 2) / (len(target) - 1)
            target = (target - mean) / math.sqrt(variance + 1e-6)
        errors.append(sum((pred[b, token] - target) ** 2) / len(target))
    return sum(errors) / len(errors)


def _image_to_audio(audio: np.ndarray, image: np.ndarray, temperature: float) -> tuple[float, float]:
    """InfoNCE of each image over all sounds given, and how often the right one is the most similar."""
    losses, hits = [], []
    for i, picture in enumerate(image.astype(np.float64)):
        logits = [
            float(picture @ sound) / math.sqrt(picture @ picture) / math.sqrt(sound @ sound) / temperature
            for sound in audio.astype(np.float64)
        ]
        losses.append(math.log(sum(math.exp(x - logits[i]) for x in logits)))
        hits.append(max(logits) == logits[i])
    return float(np.mean(losses)), float(np.mean(hits))


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 99))
def test_reconstruction_is_the_mean_over_hidden_patches(channels: int, norm_pix: bool, seed: int) -> None:
    picture, pred = _normal(seed, 2, 8, 12, channels), _normal(seed + 1, 2, 6, PATCH**2 * channels)
    hidden = (_normal(seed + 2, 2, 6) > 0.3).astype(np.float32)
    hidden[0, 0] = 1  # examples may hide different numbers of patches; the mean is over all hidden ones of the batch
    ours = _reconstruct(picture, pred, hidden, patch=PATCH, norm_pix=norm_pix)
    assert ours.dtype == jnp.float32
    assert float(ours) == pytest.approx(_reconstruction(picture, pred, hidden, norm_pix), rel=1e-5)


def test_the_variance_is_unbiased_and_eps_is_inside_the_root() -> None:
    patch = np.array([[[1.0, 3.0]], [[5.0, 5.0]], [[0.0, 2e-3]]], np.float32)
    ours = np.asarray(normalise_patches(jnp.asarray(patch)))[:, 0]
    np.testing.assert_allclose(ours[0], [-1 / math.sqrt(2 + 1e-6), 1 / math.sqrt(2 + 1e-6)], rtol=1e-6)
    np.testing.assert_array_equal(ours[1], [0, 0])  # a flat patch is 0, not NaN
    np.testing.assert_allclose(ours[2], np.array([-1e-3, 1e-3]) / math.sqrt(2e-6 + 1e-6), rtol=1e-5)


def test_visible_patches_have_no_influence() -> None:
    picture, pred = jnp.asarray(_normal(0, 2, 8, 12, 3)), jnp.asarray(_normal(1, 2, 6, 48))
    hidden = jnp.asarray([[1.0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 0]])
    for norm_pix in (True, False):
        grads = jax.grad(lambda pred, norm=norm_pix: _reconstruct(picture, pred, hidden, patch=PATCH, norm_pix=norm))(pred)
        np.testing.assert_array_equal(np.abs(grads).max(axis=2) > 0, hidden > 0)


def test_nothing_hidden_costs_nothing() -> None:
    loss = _reconstruct(_normal(0, 1, 8, 8, 3), _normal(1, 1, 4, 48), np.zeros((1, 4), np.float32), patch=PATCH, norm_pix=True)
    assert float(loss) == 0


def test_a_patch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"8 x 10.* 4"):
        reconstruction_loss(jnp.zeros((1, 8, 10, 3)), jnp.zeros((1, 4, 48)), jnp.ones((1, 4)), patch=PATCH, norm_pix=True)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 99))
def test_one_direction_is_over_audio_for_each_image(temperature: float, seed: int) -> None:
    audio, image = _normal(seed, 6, 8), _normal(seed + 1, 6, 8)
    loss, accuracy = _contrast(audio, image, temperature=temperature)
    assert loss.dtype == accuracy.dtype == jnp.float32
    expected = _image_to_audio(audio, image, temperature)
    assert (float(loss), float(accuracy)) == pytest.approx(expected, rel=1e-4)


def test_the_other_direction_is_another_number() -> None:
    audio, image = np.array([[1, 0], [1, 0]], np.float32), np.eye(2, dtype=np.float32)
    assert float(_contrast(audio, image)[0]) == pytest.approx(math.log(2), rel=1e-5)  # no image can tell the sounds apart
    assert float(_contrast(image, audio)[0]) == pytest.approx((0 + 20) / 2, rel=1e-5)  # both images prefer the first sound


def test_both_directions_are_averaged() -> None:
    audio, image = _normal(0, 6, 8), _normal(1, 6, 8)
    ours = [float(x) for x in _contrast(audio, image, bidirectional=True)]
    both = np.array([_image_to_audio(audio, image, 0.05), _image_to_audio(image, audio, 0.05)])
    assert ours == pytest.approx(both.mean(axis=0).tolist(), rel=1e-4)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("groups", [2, 3, 6])
def test_groups_take_negatives_from_neighbouring_rows_only(groups: int, bidirectional: bool) -> None:
    audio, image = _normal(2, 6, 8), _normal(3, 6, 8)
    size = 6 // groups
    parts = [_contrast(audio[i : i + size], image[i : i + size], bidirectional=bidirectional) for i in range(0, 6, size)]
    ours = _contrast(audio, image, bidirectional=bidirectional, groups=groups)
    np.testing.assert_allclose(ours, np.mean(parts, axis=0), rtol=1e-5, atol=1e-6)
    if size == 1:
        np.testing.assert_allclose(ours, (0, 1), atol=1e-6)  # no negatives: nothing to tell apart


def test_contrast_sees_directions_only() -> None:
    audio, image = _normal(4, 5, 8), _normal(5, 5, 8)
    scale = np.array([[0.01], [1], [7], [100], [3]], np.float32)
    np.testing.assert_allclose(_contrast(audio * scale, image / scale), _contrast(audio, image), rtol=1e-4)


def test_right_pairs_cost_nothing_and_chance_costs_log_batch() -> None:
    rows = np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(_contrast(rows, rows), (0, 1), atol=1e-6)
    same = np.ones((8, 8), np.float32)
    assert float(_contrast(same, same)[0]) == pytest.approx(math.log(8), rel=1e-5)


def test_a_batch_that_does_not_divide_into_groups_is_refused() -> None:
    with pytest.raises(ValueError, match=r"6.* 4 groups"):
        contrastive_loss(jnp.ones((6, 8)), jnp.ones((6, 8)), groups=4)


def _pretraining() -> tuple[Pretraining, dict[str, jax.Array]]:
    """Makes up a forward pass's outputs and inputs: audio of 3 x 5 patches, image of 2 x 3, six pairs."""
    inputs = {"audio": jnp.asarray(_normal(0, 6, 5 * PATCH, 3 * PATCH)), "image": jnp.asarray(_normal(1, 6, 2 * PATCH, 3 * PATCH, 3))}
    masks = {name: mask_from_noise(jnp.asarray(_normal(2, 6, length)), 0.75) for name, length in (("audio", 15), ("image", 6))}
    kept = {"audio": _normal(3, 6, 3, 8), "image": _normal(4, 6, 1, 8)}
    contrast = {name: {f"{name}.patches": jnp.asarray(values + 0.3)} for name, values in kept.items()}
    preds = {"audio": jnp.asarray(_normal(5, 6, 15, PATCH**2)), "image": jnp.asarray(_normal(6, 6, 6, 3 * PATCH**2))}
    pooled = [join(tokens).mean(axis=1) for tokens in contrast.values()]
    return Pretraining({"audio.patches": jnp.zeros((6, 4, 8))}, preds, masks, contrast, *pooled), inputs


@pytest.mark.parametrize(
    "config",
    [
        LossConfig(),
        LossConfig(mae_weight=0.5, contrast_weight=2.0, temperature=0.2, bidirectional=True, norm_pix=False),
        LossConfig(mae_weight=0.0),
    ],
)
@pytest.mark.parametrize("groups", [1, 3])
def test_the_total_is_the_weighted_sum_of_its_parts(config: LossConfig, groups: int) -> None:
    out, inputs = _pretraining()
    losses, metrics = jax.jit(lambda out, inputs: pretraining_losses(out, inputs, config, patch=PATCH, groups=groups))(out, inputs)
    total = weighted_sum(losses, pretraining_weights(config))
    spectrogram = np.asarray(inputs["audio"]).swapaxes(1, 2)[..., None]  # (mel, time): the target is transposed as the input is
    preds, hidden = jax.device_get((out.predictions, {name: mask.hidden for name, mask in out.masks.items()}))
    audio = _reconstruction(spectrogram, preds["audio"], hidden["audio"], config.norm_pix)
    picture = _reconstruction(np.asarray(inputs["image"]), preds["image"], hidden["image"], config.norm_pix)
    pooled = np.asarray(out.embed_audio), np.asarray(out.embed_image)
    nce = []
    for rows in np.split(np.arange(6), groups):
        nce.append(_image_to_audio(pooled[0][rows], pooled[1][rows], config.temperature))
        if config.bidirectional:
            nce.append(_image_to_audio(pooled[1][rows], pooled[0][rows], config.temperature))
    loss, accuracy = np.mean(nce, axis=0)
    weighted = config.mae_weight * (audio + picture) + config.contrast_weight * loss
    expected = {"mae_audio": audio, "mae_image": picture, "nce": loss, "contrast_accuracy": accuracy}
    assert {name: float(value) for name, value in (losses | metrics).items()} == pytest.approx(expected, rel=1e-4)
    assert float(total) == pytest.approx(weighted, rel=1e-4)
    assert {(value.shape, value.dtype) for value in (total, *losses.values(), *metrics.values())} == {((), jnp.dtype("float32"))}


def test_the_recipes_weights_are_the_defaults() -> None:
    expected = {
        "mae_weight": 1.0,
        "contrast_weight": 0.01,
        "temperature": 0.05,
        "bidirectional": False,
        "norm_pix": True,
        "global_local": False,
        "clip_negatives": False,
        "contrast_pass": False,
        "contrast_order": "random",
        "distill_weight": 0.0,
        "teacher_momentum": 0.999,
        "negatives": "global",
    }
    assert dataclasses.asdict(LossConfig()) == expected
