"""Identifies an MAE or an AST by its tensors: the config, the number of classes and how its input is normalised.

Axis letters: P patch, L tokens, M mel bins, T spectrogram frames, D width, C channels.
"""

import dataclasses
import math
from typing import NamedTuple

from avmae_jax.config import ModelConfig
from avmae_jax.errors import WeightsError, some
from avmae_jax.models.ast import STRIDE
from avmae_jax.models.patches import grid_of
from avmae_jax.weights.notes import Notes
from avmae_jax.weights.official_sizes import count_blocks, published_heads
from avmae_jax.weights.vit_names import TRANSFORMERS_PREFIXES, Tensors, canonical

# An AST takes (x - mean) / (2 * std), with the mean and the deviation of AudioSet.
_AST_NOTES = Notes(audio_mean=-4.2677393, audio_std=2 * 4.5689974, mode="audioonly")
# Axes of the tensors from which sizes are read; the last two say what kind of model it is.
RANKS = {"patch_embed.proj.weight": 4, "pos_embed": 3, "blocks.0.mlp.fc1.weight": 2, "decoder_embed.weight": 2, "mlp_head.1.weight": 2}
NEEDED = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")


class Identified(NamedTuple):
    """Describes the model that tensors of one modality belong to."""

    config: ModelConfig
    classes: int  # 0: a masked autoencoder
    notes: Notes


def identify(tensors: Tensors, *, heads: int = 0, decoder_heads: int = 0, mel_bins: int = 128) -> Identified:
    """Finds the config of an MAE with its decoder, or of an AST, from the names and shapes of its tensors.

    Args:
      tensors: name -> array, as timm, facebookresearch/mae, the original AST or transformers name them.
      heads: of the encoder, which no shape shows; 0: those of the published model of this width.
      decoder_heads: of the decoder; 0: those of the published model of this width.
      mel_bins: M of a model of audio.

    Raises:
      WeightsError: if the tensors belong to neither, or a size can't be found.
    """
    named = canonical(tensors)
    odd = [name for name, rank in RANKS.items() if name in named and (named[name].ndim != rank or not named[name].size)]
    if odd or any(name not in named for name in NEEDED):
        found = ", ".join(f"{name} {named[name].shape}" for name in odd) or some(tensors)
        raise WeightsError(f"these are no weights of a CAV-MAE, an MAE or an AST; its tensors are {found}")
    width, channels, patch, _ = named["patch_embed.proj.weight"].shape
    config = ModelConfig(
        depth=count_blocks(named, "blocks"),
        width=width,
        heads=heads or published_heads(width, ""),
        patch=patch,
        mlp_ratio=named["blocks.0.mlp.fc1.weight"].shape[0] / width,
        # The models of transformers have another epsilon than those of timm and facebookresearch, and no tensor holds it.
        norm_eps=1e-12 if any(name.startswith(TRANSFORMERS_PREFIXES) for name in tensors) else 1e-6,
    )
    length = named["pos_embed"].shape[1] - sum(name in named for name in ("cls_token", "dist_token"))
    if channels == 1 and "mlp_head.1.weight" in named:
        frames = _ast_frames(length, mel_bins, patch)
        config = dataclasses.replace(config, kind="ast", modality="audio", audio_frames=frames, mel_bins=mel_bins)
        return Identified(config, len(named["mlp_head.1.weight"]), _AST_NOTES)
    if "decoder_embed.weight" not in named:
        raise WeightsError("holds an encoder without decoder or head, which is no model by itself; start a run from it: --config.init_from")
    decoder_width = len(named["decoder_embed.weight"])
    length = max(length, 0)
    if channels == 1:
        config = dataclasses.replace(config, modality="audio", mel_bins=mel_bins, audio_frames=length * patch // mel_bins * patch)
    else:
        config = dataclasses.replace(config, modality="image", image_size=math.isqrt(length) * patch)
    config = dataclasses.replace(
        config,
        kind="mae",
        class_token="cls_token" in named,
        decoder_width=decoder_width,
        decoder_depth=count_blocks(named, "decoder_blocks"),
        decoder_heads=decoder_heads or published_heads(decoder_width, "decoder_"),
    )
    return Identified(config, 0, Notes())


def _ast_frames(length: int, mel_bins: int, patch: int) -> int:
    """Returns T of an AST: the multiple of the patch that gives this number of overlapping patches."""
    rows, _ = grid_of(mel_bins, patch, patch, STRIDE)
    columns, rest = divmod(length, rows) if rows > 0 else (0, 1)
    shortest = patch + STRIDE * (columns - 1)
    frames = next((frames for frames in range(shortest, shortest + STRIDE) if frames % patch == 0), 0)
    if rest or columns < 1 or not frames:
        raise WeightsError(f"its {length} positions are not those of audio with {mel_bins} mel bins; give another mel_bins")
    return frames
