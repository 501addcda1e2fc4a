"""The pretraining model as a whole: sizes and parameter counts, what it may and may not see, where the decoder puts tokens, precisions."""

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
from avmae_jax.models.tokens import Tokens, join
from avmae_jax.train.losses import pretraining_losses, pretraining_weights, weighted_sum
from avmae_jax.train.optim import trainable
from avmae_jax.trees import flatten
from avmae_jax.weights.build import described

CONFIG = ModelConfig(
    depth=2, width=16, heads=2, decoder_depth=1, decoder_width=16, decoder_heads=4, audio_frames=64, mel_bins=32, image_size=32
)
# grids: audio 2 x 4 patches, image 2 x 2; kept at 0.75: 2 and 1
Arrays = dict[str, jax.Array]


def _inputs(config: ModelConfig = CONFIG, batch: int = 4) -> tuple[Arrays, Arrays]:
    """Inputs and noise by modality."""
    rng = np.random.default_rng(0)
    shapes = [(config.audio_frames, config.mel_bins), (config.image_size, config.image_size, 3)]
    fbank, image = (jnp.asarray(rng.standard_normal((batch, *shape)), jnp.float32) for shape in shapes)
    grids = config.grid("audio"), config.grid("image")
    noise_audio, noise_image = (jnp.asarray(rng.random((batch, math.prod(grid))), jnp.float32) for grid in grids)
    return {"audio": fbank, "image": image}, {"audio": noise_audio, "image": noise_image}


def _loss(model: CAVMAE, inputs: Arrays, noise: Arrays) -> tuple[jax.Array, Arrays]:
    config = LossConfig(contrast_weight=1.0)  # so that the gradients of the contrastive loss show
    losses, metrics = pretraining_losses(model(inputs, noise), inputs, config, patch=16)
    return weighted_sum(losses, pretraining_weights(config)), losses | metrics


def _arrays(out: Pretraining) -> Arrays:
    """Returns all that a pass computes, by name, with sequences joined."""
    tokens: dict[str, Tokens] = {"latent": out.latent, **{f"contrast_{modality}": part for modality, part in out.contrast.items()}}
    pooled = {"embed_audio": out.embed_audio, "embed_image": out.embed_image}
    predictions = {f"pred_{modality}": pred for modality, pred in out.predictions.items()}
    return {name: join(part) for name, part in tokens.items()} | predictions | pooled


NAMES = {f"{kind}_{modality}" for kind in ("contrast", "pred", "embed") for modality in ("audio", "image")} | {"latent"}


_run = nnx.jit(lambda model, *inputs: model(*inputs))
_step = nnx.jit(nnx.value_and_grad(_loss, has_aux=True))


def _initial(seed: int = 0, **changes: Any) -> CAVMAE:
    return CAVMAE(dataclasses.replace(CONFIG, **changes), rngs=nnx.Rngs(seed))


def _model(**changes: Any) -> CAVMAE:
    """A model whose norms and biases are random too, so that a wrong stream or a forgotten bias shows."""
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
    """((loss, parts), gradients)"""
    return _step(model, *_inputs())


def _count(shapes: Mapping[str, Any]) -> int:
    return sum(math.prod(value.shape) for value in shapes.values())


@pytest.mark.slow
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
@pytest.mark.slow
def test_every_size_builds_and_predicts_every_patch(size: str) -> None:
    config = ModelConfig(size=size)
    shape = SIZES[size]
    model = cast(CAVMAE, described(config))
    assert len(model.encoder.audio.blocks) == len(model.encoder.image.blocks) == shape.depth - 1
    assert len(model.decoder.blocks) == shape.decoder_depth
    audio, image, *noise = [jax.ShapeDtypeStruct((2, *shape), jnp.float32) for shape in ((1024, 128), (224, 224, 3), (512,), (196,))]
    inputs = {"audio": audio, "image": image}, {"audio": noise[0], "image": noise[1]}
    out = nnx.eval_shape(lambda model, *inputs: _arrays(model(*inputs)), model, *inputs)
    assert {name: x.shape for name, x in out.items()} == {
        "latent": (2, 128 + 49, shape.width),
        "contrast_audio": (2, 128, shape.width),
        "contrast_image": (2, 49, shape.width),
        "pred_audio": (2, 512, 256),
        "pred_image": (2, 196, 768),
        "embed_audio": (2, shape.width),
        "embed_image": (2, shape.width),
    }
    assert {x.dtype for x in out.values()} == {jnp.dtype("float32")}


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
    out = nnx.eval_shape(lambda model, *inputs: _arrays(model(*inputs)), described(config), *_inputs(config))
    audio, image = math.prod(config.grid("audio")), math.prod(config.grid("image"))
    assert out["contrast_audio"].shape[1] == int(audio * (1 - config.audio_mask_ratio))
    assert out["contrast_image"].shape[1] == int(image * (1 - config.image_mask_ratio))
    assert out["pred_audio"].shape[1:] == (audio, config.patch**2)
    assert out["pred_image"].shape[1:] == (image, config.patch**2 * 3)


def test_a_config_that_does_not_fit_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ValueError, match=r"model\.width.*16.*model\.heads.*3"):
        _initial(heads=3)


def test_a_ratio_that_keeps_nothing_is_refused() -> None:
    config = dataclasses.replace(CONFIG, image_mask_ratio=0.9)
    with pytest.raises(ValueError, match=r"0\.9.*4"):
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
@pytest.mark.slow
def test_hidden_patches_have_no_influence_on_anything(model: CAVMAE, out: Pretraining, poison: float) -> None:
    inputs, noise = _inputs()
    hidden_audio = np.asarray(out.masks["audio"].hidden).reshape(-1, 2, 4).repeat(16, axis=1).repeat(16, axis=2).swapaxes(1, 2)
    hidden_image = np.asarray(out.masks["image"].hidden).reshape(-1, 2, 2).repeat(16, axis=1).repeat(16, axis=2)[..., None]
    assert hidden_audio.mean() == hidden_image.mean() == 0.75
    hidden = {"audio": hidden_audio, "image": hidden_image}
    poisoned = {modality: jnp.where(hidden[modality] > 0, poison, x) for modality, x in inputs.items()}
    changed, before = _arrays(_run(model, poisoned, noise)), _arrays(out)
    for name in NAMES:
        np.testing.assert_array_equal(changed[name], before[name], err_msg=name)


def test_contrastive_streams_see_their_own_modality_and_the_latent_sees_both(model: CAVMAE, out: Pretraining) -> None:
    inputs, noise = _inputs()
    before = _arrays(out)
    for changed_modality, other in (("image", "audio"), ("audio", "image")):
        result = _run(model, inputs | {changed_modality: inputs[changed_modality] + 1}, noise)
        changed = _arrays(result)
        for name in NAMES:
            if name in (f"contrast_{other}", f"embed_{other}"):
                np.testing.assert_array_equal(changed[name], before[name], err_msg=name)
            else:
                assert np.abs(changed[name] - before[name]).max() > 1e-4, name
        segment = f"{other}.patches"  # the other modality's tokens of the joint pass change too
        assert np.abs(result.latent[segment] - out.latent[segment]).max() > 1e-4


def test_examples_of_a_batch_do_not_touch_each_other(model: CAVMAE, out: Pretraining) -> None:
    changed, before = _arrays(_run(model, *jax.tree.map(lambda x: x.at[1:].add(0.5), _inputs()))), _arrays(out)
    for name in NAMES:
        np.testing.assert_allclose(changed[name][0], before[name][0], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_three_streams_are_the_joint_block_on_the_kept_tokens_with_three_sets_of_norms(model: CAVMAE, out: Pretraining) -> None:
    inputs, noise = _inputs()
    masks = {modality: mask_from_noise(x, 0.75) for modality, x in noise.items()}
    jax.tree.map(np.testing.assert_array_equal, out.masks, masks)

    @nnx.jit
    def by_hand(model: CAVMAE, inputs: Arrays) -> list[jax.Array]:
        encoder, block = model.encoder, model.encoder.blocks[0]
        audio = encoder.audio.blocks[0](encoder.audio.embed(inputs["audio"], masks["audio"])["audio.patches"])
        image = encoder.image.blocks[0](encoder.image.embed(inputs["image"], masks["image"])["image.patches"])
        passes = {MAIN: jnp.concatenate([audio, image], axis=1), "audio": audio, "image": image}
        return [encoder.norm[stream](block(tokens, stream)) for stream, tokens in passes.items()]

    ours = _arrays(out)
    for name, expected in zip(("latent", "contrast_audio", "contrast_image"), by_hand(model, inputs), strict=True):
        np.testing.assert_allclose(ours[name], expected, atol=1e-5)
    np.testing.assert_allclose(ours["embed_audio"], ours["contrast_audio"].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(ours["embed_image"], ours["contrast_image"].mean(axis=1), atol=1e-6)


def test_without_decoder_blocks_each_prediction_comes_from_the_token_in_its_place() -> None:
    model = _model(decoder_depth=0)
    masks = {modality: mask_from_noise(x, 0.75) for modality, x in _inputs()[1].items()}
    keys = dict(zip(("audio", "image"), jax.random.split(jax.random.key(1)), strict=True))
    latent = {f"{name}.patches": jax.random.normal(key, (4, masks[name].keep_ids.shape[1], 16)) for name, key in keys.items()}
    predictions = nnx.jit(lambda model, latent: model.decoder(latent, masks))(model, latent)
    params = {name: np.asarray(value, np.float64) for name, value in flatten(model.decoder).items()}
    for name, pred in predictions.items():
        embedded = np.asarray(latent[f"{name}.patches"], np.float64) @ params["embed.kernel"] + params["embed.bias"]
        for row, keep_ids in enumerate(np.asarray(masks[name].keep_ids).tolist()):
            for token in range(pred.shape[1]):
                content = embedded[row, keep_ids.index(token)] if token in keep_ids else params["mask_token"]
                x = content + params[f"ends.{name}.positions"][token] + params[f"ends.{name}.modality"]
                x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * params["norm.main.scale"] + params["norm.main.bias"]
                expected = x @ params[f"ends.{name}.head.kernel"] + params[f"ends.{name}.head.bias"]
                np.testing.assert_allclose(pred[row, token], expected, atol=1e-5)


def test_decoder_blocks_see_both_modalities(model: CAVMAE, out: Pretraining) -> None:
    decode = nnx.jit(lambda model, latent: model.decoder(latent, out.masks)["audio"])
    changed = out.latent | {"image.patches": out.latent["image.patches"] + 1}
    assert np.abs(np.asarray(decode(model, out.latent)) - np.asarray(decode(model, changed))).max() > 1e-4


@pytest.mark.slow
def test_embed_is_the_pooled_stream_of_an_unmasked_pass_at_length_1() -> None:
    model = _model(audio_mask_ratio=0.0, image_mask_ratio=0.0)
    inputs, noise = _inputs()
    in_order = {name: jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.float32)[None], x.shape) for name, x in noise.items()}
    out = _run(model, inputs, in_order)
    vectors = nnx.jit(lambda model, inputs: model.embed(inputs))(model, inputs)
    pooled = {"audio": out.embed_audio, "image": out.embed_image, "joint": join(out.latent).mean(axis=1)}
    assert set(vectors) == set(pooled)
    for kind, expected in pooled.items():
        np.testing.assert_allclose(vectors[kind], expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5, err_msg=kind)


@pytest.mark.slow
def test_unchained_changes_the_contrastive_streams_of_the_masked_pass_alone() -> None:
    chained, unchained = (_arrays(_run(_model(joint_depth=2, unchained_contrastive=flag), *_inputs())) for flag in (False, True))
    for name in ("contrast_audio", "contrast_image"):
        assert np.abs(chained[name] - unchained[name]).max() > 1e-2, name
    for name in ("latent", "pred_audio", "pred_image"):
        np.testing.assert_allclose(chained[name], unchained[name], atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_every_parameter_that_is_used_gets_a_gradient(step: tuple[Any, Any]) -> None:
    grads = {name: np.asarray(value) for name, value in flatten(step[1]).items()}
    assert all(np.isfinite(value).all() for value in grads.values())
    assert not [name for name, value in grads.items() if not np.abs(value).max() > 0]


@pytest.mark.slow
def test_remat_gives_the_same_loss_and_gradients(model: CAVMAE, step: tuple[Any, Any]) -> None:
    rematted = _model(remat=True)
    graph, weights = nnx.split(rematted)
    jaxpr = jax.make_jaxpr(lambda weights: nnx.merge(graph, weights)(*_inputs()).predictions["audio"])(weights)
    # one separate block a tower, the joint block three times, one decoder block
    assert sum(equation.primitive.name.startswith("remat") for equation in jaxpr.jaxpr.eqns) == 2 + 3 + 1
    (loss, _), grads = _step(rematted, *_inputs())
    assert float(loss) == pytest.approx(float(step[0][0]), rel=1e-6)
    again = flatten(grads)
    for name, value in flatten(step[1]).items():
        np.testing.assert_allclose(again[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_bfloat16_is_close_with_float32_parameters_losses_and_gradients(step: tuple[Any, Any]) -> None:
    rough = _model(compute_dtype="bfloat16")
    assert {value.dtype for value in flatten(rough).values()} == {jnp.dtype("float32")}
    (_, parts), grads = _step(rough, *_inputs())
    for name, value in parts.items():
        assert value.dtype == jnp.float32
        assert float(value) == pytest.approx(float(step[0][1][name]), rel=0.05, abs=0.05), name
    assert any(float(value) != float(step[0][1][name]) for name, value in parts.items())  # it did compute otherwise
    exact, ours = ({name: np.asarray(value) for name, value in flatten(state).items()} for state in (step[1], grads))
    assert {value.dtype for value in ours.values()} == {np.dtype("float32")}
    norm = math.sqrt(sum(float(np.square(value).sum()) for value in exact.values()))
    error = math.sqrt(sum(float(np.square(ours[name] - value).sum()) for name, value in exact.items()))
    assert error < 0.1 * norm


def test_bfloat16_streams_leave_the_model_in_float32() -> None:
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    out = nnx.eval_shape(lambda model, *inputs: _arrays(model(*inputs)), described(config), *_inputs())
    assert {x.dtype for x in out.values()} == {jnp.dtype("float32")}
    tokens = nnx.eval_shape(lambda model, inputs: model.separate(inputs), described(config), _inputs()[0])
    assert {x.dtype for x in tokens.values()} == {jnp.dtype("bfloat16")}


def test_one_modality_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.modality.*audio.*cavmae"):
        _initial(modality="audio")
