"""Compares the config that is stored beside tensors with the tensors, before a model of its sizes takes any memory."""

import math
from collections.abc import Mapping
from typing import Any

from avmae_jax.config import ModelConfig
from avmae_jax.errors import WeightsError
from avmae_jax.models.patches import grid_of
from avmae_jax.models.registry import kind_of
from avmae_jax.weights import vit_config
from avmae_jax.weights.official import is_official
from avmae_jax.weights.official_sizes import HEADS, count_blocks, count_classes, infer_sizes
from avmae_jax.weights.tensor_files import Tensors
from avmae_jax.weights.vit_names import canonical

# Numbers of axes of the tensors that give the sizes.
_RANKS = {"patch_embed_v.proj.weight": 4, "blocks_u.0.mlp.fc1.weight": 2, "decoder_embed.weight": 2}
_RANKS |= {"pos_embed_a": 3, "pos_embed_v": 3, **dict.fromkeys(HEADS, 2)}
# Fields of ModelConfig, apart from those of Size, that the tensors of a CAV-MAE show.
SIZED = (
    *("kind", "modality", "joint_depth", "audio_frames", "mel_bins", "image_size", "patch", "head_pool"),
    *("class_token", "registers", "contrast_depth", "pair_depth"),
)
_DECODER = ("decoder_depth", "decoder_width", "decoder_heads")


def require_sizes(config: ModelConfig, tensors: Tensors) -> None:
    """Raises WeightsError unless a stored config has the sizes of the tensors; names field, tensor and both shapes, all in one line."""
    official = is_official(tensors)
    if official != (kind_of(config).names == "cavmae"):
        raise WeightsError(f"model.kind is {config.kind}, by its tensors it is {'a CAV-MAE' if official else 'an MAE or an AST'}")
    if official:
        require_ranks(tensors)
        lines = _of_cavmae(config, tensors)
    else:
        named = canonical(tensors)
        if missing := [name for name in vit_config.NEEDED if name not in named]:
            raise WeightsError(f"these are no weights of an MAE or an AST: {', '.join(missing)} missing")
        require_ranks(named, vit_config.RANKS)
        lines = _of_vit(config, named)
    if lines:
        raise WeightsError(f"the config that it stores is another model's: {'; '.join(lines)}")


def require_ranks(tensors: Tensors, ranks: Mapping[str, int] = _RANKS) -> None:
    """Raises WeightsError if a tensor from which sizes are read is empty, or has another number of axes."""
    if odd := [name for name, rank in ranks.items() if name in tensors and (tensors[name].ndim != rank or not tensors[name].size)]:
        raise WeightsError(
            f"these are no weights of a CAV-MAE, an MAE or an AST: {', '.join(f'{name} {tensors[name].shape}' for name in odd)}"
        )


def classes_of(tensors: Tensors) -> int:
    """Returns the number of classes of a classifier's tensors; 0: it is none."""
    if is_official(tensors):
        return count_classes(tensors)
    return len(canonical(tensors).get("mlp_head.1.weight", ()))


def _of_cavmae(config: ModelConfig, tensors: Tensors) -> list[str]:
    shape, patch, kernel = config.shape, config.patch, "patch_embed_v.proj.weight"
    found = infer_sizes(tensors, heads=shape.heads, decoder_heads=shape.decoder_heads, mel_bins=config.mel_bins)
    stored, has = (sizes.shape._asdict() | {name: getattr(sizes, name) for name in SIZED} for sizes in (config, found))
    without_decoder = () if "decoder_embed.weight" in tensors else _DECODER
    wanted = {
        kernel: (shape.width, 3, patch, patch),
        "pos_embed_a": (1, math.prod(config.grid("audio")), shape.width),
        "pos_embed_v": (1, math.prod(config.grid("image")), shape.width),
        "decoder_embed.weight": (shape.decoder_width, shape.width),
    }
    shown = {"width": kernel, "patch": kernel, "audio_frames": "pos_embed_a", "mel_bins": "pos_embed_a", "image_size": "pos_embed_v"}
    shown["decoder_width"] = "decoder_embed.weight"
    return [
        f"model.{name} is {stored[name]}, by its tensors {has[name]}{_shapes(shown.get(name, ''), wanted, tensors)}"
        for name in stored
        if stored[name] != has[name] and name not in without_decoder
    ] + _of_mlp(config, tensors, "blocks_u.0.mlp.fc1.weight")


def _of_vit(config: ModelConfig, tensors: Tensors) -> list[str]:
    shape, patch, spec, kernel = config.shape, config.patch, kind_of(config), "patch_embed.proj.weight"
    width, channels, found_patch, _ = tensors[kernel].shape
    audio = channels == 1
    found: dict[str, Any] = {
        "kind": "ast" if "mlp_head.1.weight" in tensors else "mae",
        "modality": "audio" if audio else "image",
        "width": width,
        "patch": found_patch,
        "depth": count_blocks(tensors, "blocks"),
    }
    if config.kind == "mae":
        found |= {"class_token": "cls_token" in tensors, "decoder_depth": count_blocks(tensors, "decoder_blocks")}
        found |= {"decoder_width": len(tensors["decoder_embed.weight"])} if "decoder_embed.weight" in tensors else {}
    stored = {name: getattr(shape if name in shape._fields else config, name) for name in found}
    tokens = sum(name in tensors for name in ("cls_token", "dist_token"))
    grid = grid_of(*config.input_shape("audio" if audio else "image")[:2], patch, spec.stride)
    wanted = {
        kernel: (shape.width, channels, patch, patch),
        "decoder_embed.weight": (shape.decoder_width, shape.width),
        "pos_embed": (1, tokens + math.prod(grid), shape.width),
    }
    shown = {"width": kernel, "patch": kernel, "decoder_width": "decoder_embed.weight"}
    lines = [
        f"model.{name} is {stored[name]}, by its tensors {found[name]}{_shapes(shown.get(name, ''), wanted, tensors)}"
        for name in found
        if stored[name] != found[name]
    ]
    if not lines and tensors["pos_embed"].shape != wanted["pos_embed"]:
        field = f"model.audio_frames is {config.audio_frames} and model.mel_bins {config.mel_bins}"
        field = field if audio else f"model.image_size is {config.image_size}"
        lines.append(f"{field}, by its tensors another{_shapes('pos_embed', wanted, tensors)}")
    return lines + _of_mlp(config, tensors, "blocks.0.mlp.fc1.weight")


def _of_mlp(config: ModelConfig, tensors: Tensors, name: str) -> list[str]:
    """Compares mlp_ratio with a block's first matrix; its hidden width is rounded down."""
    hidden, width = tensors[name].shape
    if abs(config.mlp_ratio - hidden / width) * width < 1:
        return []
    return [f"model.mlp_ratio is {config.mlp_ratio}, by its tensors {hidden / width} ({name} is {(hidden, width)})"]


def _shapes(name: str, wanted: Mapping[str, tuple[int, ...]], tensors: Tensors) -> str:
    """Returns the shape that a tensor has and that it would have by the config; "" for sizes that no single tensor shows."""
    return f" ({name} is {tensors[name].shape}, expected {wanted[name]})" if name in wanted and name in tensors else ""
