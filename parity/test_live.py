"""Compares the JAX model with the PyTorch reference, with fresh weights and inputs, from single layers to ten optimizer steps."""

# pyright: reportMissingImports=false

from typing import Any

import pytest

pytest.importorskip("timm", reason='the reference needs PyTorch and timm: pip install -e ".[parity]"')

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from avmae_jax.config import LossConfig, ModelConfig, OptimConfig
from avmae_jax.models.encoder import Encoder
from avmae_jax.models.layers import ALL_STREAMS
from avmae_jax.models.masking import mask_from_noise
from avmae_jax.models.modes import MODES, MULTIMODAL
from avmae_jax.models.patches import sincos_positions
from avmae_jax.models.tokens import Tokens
from parity import reference
from parity.rows import OUTPUT_TOLERANCE, assert_all, compare
from parity.side_by_side import Classification, Pretraining, random_inputs, small

STREAMS: dict[str, reference.Stream] = {"main": "", "audio": "_a", "image": "_v"}
# Option combinations such that each option stands once alone and once among others.
CASES: dict[str, tuple[ModelConfig, LossConfig]] = {
    "one joint block": (small(), LossConfig()),
    "three joint blocks, columns hidden": (
        small(depth=5, joint_depth=3, audio_mask_mode="time", audio_mask_ratio=0.4, learned_positions=True),
        LossConfig(norm_pix=False, bidirectional=True, contrast_weight=0.1),
    ),
    "rows hidden, nothing of the image": (
        small(audio_mask_mode="freq", audio_mask_ratio=0.5, image_mask_ratio=0.0, mlp_ratio=2.0),
        LossConfig(mae_weight=0.0, contrast_weight=1.0),
    ),
    "only joint blocks, rows and columns hidden": (
        small(depth=2, joint_depth=2, audio_mask_mode="tf", patch=8, image_size=24, mel_bins=24, audio_frames=40),
        LossConfig(bidirectional=True, temperature=0.5),
    ),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def pair(request: pytest.FixtureRequest) -> Pretraining:
    config, loss = request.param
    return Pretraining(config, loss, random_inputs(config, batch=3))


@pytest.mark.slow
def test_every_intermediate_loss_and_feature_is_the_same(pair: Pretraining) -> None:
    assert_all(pair.output_rows(), at_least=18)


@pytest.mark.usefixtures("unpolished")
@pytest.mark.slow
def test_every_gradient_is_the_same(pair: Pretraining) -> None:
    assert_all(pair.gradient_rows(), at_least=60)


@pytest.mark.slow
def test_ten_steps_with_the_schedule_end_at_the_same_weights() -> None:
    config = small()
    pair = Pretraining(config, LossConfig(), random_inputs(config, batch=3))
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes Python floats and int32
        rows = list(pair.step_rows(OptimConfig(learning_rate=1e-3, decay_start=2, decay_every=1), steps=10, steps_per_epoch=2))
    assert_all(rows, at_least=80)
    assert len({row.name for row in rows if row.name.startswith("loss of step")}) == 10


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.slow
def test_negatives_of_one_part_are_the_same(groups: int) -> None:
    config = small(depth=2)
    assert_all(Pretraining(config, LossConfig(), random_inputs(config, batch=4), groups=groups).output_rows(), at_least=18)


@pytest.mark.usefixtures("unpolished")
@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.slow
def test_published_sizes_are_the_same(size: str) -> None:
    config = ModelConfig(size=size, audio_frames=112, mel_bins=48, image_size=80)
    pair = Pretraining(config, LossConfig(), random_inputs(config, batch=2))
    assert_all([*pair.output_rows(), *pair.gradient_rows()], at_least=300)


@pytest.mark.slow
def test_the_base_model_is_the_same() -> None:
    config = ModelConfig()
    assert_all(Pretraining(config, LossConfig(), random_inputs(config, batch=1)).output_rows(), at_least=18)


@pytest.mark.slow
def test_the_base_classifier_is_the_same_in_every_mode() -> None:
    config = ModelConfig()
    assert_all(Classification(config, 527, random_inputs(config, batch=1)).logit_rows(), at_least=5)


@pytest.mark.usefixtures("unpolished")
@pytest.mark.parametrize("joint_depth", [1, 3])
@pytest.mark.slow
def test_the_classifier_is_the_same_in_every_mode(joint_depth: int) -> None:
    config = small(depth=4, joint_depth=joint_depth)
    pair = Classification(config, 7, random_inputs(config, batch=3))
    assert_all(pair.logit_rows(), at_least=5)
    for mode in MODES if joint_depth == 1 else (MULTIMODAL,):
        assert_all(pair.gradient_rows(mode), at_least=60)


@pytest.mark.usefixtures("unpolished")
@pytest.mark.parametrize("size", [{"width": 64}, {"size": "tiny", "depth": 6, "width": 192, "decoder_width": 128}])
@pytest.mark.slow
def test_bfloat16_stays_near(size: dict[str, Any]) -> None:
    config = small(compute_dtype="bfloat16", **size)
    pair = Pretraining(config, LossConfig(), random_inputs(config, batch=3))
    outputs = list(pair.output_rows())
    assert_all([*outputs, *pair.gradient_rows()], at_least=18)
    assert max(row.relative for row in outputs) > 1e-4  # it is bfloat16
    assert_all(Classification(config, 7, random_inputs(config, batch=3)).logit_rows(), at_least=5)


# Layers -------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layers() -> Pretraining:
    config = small(depth=2, image_size=32)
    return Pretraining(config, LossConfig(), random_inputs(config, batch=2))


def test_patches_positions_and_modality_make_the_same_tokens(layers: Pretraining) -> None:
    (inputs, _), encoder, (fbank, image, *_) = layers.inputs.for_jax(), layers.model.encoder, layers.inputs.for_torch()

    def embed(encoder: Encoder, inputs: dict[str, jax.Array]) -> Tokens:
        return encoder.audio.embed(inputs["audio"]) | encoder.image.embed(inputs["image"])

    tokens = nnx.jit(embed)(encoder, inputs)
    with torch.no_grad():
        theirs = {"audio.patches": layers.reference.embed_audio(fbank), "image.patches": layers.reference.embed_image(image)}
    assert tokens.keys() == theirs.keys()
    assert_all([compare(name, tokens[name], theirs[name], 1e-6) for name in tokens], at_least=2)


@pytest.mark.parametrize("grid", [(8, 64), (14, 14), (3, 5), (1, 7)])
@pytest.mark.parametrize("width", [768, 512, 16])
def test_positions_are_the_same_to_the_last_bit_or_two(grid: tuple[int, int], width: int) -> None:
    class Patches:
        grid_size = grid

    theirs = reference.sincos_positions(Patches(), width)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(sincos_positions(grid, width), theirs.detach()[0], rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("stream", ALL_STREAMS)
@pytest.mark.parametrize("length", [1, 15, 49])
def test_attention_mlp_and_block_are_the_same_in_each_stream(layers: Pretraining, stream: str, length: int) -> None:
    block, theirs = layers.model.encoder.blocks[0], layers.reference.blocks_u[0]
    assert isinstance(theirs, reference.Block)
    tokens = np.random.default_rng(length).standard_normal((2, length, 32)).astype(np.float32)
    with torch.no_grad():
        rows = [
            compare("attention", nnx.jit(lambda m, x: m(x))(block.attn, tokens), theirs.attn(torch.tensor(tokens)), OUTPUT_TOLERANCE),
            compare("mlp", nnx.jit(lambda m, x: m(x))(block.mlp, tokens), theirs.mlp(torch.tensor(tokens)), OUTPUT_TOLERANCE),
            compare(
                "block",
                nnx.jit(lambda m, x: m(x, stream))(block, jnp.asarray(tokens)),
                theirs(torch.tensor(tokens), STREAMS[stream]),
                OUTPUT_TOLERANCE,
            ),
        ]
    assert_all(rows, at_least=3)


@pytest.mark.slow
def test_the_decoder_alone_is_the_same(layers: Pretraining) -> None:
    masks = {modality: mask_from_noise(noise, 0.75) for modality, noise in layers.inputs.for_jax()[1].items()}
    kept = [mask.keep_ids.shape[1] for mask in masks.values()]
    latent = np.random.default_rng(0).standard_normal((2, sum(kept), 32)).astype(np.float32)
    tokens = {"audio.patches": jnp.asarray(latent[:, : kept[0]]), "image.patches": jnp.asarray(latent[:, kept[0] :])}
    ours = nnx.jit(lambda decoder, tokens: decoder(tokens, masks))(layers.model.decoder, tokens)
    with torch.no_grad():
        audio, image = (torch.tensor(np.asarray(mask.restore_ids, np.int64)) for mask in masks.values())
        theirs = layers.reference._decode(torch.tensor(latent), audio, image, kept[0])
    assert_all([compare(f"prediction {i}", *both, OUTPUT_TOLERANCE) for i, both in enumerate(zip(ours.values(), theirs, strict=True))], 2)


@pytest.mark.slow
def test_a_swapped_weight_is_noticed() -> None:
    config = small(depth=2, joint_depth=2)
    pair = Pretraining(config, LossConfig(), random_inputs(config, batch=2))
    first, second = pair.model.encoder.blocks[0].norm1["audio"], pair.model.encoder.blocks[1].norm1["audio"]
    first.scale, second.scale = second.scale, first.scale
    failed = {row.name for row in pair.output_rows() if not row.ok}
    assert "contrast_audio_tokens" in failed
    assert "contrast_image_tokens" not in failed
