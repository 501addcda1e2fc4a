"""Tests the pretraining model: sizes, parameter counts, what each output depends on, where the decoder puts tokens, precisions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import SIZES, LossConfig, ModelConfig
from avmae_jax.models.cavmae import CAVMAE, Pretraining
from avmae_jax.models.layers import MAIN
from avmae_jax.models.masking import mask_from_noise
from avmae_jax.train.losses import pretraining_loss
from avmae_jax.train.optim import trainable
from avmae_jax.trees import flatten
from avmae_jax.weights.build import described

CONFIG = ModelConfig(
    depth=2, width=16, heads=2, decoder_depth=1, decoder_width=16, decoder_heads=4, audio_frames=64, mel_bins=32, image_size=32
)
# grids: audio 2 x 4 patches, image 2 x 2; kept at 0.75: 2 and 1
Inputs = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _inputs(config: ModelConfig = CONFIG, batch: int = 4) -> Inputs:
    rng = np.random.default_rng(0)
    shapes = [(config.audio_frames, config.mel_bins), (config.image_size, config.image_size, 3)]
    fbank, image = (jnp.asarray(rng.standard_normal((batch, *shape)), jnp.float32) for shape in shapes)
    grids = config.grid("audio"), config.grid("image")
    noise_audio, noise_image = (jnp.asarray(rng.random((batch, math.prod(grid))), jnp.float32) for grid in grids)
    return fbank, image, noise_audio, noise_image


def _loss(model: CAVMAE, fbank: jax.Array, image: jax.Array, *noise: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    # the contrastive loss has full weight, so that its gradients show
    return pretraining_loss(model(fbank, image, *noise), fbank, image, LossConfig(contrast_weight=1.0), patch=16)


_run = nnx.jit(lambda model, *inputs: model(*inputs))
_step = nnx.jit(nnx.value_and_grad(_loss, has_aux=True))


def _initial(seed: int = 0, **changes: Any) -> CAVMAE:
    return CAVMAE(dataclasses.replace(CONFIG, **changes), rngs=nnx.Rngs(seed))


def _model(**changes: Any) -> CAVMAE:
    """Makes a model with random norms and biases too, so that a wrong stream or a forgotten bias shows."""
    model, rng = _initial(**changes), np.random.default_rng(1)
    for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] in ("scale", "bias"):
            value[...] = value[...] + jnp.asarray(rng.uniform(-0.5, 0.5, value.shape), jnp.float32)
    return model


@pytest.fixture(scope="module")
def model() -> CAVMAE:
    return _model()


@pytest.fixture(scope="module")
def out(model: CAVMAE) -> Pretraining:
    return _run(model, *_inputs())


@pytest.fixture(scope="module")
def step(model: CAVMAE) -> tuple[Any, Any]:
    """Computes ((loss, parts), gradients)."""
    return _step(model, *_inputs())


def _count(shapes: Mapping[str, Any]) -> int:
    return sum(math.prod(value.shape) for value in shapes.values())


def test_parameter_counts_are_the_originals() -> None:
    base = described(ModelConfig())
    params = flatten(nnx.state(base, nnx.Param))
    # Each of the 22 separate blocks and 8 decoder blocks of the original stores two more norm pairs, which it never uses.
    unused = 22 * 2 * 2 * (2 * 768) + 8 * 2 * 2 * (2 * 512)
    assert round((_count(params) + unused) / 1e6, 3) == 191.036
    trained = flatten(nnx.state(base, trainable(ModelConfig())))
    assert round((_count(trained) + unused) / 1e6, 3) == 190.130
    assert _count(params) - _count(trained) == (512 + 196) * (768 + 512)
    learned = flatten(nnx.state(base, trainable(ModelConfig(learned_positions=True))))
    assert set(learned) - set(trained) == {
        f"{side}.{modality}.positions" for side in ("encoder", "decoder.ends") for modality in ("audio", "image")
    }
    assert {value.dtype for value in params.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("size", SIZES)
def test_every_size_builds_and_predicts_every_patch(size: str) -> None:
    config = ModelConfig(size=size)
    shape = SIZES[size]
    model = cast(CAVMAE, described(config))
    assert len(model.encoder.audio.blocks) == len(model.encoder.image.blocks) == shape.depth - 1
    assert len(model.decoder.blocks) == shape.decoder_depth
    inputs = [jax.ShapeDtypeStruct((2, *shape), jnp.float32) for shape in ((1024, 128), (224, 224, 3), (512,), (196,))]
    out = nnx.eval_shape(lambda model, *inputs: model(*inputs), model, *inputs)
    assert out.latent.shape == (2, 128 + 49, shape.width)
    assert (out.contrast_audio.shape, out.contrast_image.shape) == ((2, 128, shape.width), (2, 49, shape.width))
    assert (out.pred_audio.shape, out.pred_image.shape) == ((2, 512, 256), (2, 196, 768))
    assert {x.dtype for x in out[:5]} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "changes",
    [
        {"audio_frames": 80, "mel_bins": 48, "image_size": 48},
        {"audio_frames": 40, "mel_bins": 8, "image_size": 40, "patch": 8},
        {"audio_mask_ratio": 0.0, "image_mask_ratio": 0.5},
        {"decoder_depth": 0},
    ],
)
def test_odd_sizes_build_and_keep_the_share_that_the_ratios_say(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    out = nnx.eval_shape(lambda model, *inputs: model(*inputs), described(config), *_inputs(config))
    audio, image = math.prod(config.grid("audio")), math.prod(config.grid("image"))
    assert out.contrast_audio.shape[1] == int(audio * (1 - config.audio_mask_ratio))
    assert out.contrast_image.shape[1] == int(image * (1 - config.image_mask_ratio))
    assert out.pred_audio.shape[1:] == (audio, config.patch**2)
    assert out.pred_image.shape[1:] == (image, config.patch**2 * 3)


def test_a_config_that_does_not_fit_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ValueError, match=r"model\.width.*16.*model\.heads.*3"):
        _initial(heads=3)


def test_a_ratio_that_keeps_nothing_is_refused() -> None:
    config = dataclasses.replace(CONFIG, image_mask_ratio=0.9)
    with pytest.raises(ValueError, match=r"0\.9 keeps 0 of 4"):
        nnx.eval_shape(lambda model, *inputs: model(*inputs), described(config), *_inputs(config))


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    first, same, other = (flatten(_initial(seed)) for seed in (0, 0, 1))
    for name, value in first.items():
        np.testing.assert_array_equal(value, same[name])
        drawn = name.endswith(("kernel", "modality", "mask_token", "patch_embed.bias"))
        assert np.array_equal(value, other[name]) != drawn, name


def test_decoder_tokens_start_normal_with_deviation_0_02() -> None:
    params = flatten(_initial(decoder_width=1024, decoder_depth=0))
    for name in ("decoder.mask_token", "decoder.ends.audio.modality", "decoder.ends.image.modality"):
        assert params[name].shape == (1024,)
        assert np.std(params[name]) == pytest.approx(0.02, rel=0.1), name
        assert np.abs(params[name]).max() > 0.05, name


@pytest.mark.parametrize("poison", [0.0, np.nan])
def test_hidden_patches_have_no_influence_on_anything(model: CAVMAE, out: Pretraining, poison: float) -> None:
    fbank, image, *noise = _inputs()
    hidden_audio = np.asarray(out.mask_audio.hidden).reshape(-1, 2, 4).repeat(16, axis=1).repeat(16, axis=2).swapaxes(1, 2)
    hidden_image = np.asarray(out.mask_image.hidden).reshape(-1, 2, 2).repeat(16, axis=1).repeat(16, axis=2)[..., None]
    assert hidden_audio.mean() == hidden_image.mean() == 0.75
    changed = _run(model, jnp.where(hidden_audio > 0, poison, fbank), jnp.where(hidden_image > 0, poison, image), *noise)
    for name in ("latent", "contrast_audio", "contrast_image", "pred_audio", "pred_image"):
        np.testing.assert_array_equal(getattr(changed, name), getattr(out, name), err_msg=name)


def test_contrastive_streams_see_their_own_modality_and_the_latent_sees_both(model: CAVMAE, out: Pretraining) -> None:
    fbank, image, *noise = _inputs()
    changed = _run(model, fbank, image + 1, *noise)
    np.testing.assert_array_equal(changed.contrast_audio, out.contrast_audio)
    for name in ("contrast_image", "latent", "pred_audio", "pred_image"):
        assert np.abs(getattr(changed, name) - getattr(out, name)).max() > 1e-4, name
    assert np.abs(changed.latent[:, :2] - out.latent[:, :2]).max() > 1e-4  # the joint pass changes the audio tokens too
    changed = _run(model, fbank + 1, image, *noise)
    np.testing.assert_array_equal(changed.contrast_image, out.contrast_image)


def test_examples_of_a_batch_do_not_touch_each_other(model: CAVMAE, out: Pretraining) -> None:
    inputs = _inputs()
    changed = _run(model, *(x.at[1:].set(x[1:] + 0.5) for x in inputs))
    for name in ("latent", "contrast_audio", "contrast_image", "pred_audio", "pred_image"):
        np.testing.assert_allclose(getattr(changed, name)[0], getattr(out, name)[0], atol=1e-5, err_msg=name)


def test_three_streams_are_the_joint_block_on_the_kept_tokens_with_three_sets_of_norms(model: CAVMAE, out: Pretraining) -> None:
    masks = [mask_from_noise(noise, 0.75) for noise in _inputs()[2:]]
    for ours, expected in zip((*out.mask_audio, *out.mask_image), (*masks[0], *masks[1]), strict=True):
        np.testing.assert_array_equal(ours, expected)

    @nnx.jit
    def by_hand(model: CAVMAE, fbank: jax.Array, image: jax.Array) -> list[jax.Array]:
        encoder, block = model.encoder, model.encoder.blocks[0]
        audio = encoder.audio.blocks[0](encoder.embed_audio(fbank, masks[0]))
        image = encoder.image.blocks[0](encoder.embed_image(image, masks[1]))
        passes = {MAIN: jnp.concatenate([audio, image], axis=1), "audio": audio, "image": image}
        return [encoder.norm[stream](block(tokens, stream)) for stream, tokens in passes.items()]

    for ours, expected in zip((out.latent, out.contrast_audio, out.contrast_image), by_hand(model, *_inputs()[:2]), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_without_decoder_blocks_each_prediction_comes_from_the_token_in_its_place() -> None:
    model = _model(decoder_depth=0)
    _, _, *noise = _inputs()
    masks = [mask_from_noise(x, 0.75) for x in noise]
    latent = jax.random.normal(jax.random.key(1), (4, 3, 16))
    decode = nnx.jit(lambda model, latent: model.decoder(latent, masks))
    pred_audio, pred_image = decode(model, latent)
    params = {name: np.asarray(value, np.float64) for name, value in flatten(model.decoder).items()}
    embedded = np.asarray(latent, np.float64) @ params["embed.kernel"] + params["embed.bias"]
    for name, pred, mask, first in (("audio", pred_audio, masks[0], 0), ("image", pred_image, masks[1], 2)):
        for row, keep_ids in enumerate(np.asarray(mask.keep_ids).tolist()):
            for token in range(pred.shape[1]):
                content = embedded[row, first + keep_ids.index(token)] if token in keep_ids else params["mask_token"]
                x = content + params[f"ends.{name}.positions"][token] + params[f"ends.{name}.modality"]
                x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * params["norm.main.scale"] + params["norm.main.bias"]
                expected = x @ params[f"ends.{name}.head.kernel"] + params[f"ends.{name}.head.bias"]
                np.testing.assert_allclose(pred[row, token], expected, atol=1e-5)


def test_decoder_blocks_see_both_modalities(model: CAVMAE, out: Pretraining) -> None:
    decode = nnx.jit(lambda model, latent: model.decoder(latent, (out.mask_audio, out.mask_image)))
    before, after = decode(model, out.latent), decode(model, out.latent.at[:, -1].add(1.0))  # an image token
    assert np.abs(np.asarray(before[0]) - np.asarray(after[0])).max() > 1e-4


def test_features_are_the_contrastive_streams_of_an_unmasked_pass() -> None:
    model = _model(audio_mask_ratio=0.0, image_mask_ratio=0.0)
    fbank, image, *noise = _inputs()
    in_order = [jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.float32), x.shape) for x in noise]
    out = _run(model, fbank, image, *in_order)
    np.testing.assert_allclose(nnx.jit(lambda m, x: m.audio_features(x))(model, fbank), out.contrast_audio, atol=1e-5)
    np.testing.assert_allclose(nnx.jit(lambda m, x: m.image_features(x))(model, image), out.contrast_image, atol=1e-5)


def test_unchained_changes_the_contrastive_streams_of_the_masked_pass_alone() -> None:
    inputs = _inputs()
    chained, unchained = (_run(_model(joint_depth=2, unchained_contrastive=flag), *inputs) for flag in (False, True))
    for name in ("contrast_audio", "contrast_image"):
        assert np.abs(getattr(chained, name) - getattr(unchained, name)).max() > 1e-2, name
    for name in ("latent", "pred_audio", "pred_image"):
        np.testing.assert_allclose(getattr(chained, name), getattr(unchained, name), atol=1e-6, err_msg=name)


def test_every_parameter_that_is_used_gets_a_gradient(step: tuple[Any, Any]) -> None:
    grads = {name: np.asarray(value) for name, value in flatten(step[1]).items()}
    assert all(np.isfinite(value).all() for value in grads.values())
    assert not [name for name, value in grads.items() if not np.abs(value).max() > 0]


def test_remat_gives_the_same_loss_and_gradients(model: CAVMAE, step: tuple[Any, Any]) -> None:
    rematted = _model(remat=True)
    graph, weights = nnx.split(rematted)
    jaxpr = jax.make_jaxpr(lambda weights: nnx.merge(graph, weights)(*_inputs()).pred_audio)(weights)
    # one separate block a tower, the joint block three times, one decoder block
    assert sum(equation.primitive.name.startswith("remat") for equation in jaxpr.jaxpr.eqns) == 2 + 3 + 1
    (loss, _), grads = _step(rematted, *_inputs())
    assert float(loss) == pytest.approx(float(step[0][0]), rel=1e-6)
    again = flatten(grads)
    for name, value in flatten(step[1]).items():
        np.testing.assert_allclose(again[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


def test_bfloat16_is_close_with_float32_parameters_losses_and_gradients(step: tuple[Any, Any]) -> None:
    rough = _model(compute_dtype="bfloat16")
    assert {value.dtype for value in flatten(rough).values()} == {jnp.dtype("float32")}
    (_, parts), grads = _step(rough, *_inputs())
    for name, value in parts.items():
        assert value.dtype == jnp.float32
        assert float(value) == pytest.approx(float(step[0][1][name]), rel=0.05, abs=0.05), name
    assert any(float(value) != float(step[0][1][name]) for name, value in parts.items())  # the computation did differ
    exact, ours = ({name: np.asarray(value) for name, value in flatten(state).items()} for state in (step[1], grads))
    assert {value.dtype for value in ours.values()} == {np.dtype("float32")}
    norm = math.sqrt(sum(float(np.square(value).sum()) for value in exact.values()))
    error = math.sqrt(sum(float(np.square(ours[name] - value).sum()) for name, value in exact.items()))
    assert error < 0.1 * norm


def test_bfloat16_streams_leave_the_model_in_float32() -> None:
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    out = nnx.eval_shape(lambda model, *inputs: model(*inputs), described(config), *_inputs())
    assert {x.dtype for x in out[:5]} == {jnp.dtype("float32")}
    tokens = nnx.eval_shape(lambda model, x: model.encoder.embed_audio(x), described(config), _inputs()[0])
    assert tokens.dtype == jnp.bfloat16
