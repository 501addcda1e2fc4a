"""Finds the sizes of a model from its official state dict."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from avmae_jax.config import SIZES, ModelConfig
from avmae_jax.errors import WeightsError, some
from avmae_jax.models.patches import find_rows
from avmae_jax.weights.official import REGISTERS


def infer_sizes(tensors: Mapping[str, np.ndarray], *, heads: int = 0, decoder_heads: int = 0, mel_bins: int = 128) -> ModelConfig:
    """Finds the sizes of a model from its official state dict, with decoder (pretraining) or without (classifier).

    Args:
      tensors: official name -> array.
      heads: of the encoder, which no shape shows; 0: those of the published model of this width.
      decoder_heads: of the decoder; 0: those of the published model of this width.
      mel_bins: M; it and the number of audio positions give the number of frames.

    Raises:
      WeightsError: if a tensor that gives a size is missing, there is no published model of this width, or the audio positions are
        those of other mel bins, which only sin-cos positions show (find_rows).
    """
    needed = ["patch_embed_v.proj.weight", "blocks_u.0.mlp.fc1.weight", "pos_embed_a", "pos_embed_v"]
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise WeightsError(f"these are no weights of a CAV-MAE: {', '.join(missing)} missing; there are {some(tensors)}")
    width, _, patch, _ = tensors["patch_embed_v.proj.weight"].shape
    found_bins = find_rows(tensors["pos_embed_a"][0]) * patch
    if found_bins not in (0, mel_bins):
        raise WeightsError(f"its positions are those of audio with {found_bins} mel bins, not {mel_bins}; set mel_bins to {found_bins}")
    joint_depth = count_blocks(tensors, "blocks_u")
    of_pairs = "classifier_head.weight" in tensors or any(name.startswith(_OF_PAIRS) for name in tensors)
    decoder: dict[str, Any] = {}
    if "decoder_embed.weight" in tensors:
        decoder_width = tensors["decoder_embed.weight"].shape[0]
        decoder = {
            "decoder_width": decoder_width,
            "decoder_depth": count_blocks(tensors, "decoder_blocks"),
            "decoder_heads": decoder_heads or published_heads(decoder_width, "decoder_"),
        }
    return ModelConfig(
        kind=_kind(tensors, of_pairs=of_pairs),
        depth=count_blocks(tensors, "blocks_a") + joint_depth,
        joint_depth=joint_depth,
        width=width,
        heads=heads or published_heads(width, ""),
        mlp_ratio=tensors["blocks_u.0.mlp.fc1.weight"].shape[0] / width,
        audio_frames=tensors["pos_embed_a"].shape[1] * patch // mel_bins * patch,
        mel_bins=mel_bins,
        image_size=math.isqrt(tensors["pos_embed_v"].shape[1]) * patch,
        patch=patch,
        head_pool=_head_pool(tensors, width),
        **(_pairs(tensors, width) if of_pairs else {}),
        **decoder,
    )


# the matrix [C, ...] by which a classifier's kind is known
HEADS = {
    "mlp_head.1.weight": "cavmae_classifier",
    "mlp_head_a.1.weight": "late_classifier",
    "classifier_head.weight": "sync_classifier",
}
_OF_PAIRS = (REGISTERS, "cls_token_a", "constrative_head_")  # what begins the names of tensors that only CAV-MAE Sync has
_PUBLISHED_CLIP = {"clip_frames": 1024, "window_rate": 102.4}  # no tensor shows it: PUBLISHED_FRAMES images of 10 s divide 1024 frames
PUBLISHED_FRAMES = 16


def _kind(tensors: Mapping[str, np.ndarray], *, of_pairs: bool) -> str:
    """Finds the kind of model by its head: one without blocks over its pairs has the head of a CAV-MAE classifier."""
    if not (found := [kind for name, kind in HEADS.items() if name in tensors]):
        return "sync" if of_pairs else "cavmae"
    return "sync_classifier" if of_pairs else found[0]


def _pairs(tensors: Mapping[str, np.ndarray], width: int) -> dict[str, Any]:
    """Finds the fields of ModelConfig that only models of pairs have."""
    depth = count_blocks(tensors, "classifier_layers")
    found: dict[str, Any] = {
        "class_token": "cls_token_a" in tensors,
        "registers": len(tensors.get(REGISTERS, ())) // 2,
        "contrast_depth": count_blocks(tensors, "constrative_head_audio"),
        **_PUBLISHED_CLIP,
    }
    if "classifier_head.weight" in tensors:
        found |= {"pair_depth": depth, "pair_pool": "late" if tensors["classifier_head.weight"].shape[1] == 2 * width else "mean"}
    elif "mlp_head.1.weight" in tensors:
        found |= {"pair_depth": 0, "pair_pool": "global"}
    return found


def count_classes(tensors: Mapping[str, Any]) -> int:
    """Returns the number of classes of a classifier's official tensors; 0: it is none."""
    return next((len(tensors[name]) for name in HEADS if name in tensors), 0)


def _head_pool(tensors: Mapping[str, np.ndarray], width: int) -> str:
    """Finds what a classifier's head pools: it has a query of its own, or is twice as wide as the tokens."""
    if "mlp_head.query" in tensors or "mlp_head_a.query" in tensors:
        return "attentive"
    given = {tensors[name].shape[1] for name in HEADS if name in tensors and name.startswith("mlp_head")}
    return "mean_std" if given == {2 * width} else "mean"


def published_heads(width: int, kind: str) -> int:
    """Returns the heads of the published model of a width; `kind` is "" or "decoder_". Raises WeightsError if there is none."""
    for size in SIZES.values():
        if getattr(size, f"{kind}width") == width:
            return getattr(size, f"{kind}heads")
    raise WeightsError(f"no published model has a {kind}width of {width}, so the number of heads must be given: {kind}heads")


def count_blocks(tensors: Mapping[str, np.ndarray], stack: str) -> int:
    """Counts the blocks of a stack, such as "blocks_a", in a state dict."""
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{stack}.")})
