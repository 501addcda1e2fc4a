"""The AST: overlapping patches against a plain loop, the order of its tokens, and what is classified."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.ast import AST
from avmae_jax.models.patches import patchify
from avmae_jax.models.tokens import join

# stride 10: 2 rows and 5 columns of patches
CONFIG = ModelConfig(kind="ast", modality="audio", depth=2, width=16, heads=2, audio_frames=64, mel_bins=32)
SHAPES = [(2, 5, 10), (2, 4, 16), (9, 25, 2)]  # rows, columns, stride


@pytest.fixture(scope="module")
def model() -> AST:
    return AST(CONFIG, 5, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def fbank() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((3, 64, 32)), jnp.float32)


@pytest.mark.parametrize(("height", "width", "channels", "patch", "stride"), [(32, 64, 1, 16, 10), (9, 12, 3, 4, 2), (7, 5, 2, 3, 1),
                                                                              (10, 11, 1, 2, 5), (8, 12, 3, 4, 4)])  # fmt: skip
def test_overlapping_patches_are_those_of_a_loop(height: int, width: int, channels: int, patch: int, stride: int) -> None:
    picture = np.random.default_rng(1).standard_normal((2, height, width, channels)).astype(np.float32)
    expected = [
        picture[:, top : top + patch, left : left + patch].reshape(2, -1)
        for top in range(0, height - patch + 1, stride)
        for left in range(0, width - patch + 1, stride)
    ]
    np.testing.assert_array_equal(patchify(jnp.asarray(picture), patch, stride), np.stack(expected, axis=1))


@pytest.mark.parametrize(("rows", "columns", "stride"), SHAPES)
def test_tokens_and_logits_have_their_shapes(rows: int, columns: int, stride: int, fbank: jax.Array) -> None:
    made = AST(CONFIG, 7, stride=stride, rngs=nnx.Rngs(0))
    assert made.tower.positions.shape == (rows * columns, 16)
    tokens = jax.eval_shape(made.separate, {"audio": fbank})
    assert {name: x.shape for name, x in tokens.items()} == {"audio.global": (3, 2, 16), "audio.patches": (3, rows * columns, 16)}
    logits = jax.eval_shape(made, {"audio": fbank})
    assert (logits.shape, logits.dtype) == ((3, 7), jnp.float32)


def test_the_base_model_has_the_papers_1214_tokens() -> None:
    base = nnx.eval_shape(lambda: AST(ModelConfig(modality="audio"), 527, rngs=nnx.Rngs(0)))
    assert base.tower.positions.shape == (12 * 101, 768)


def test_tokens_are_in_order_of_mel_row_then_time_after_the_two_of_no_patch(model: AST, fbank: jax.Array) -> None:
    embed = nnx.jit(lambda model, fbank: join(model.tower.embed(fbank)))
    tokens = np.asarray(embed(model, fbank))
    assert model.tower.prefix is not None
    np.testing.assert_array_equal(tokens[:, :2], np.broadcast_to(model.tower.prefix[...], (3, 2, 16)))
    for row, column in [(0, 0), (0, 1), (0, 4), (1, 0), (1, 3)]:
        inside = (slice(None), slice(10 * column, 10 * column + 16), slice(10 * row, 10 * row + 16))
        alone = np.asarray(embed(model, jnp.zeros_like(fbank).at[inside].set(fbank[inside])))
        np.testing.assert_allclose(alone[:, 2 + row * 5 + column], tokens[:, 2 + row * 5 + column], rtol=1e-5, atol=1e-6)
        others = np.asarray(embed(model, fbank.at[inside].set(0.0)))
        assert np.abs(others[:, 2 + row * 5 + column] - tokens[:, 2 + row * 5 + column]).max() > 0.1


def test_the_mean_of_both_first_tokens_is_classified(model: AST, fbank: jax.Array) -> None:
    tokens, logits = nnx.jit(lambda model, inputs: (model.separate(inputs), model(inputs)))(model, {"audio": fbank})
    first, second = tokens["audio.global"][:, 0], tokens["audio.global"][:, 1]
    np.testing.assert_allclose(logits, model.head((first + second) / 2), rtol=1e-5, atol=1e-5)
    assert len(np.unique(np.asarray(logits), axis=0)) == 3


def test_a_spectrogram_of_another_size_is_refused(model: AST) -> None:
    with pytest.raises(ValueError, match=r"audio.*32, 80, 1.*32, 64, 1"):
        model({"audio": jnp.zeros((1, 80, 32))})
    with pytest.raises(ValueError, match=r"model\.audio_frames.*65.*model\.patch"):
        AST(dataclasses.replace(CONFIG, audio_frames=65), 5, rngs=nnx.Rngs(0))
