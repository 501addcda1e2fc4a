"""The encoder's three steps: what embed adds, what hidden patches may touch, how the joint blocks are chained."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.encoder import VECTORS, Encoder
from avmae_jax.models.masking import Mask, mask_from_noise
from avmae_jax.models.tokens import Tokens
from avmae_jax.trees import flatten

CONFIG = ModelConfig(
    depth=4,
    joint_depth=3,
    width=16,
    heads=2,
    decoder_depth=1,
    decoder_width=16,
    decoder_heads=2,
    audio_frames=80,
    mel_bins=48,
    image_size=32,
)
# grids: audio 3 x 5 patches, image 2 x 2


def _encoder(**changes: int) -> Encoder:
    """An encoder whose every norm and bias is random, so that a wrong one shows."""
    encoder = Encoder(dataclasses.replace(CONFIG, **changes), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for path, value in nnx.to_flat_state(nnx.state(encoder, nnx.Param)):
        if path[-1] in ("scale", "bias"):
            value[...] = value[...] + jnp.asarray(rng.uniform(-0.5, 0.5, value.shape), jnp.float32)
    return encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return _encoder()


@pytest.fixture(scope="module")
def one_joint() -> Encoder:
    return _encoder(joint_depth=1)


@pytest.fixture(scope="module")
def initial() -> dict[str, np.ndarray]:
    """The parameters of a fresh encoder that is wide enough for statistics."""
    encoder = Encoder(dataclasses.replace(CONFIG, width=256, depth=1, joint_depth=1), rngs=nnx.Rngs(0))
    return {name: np.asarray(value) for name, value in flatten(encoder).items()}


FBANK = np.random.default_rng(2).standard_normal((2, 80, 48)).astype(np.float32)
IMAGE = np.random.default_rng(3).standard_normal((2, 32, 32, 3)).astype(np.float32)

_embed_audio = nnx.jit(lambda encoder, fbank, mask=None: encoder.audio.embed(fbank, mask)["audio.patches"])
_embed_image = nnx.jit(lambda encoder, image, mask=None: encoder.image.embed(image, mask)["image.patches"])
_separate = nnx.jit(lambda tower, tokens: tower.separate({"audio.patches": tokens})["audio.patches"])
_block = nnx.jit(lambda block, tokens, stream="main": block(tokens, stream), static_argnums=2)


@partial(nnx.jit, static_argnums=(2, 3))
def _joint(encoder: Encoder, tokens: jax.Array, stream: str, unchained: bool) -> jax.Array:
    """Applies the joint blocks to tokens that are taken for those of the stream's modality."""
    name = "audio.patches" if stream == "main" else f"{stream}.patches"
    return encoder.joint({name: tokens}, stream, unchained=unchained)[name]


def _mask(length: int, seed: int = 0) -> Mask:
    return mask_from_noise(jax.random.uniform(jax.random.key(seed), (2, length)), 0.6)


def _position(row: int, column: int, width: int) -> list[float]:
    angles = [[place * 10_000 ** (-i / (width // 4)) for i in range(width // 4)] for place in (column, row)]
    return [f(angle) for half in angles for f in (math.sin, math.cos) for angle in half]


def test_a_token_is_its_patch_times_the_kernel_plus_position_and_modality(encoder: Encoder) -> None:
    audio, image = np.asarray(_embed_audio(encoder, FBANK)), np.asarray(_embed_image(encoder, IMAGE))
    assert audio.shape == (2, 15, 16)
    assert image.shape == (2, 4, 16)
    params = {name: np.asarray(value, np.float64) for name, value in flatten(encoder).items()}
    for row, column in [(0, 0), (0, 4), (2, 1)]:
        patch = FBANK[0, 16 * column : 16 * column + 16, 16 * row : 16 * row + 16].T.ravel()  # (mel, time), time fastest
        expected = patch @ params["audio.patch_embed.kernel"] + params["audio.patch_embed.bias"]
        expected += np.array(_position(row, column, 16)) + params["audio.modality"]
        np.testing.assert_allclose(audio[0, row * 5 + column], expected, atol=1e-5)
    patch = IMAGE[1, 16:32, 0:16].ravel()  # row 1, column 0; (row, column, channel), channel fastest
    expected = patch @ params["image.patch_embed.kernel"] + params["image.patch_embed.bias"]
    np.testing.assert_allclose(image[1, 2], expected + np.array(_position(1, 0, 16)) + params["image.modality"], atol=1e-5)


def test_masked_tokens_are_the_kept_ones_of_all_in_the_order_of_the_mask(encoder: Encoder) -> None:
    for embed, x, length in ((_embed_audio, FBANK, 15), (_embed_image, IMAGE, 4)):
        mask = _mask(length)
        everything, kept = np.asarray(embed(encoder, x)), np.asarray(embed(encoder, x, mask))
        for row in range(2):
            np.testing.assert_allclose(kept[row], everything[row][np.asarray(mask.keep_ids[row])], atol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_hidden_patches_have_no_influence_whatever_they_hold(encoder: Encoder, poison: float) -> None:
    mask_audio, mask_image = _mask(15), _mask(4)
    cells = np.asarray(mask_audio.hidden).reshape(2, 3, 5).repeat(16, axis=1).repeat(16, axis=2)  # [B, M, T]
    fbank = np.where(cells.swapaxes(1, 2) > 0, np.float32(poison), FBANK)
    cells = np.asarray(mask_image.hidden).reshape(2, 2, 2).repeat(16, axis=1).repeat(16, axis=2)
    image = np.where(cells[..., None] > 0, np.float32(poison), IMAGE)
    assert not np.array_equal(fbank, FBANK)
    np.testing.assert_array_equal(_embed_audio(encoder, fbank, mask_audio), _embed_audio(encoder, FBANK, mask_audio))
    np.testing.assert_array_equal(_embed_image(encoder, image, mask_image), _embed_image(encoder, IMAGE, mask_image))


@pytest.mark.parametrize("shape", [(2, 64, 48), (2, 80, 64)])
def test_audio_with_another_number_of_patches_is_refused(encoder: Encoder, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=rf"audio.*{shape[2]}, {shape[1]}, 1.*48, 80, 1"):
        encoder.audio.embed(jnp.zeros(shape))


def test_an_image_with_another_number_of_patches_or_cut_ones_is_refused(encoder: Encoder) -> None:
    for width in (40, 48):
        with pytest.raises(ValueError, match=rf"image.*32, {width}, 3.*32, 32, 3"):
            encoder.image.embed(jnp.zeros((1, 32, width, 3)))


def test_another_grid_of_as_many_patches_is_refused(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match=r"audio.*80, 48, 1.*48, 80, 1"):
        encoder.audio.embed(jnp.zeros((2, 48, 80)))  # (mel, time) instead of (time, mel): its positions would be wrong
    with pytest.raises(ValueError, match=r"image.*16, 64, 3.*32, 32, 3"):
        encoder.image.embed(jnp.zeros((2, 16, 64, 3)))


def test_towers_have_their_own_weights_and_the_blocks_not_joint() -> None:
    for joint_depth in (1, 4):
        encoder = nnx.eval_shape(lambda joint=joint_depth: Encoder(dataclasses.replace(CONFIG, joint_depth=joint), rngs=nnx.Rngs(0)))
        assert [len(blocks) for blocks in (encoder.audio.blocks, encoder.image.blocks, encoder.blocks)] == [
            4 - joint_depth,
            4 - joint_depth,
            joint_depth,
        ]
        tokens = jnp.zeros((2, 3, 16))
        assert nnx.eval_shape(_separate, encoder.audio, tokens).shape == tokens.shape


@pytest.mark.slow
def test_separate_runs_every_block_in_order(one_joint: Encoder) -> None:
    encoder = one_joint
    tokens = _embed_audio(encoder, FBANK)
    expected = tokens
    for block in encoder.audio.blocks:
        expected = _block(block, expected, "main")
    np.testing.assert_allclose(_separate(encoder.audio, tokens), expected, atol=1e-5)
    assert not np.allclose(_separate(encoder.image, tokens), expected, atol=1e-2)


@pytest.mark.parametrize("stream", ["main", "audio", "image"])
def test_joint_blocks_are_chained_and_followed_by_the_norm_of_the_stream(encoder: Encoder, stream: str) -> None:
    tokens = _embed_audio(encoder, FBANK)
    expected = tokens
    for block in encoder.blocks:
        expected = _block(block, expected, stream)
    np.testing.assert_allclose(_joint(encoder, tokens, stream, False), encoder.norm[stream](expected), atol=1e-5)


@pytest.mark.parametrize("stream", ["audio", "image"])
def test_unchained_gives_each_block_the_unchanged_input_and_only_the_last_counts(encoder: Encoder, stream: str) -> None:
    out = tokens = _embed_audio(encoder, FBANK)
    for block in encoder.blocks:  # as the original's loop: the result is overwritten, the input stays
        out = _block(block, tokens, stream)
    unchained = np.asarray(_joint(encoder, tokens, stream, True))
    np.testing.assert_allclose(unchained, encoder.norm[stream](out), atol=1e-5)
    assert np.abs(unchained - np.asarray(_joint(encoder, tokens, stream, False))).max() > 0.1


def test_chaining_makes_no_difference_with_one_joint_block(one_joint: Encoder) -> None:
    tokens = _embed_image(one_joint, IMAGE)
    np.testing.assert_array_equal(_joint(one_joint, tokens, "image", True), _joint(one_joint, tokens, "image", False))


@pytest.mark.parametrize("where", ["blocks", "final"])
def test_a_stream_depends_on_its_own_norms_only(where: str) -> None:
    encoder = _encoder()
    tokens = _embed_audio(encoder, FBANK)
    streams = ("main", "audio", "image")
    before = {stream: np.asarray(_joint(encoder, tokens, stream, False)) for stream in streams}
    norm = encoder.norm["image"] if where == "final" else encoder.blocks[0].norm2["image"]
    norm.scale[...] = norm.scale[...] * 2
    changed = {stream for stream in streams if not np.array_equal(before[stream], _joint(encoder, tokens, stream, False))}
    assert changed == {"image"}


def test_the_patch_embedding_starts_as_torchs_convolution(initial: dict[str, np.ndarray]) -> None:
    for modality, fan_in in (("audio", 256), ("image", 768)):
        kernel, bias = (initial[f"{modality}.patch_embed.{kind}"] for kind in ("kernel", "bias"))
        bound = math.sqrt(6 / (fan_in + 256))  # Xavier on the flattened kernel
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        bound = 1 / math.sqrt(fan_in)
        assert 0.9 * bound < bias.max() <= bound
        assert -bound <= bias.min() < -0.9 * bound


def test_modality_embeddings_start_normal_and_positions_as_sines_and_cosines(initial: dict[str, np.ndarray]) -> None:
    modalities = np.stack([initial["audio.modality"], initial["image.modality"]])
    assert modalities.std() == pytest.approx(0.02, rel=0.1)
    assert np.abs(modalities).max() > 0.05  # normal, not uniform of that deviation
    assert not np.array_equal(*modalities)
    np.testing.assert_allclose(initial["audio.positions"][7], _position(1, 2, 256), atol=1e-6)
    np.testing.assert_allclose(initial["image.positions"][3], _position(1, 1, 256), atol=1e-6)


def test_separate_needs_an_input_and_takes_either(one_joint: Encoder) -> None:
    with pytest.raises(ValueError, match=r"audio.*image"):
        one_joint.separate({})
    shapes = nnx.eval_shape(lambda encoder: encoder.separate({"image": jnp.asarray(IMAGE)}), one_joint)
    assert {name: x.shape for name, x in shapes.items()} == {"image.patches": (2, 4, 16)}


def test_a_stream_takes_its_own_modality_out_of_both_and_refuses_to_do_without(one_joint: Encoder) -> None:
    @nnx.jit
    def run(encoder: Encoder) -> tuple[Tokens, Tokens]:
        tokens = encoder.separate({"audio": jnp.asarray(FBANK), "image": jnp.asarray(IMAGE)})
        alone = encoder.separate({"image": jnp.asarray(IMAGE)})
        return encoder.joint(tokens, "image"), encoder.joint(alone, "image")

    both, alone = run(one_joint)
    assert list(both) == list(alone) == ["image.patches"]
    np.testing.assert_allclose(both["image.patches"], alone["image.patches"], atol=1e-5)
    with pytest.raises(ValueError, match="audio"):
        one_joint.joint(alone, "audio")


@pytest.mark.slow
def test_vectors_have_length_1_and_are_the_means_of_their_streams(one_joint: Encoder) -> None:
    @nnx.jit
    def run(encoder: Encoder) -> tuple[dict[str, jax.Array], dict[str, Tokens]]:
        tokens = encoder.separate({"audio": jnp.asarray(FBANK), "image": jnp.asarray(IMAGE)})
        streams = {"audio": encoder.joint(tokens, "audio"), "image": encoder.joint(tokens, "image"), "joint": encoder.joint(tokens)}
        return encoder.vectors(tokens), streams

    vectors, streams = run(one_joint)
    assert set(vectors) == set(streams)
    for kind, segments in streams.items():
        mean = np.concatenate(list(segments.values()), axis=1).mean(axis=1)
        np.testing.assert_allclose(vectors[kind], mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5, err_msg=kind)


def test_vectors_are_those_that_are_wanted_and_can_be_computed(one_joint: Encoder) -> None:
    def kinds(modalities: str, what: Sequence[str] = VECTORS) -> set[str]:
        inputs = {"audio": jnp.asarray(FBANK), "image": jnp.asarray(IMAGE)}
        given = {modality: inputs[modality] for modality in modalities.split()}
        return set(nnx.eval_shape(lambda encoder: encoder.vectors(encoder.separate(given), what), one_joint))

    assert kinds("audio image", ("image", "joint")) == {"image", "joint"}
    assert kinds("audio") == {"audio"}
    assert kinds("image", ("audio", "joint")) == set()
