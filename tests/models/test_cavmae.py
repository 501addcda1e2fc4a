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

from avmae_jax.config import SIZES, ModelConfig
from avmae_jax.models.cavmae import CAVMAE, Pretraining
from avmae_jax.models.layers import MAIN
from avmae_jax.models.masking import mask_from_noise
from avmae_jax.models.tokens import join
from avmae_jax.train.optim import trainable
from avmae_jax.trees import flatten
from avmae_jax.weights.build import described
from tests.models.tiny_cavmae import CONFIG, Arrays, arrays_of, initial_model, make_inputs, random_model, run_model

NAMES = {f"{kind}_{modality}" for kind in ("contrast", "pred", "embed") for modality in ("audio", "image")} | {"latent"}


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
    out = nnx.eval_shape(lambda model, *inputs: arrays_of(model(*inputs)), model, *inputs)
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
    out = nnx.eval_shape(lambda model, *inputs: arrays_of(model(*inputs)), described(config), *make_inputs(config))
    audio, image = math.prod(config.grid("audio")), math.prod(config.grid("image"))
    assert out["contrast_audio"].shape[1] == int(audio * (1 - config.audio_mask_ratio))
    assert out["contrast_image"].shape[1] == int(image * (1 - config.image_mask_ratio))
    assert out["pred_audio"].shape[1:] == (audio, config.patch**2)
    assert out["pred_image"].shape[1:] == (image, config.patch**2 * 3)


def test_a_config_that_does_not_fit_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ValueError, match=r"model\.width.*16.*model\.heads.*3"):
        initial_model(heads=3)


def test_a_ratio_that_keeps_nothing_is_refused() -> None:
    config = dataclasses.replace(CONFIG, image_mask_ratio=0.9)
    with pytest.raises(ValueError, match=r"0\.9.*4"):
        nnx.eval_shape(lambda model, *inputs: model(*inputs), described(config), *make_inputs(config))


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    first, same, other = (flatten(initial_model(seed)) for seed in (0, 0, 1))
    for name, value in first.items():
        np.testing.assert_array_equal(value, same[name])
        drawn = name.endswith(("kernel", "modality", "mask_token", "patch_embed.bias"))
        assert np.array_equal(value, other[name]) != drawn, name


def test_decoder_tokens_start_normal_with_deviation_0_02() -> None:
    params = flatten(initial_model(decoder_width=1024, decoder_depth=0))
    for name in ("decoder.mask_token", "decoder.ends.audio.modality", "decoder.ends.image.modality"):
        assert params[name].shape == (1024,)
        assert np.std(params[name]) == pytest.approx(0.02, rel=0.1), name
        assert np.abs(params[name]).max() > 0.05, name


@pytest.mark.parametrize("poison", [0.0, np.nan])
@pytest.mark.slow
def test_hidden_patches_have_no_influence_on_anything(model: CAVMAE, out: Pretraining, poison: float) -> None:
    inputs, noise = make_inputs()
    hidden_audio = np.asarray(out.masks["audio"].hidden).reshape(-1, 2, 4).repeat(16, axis=1).repeat(16, axis=2).swapaxes(1, 2)
    hidden_image = np.asarray(out.masks["image"].hidden).reshape(-1, 2, 2).repeat(16, axis=1).repeat(16, axis=2)[..., None]
    assert hidden_audio.mean() == hidden_image.mean() == 0.75
    hidden = {"audio": hidden_audio, "image": hidden_image}
    poisoned = {modality: jnp.where(hidden[modality] > 0, poison, x) for modality, x in inputs.items()}
    changed, before = arrays_of(run_model(model, poisoned, noise)), arrays_of(out)
    for name in NAMES:
        np.testing.assert_array_equal(changed[name], before[name], err_msg=name)


def test_contrastive_streams_see_their_own_modality_and_the_latent_sees_both(model: CAVMAE, out: Pretraining) -> None:
    inputs, noise = make_inputs()
    before = arrays_of(out)
    for changed_modality, other in (("image", "audio"), ("audio", "image")):
        result = run_model(model, inputs | {changed_modality: inputs[changed_modality] + 1}, noise)
        changed = arrays_of(result)
        for name in NAMES:
            if name in (f"contrast_{other}", f"embed_{other}"):
                np.testing.assert_array_equal(changed[name], before[name], err_msg=name)
            else:
                assert np.abs(changed[name] - before[name]).max() > 1e-4, name
        segment = f"{other}.patches"  # the other modality's tokens of the joint pass change too
        assert np.abs(result.latent[segment] - out.latent[segment]).max() > 1e-4


def test_examples_of_a_batch_do_not_touch_each_other(model: CAVMAE, out: Pretraining) -> None:
    changed, before = arrays_of(run_model(model, *jax.tree.map(lambda x: x.at[1:].add(0.5), make_inputs()))), arrays_of(out)
    for name in NAMES:
        np.testing.assert_allclose(changed[name][0], before[name][0], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_three_streams_are_the_joint_block_on_the_kept_tokens_with_three_sets_of_norms(model: CAVMAE, out: Pretraining) -> None:
    inputs, noise = make_inputs()
    masks = {modality: mask_from_noise(x, 0.75) for modality, x in noise.items()}
    jax.tree.map(np.testing.assert_array_equal, out.masks, masks)

    @nnx.jit
    def by_hand(model: CAVMAE, inputs: Arrays) -> list[jax.Array]:
        encoder, block = model.encoder, model.encoder.blocks[0]
        audio = encoder.audio.blocks[0](encoder.audio.embed(inputs["audio"], masks["audio"])["audio.patches"])
        image = encoder.image.blocks[0](encoder.image.embed(inputs["image"], masks["image"])["image.patches"])
        passes = {MAIN: jnp.concatenate([audio, image], axis=1), "audio": audio, "image": image}
        return [encoder.norm[stream](block(tokens, stream)) for stream, tokens in passes.items()]

    ours = arrays_of(out)
    for name, expected in zip(("latent", "contrast_audio", "contrast_image"), by_hand(model, inputs), strict=True):
        np.testing.assert_allclose(ours[name], expected, atol=1e-5)
    np.testing.assert_allclose(ours["embed_audio"], ours["contrast_audio"].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(ours["embed_image"], ours["contrast_image"].mean(axis=1), atol=1e-6)


def test_without_decoder_blocks_each_prediction_comes_from_the_token_in_its_place() -> None:
    model = random_model(decoder_depth=0)
    masks = {modality: mask_from_noise(x, 0.75) for modality, x in make_inputs()[1].items()}
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
    model = random_model(audio_mask_ratio=0.0, image_mask_ratio=0.0)
    inputs, noise = make_inputs()
    in_order = {name: jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.float32)[None], x.shape) for name, x in noise.items()}
    out = run_model(model, inputs, in_order)
    vectors = nnx.jit(lambda model, inputs: model.embed(inputs))(model, inputs)
    pooled = {"audio": out.embed_audio, "image": out.embed_image, "joint": join(out.latent).mean(axis=1)}
    assert set(vectors) == set(pooled)
    for kind, expected in pooled.items():
        np.testing.assert_allclose(vectors[kind], expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5, err_msg=kind)


@pytest.mark.slow
def test_unchained_changes_the_contrastive_streams_of_the_masked_pass_alone() -> None:
    chained, unchained = (
        arrays_of(run_model(random_model(joint_depth=2, unchained_contrastive=flag), *make_inputs())) for flag in (False, True)
    )
    for name in ("contrast_audio", "contrast_image"):
        assert np.abs(chained[name] - unchained[name]).max() > 1e-2, name
    for name in ("latent", "pred_audio", "pred_image"):
        np.testing.assert_allclose(chained[name], unchained[name], atol=1e-6, err_msg=name)


def test_norms_that_unchained_streams_skip_are_not_trained() -> None:
    def trained(unchained: bool) -> set[str]:
        config = dataclasses.replace(CONFIG, depth=4, joint_depth=3, unchained_contrastive=unchained)
        return set(flatten(nnx.state(described(config), trainable(config))))

    assert trained(True) < trained(False)
    assert {name.rpartition(".")[0] for name in trained(False) - trained(True)} == {
        f"encoder.blocks.{block}.{norm}.{stream}" for block in (0, 1) for norm in ("norm1", "norm2") for stream in ("audio", "image")
    }


def test_one_modality_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.modality.*audio.*cavmae"):
        initial_model(modality="audio")
