"""Tests that a transformer of one modality is identified by its tensors, and what cannot be one is refused."""

import dataclasses

import numpy as np
import pytest

from avmae_jax.errors import WeightsError
from avmae_jax.weights.vit_config import identify
from tests.weights.small_vit import WIDTH, Tensors, audio_transformer, config, image_mae, is_decoder


def test_an_image_mae_is_identified() -> None:
    found = identify(image_mae(), heads=2, decoder_heads=1)
    expected = config(kind="mae", modality="image", class_token=True, norm_eps=1e-6)
    ours = dataclasses.replace(found.config, mel_bins=expected.mel_bins, audio_frames=expected.audio_frames)  # which it has none of
    assert (ours, found.classes) == (expected, 0)


@pytest.mark.parametrize("prefix", ["", "v."])
def test_an_ast_is_identified_with_the_normalisation_of_its_input(prefix: str) -> None:
    tensors = audio_transformer()
    tensors["pos_embed"] = np.zeros((1, 2 + 5 * 9, WIDTH), np.float32)  # 48 mel bins and 84 frames, in patches every 10 pixels
    named = {name if name.startswith("mlp_head") else prefix + name: tensor for name, tensor in tensors.items()}
    found = identify(named, heads=2, mel_bins=48)
    assert (found.config.kind, found.classes, found.config.audio_frames, found.config.mel_bins) == ("ast", 5, 84, 48)
    assert (found.notes.audio_mean, found.notes.audio_std) == pytest.approx((-4.268, 9.138), abs=1e-3)
    with pytest.raises(WeightsError, match=r"45 .* 64 "):
        identify(named, heads=2, mel_bins=64)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pos_embed": np.zeros((5, WIDTH))}, r"pos_embed \(5, 8\)"),
        ({"decoder_embed.weight": np.zeros(())}, r"decoder_embed\.weight \(\)"),
        ({"patch_embed.proj.weight": np.zeros((WIDTH, 3, 0, 0))}, r"patch_embed\.proj\.weight \(8, 3, 0, 0\)"),
    ],
)
def test_a_tensor_that_gives_a_size_and_has_the_wrong_axes_is_named(changed: Tensors, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        identify(image_mae() | changed, heads=2, decoder_heads=1)


def test_an_encoder_without_decoder_is_no_model() -> None:
    encoder = {name: tensor for name, tensor in image_mae().items() if not is_decoder(name)}
    with pytest.raises(WeightsError, match=r"--config\.init_from"):
        identify(encoder, heads=2)
