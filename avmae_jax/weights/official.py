"""Converts the official state dict to this project's parameters and back.

The name map is the tables below, read in either direction. The tensors need one rule: a torch linear weight [out, in] is transposed, a
convolution [D, C, P, P] becomes [P, P, C, D], and the result has the shape of its target (heads as an axis of their own, patches
flattened). The rule is linear, so that gradients are converted like weights, and exact, so that there and back is the same to the last bit.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from avmae_jax.config import SIZES, ModelConfig
from avmae_jax.errors import WeightsError, require_none, some
from avmae_jax.models.patches import find_rows

_STREAMS = {"": "main", "_a": "audio", "_v": "image"}
_MODALITIES = {"a": "audio", "v": "image"}
# official name -> ours, without the last part (weight, bias)
_STACKS = {
    "blocks_a": "encoder.audio.blocks",
    "blocks_v": "encoder.image.blocks",
    "blocks_u": "encoder.blocks",
    "decoder_blocks": "decoder.blocks",
}
_IN_BLOCK = {name: name for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")} | {
    f"{norm}{mark}": f"{norm}.{stream}" for norm in ("norm1", "norm2") for mark, stream in _STREAMS.items()
}
_LAYERS = {
    **{f"patch_embed_{m}.proj": f"encoder.{modality}.patch_embed" for m, modality in _MODALITIES.items()},
    **{f"norm{mark}": f"encoder.norm.{stream}" for mark, stream in _STREAMS.items()},
    "decoder_embed": "decoder.embed",
    "decoder_norm": "decoder.norm.main",
    **{f"decoder_pred_{m}": f"decoder.ends.{modality}.head" for m, modality in _MODALITIES.items()},
    "mlp_head.0": "head.norm",
    "mlp_head.1": "head.linear",
    # ours: the original has one head for both modalities, and no statistics
    **{f"mlp_head_{m}.0": f"head.{modality}.norm" for m, modality in _MODALITIES.items()},
    **{f"mlp_head_{m}.1": f"head.{modality}.linear" for m, modality in _MODALITIES.items()},
    **{f"mlp_head_{m}.statistics": f"head.{modality}.statistics" for m, modality in _MODALITIES.items()},
}
_TENSORS = {
    "mask_token": "decoder.mask_token",
    "mlp_head.query": "head.query",  # ours: the original's head has no attention
    **{f"mlp_head_{m}.{part}": f"head.{own}.{part}" for m, own in _MODALITIES.items() for part in ("query", "centre", "spread")},
    **{f"pos_embed_{m}": f"encoder.{modality}.positions" for m, modality in _MODALITIES.items()},
    **{f"modality_{m}": f"encoder.{modality}.modality" for m, modality in _MODALITIES.items()},
    **{f"decoder_pos_embed_{m}": f"decoder.ends.{modality}.positions" for m, modality in _MODALITIES.items()},
    **{f"decoder_modality_{m}": f"decoder.ends.{modality}.modality" for m, modality in _MODALITIES.items()},
}
_OURS_OF = _STACKS | _IN_BLOCK | _LAYERS
_OFFICIAL_OF = {ours: name for name, ours in (_OURS_OF | _TENSORS).items()}
# Every official block carries three norm pairs; outside the joint blocks only the first is used.
_UNUSED = re.compile(r"(blocks_[av]|decoder_blocks)\.\d+\.norm[12]_[av]\.(weight|bias)")


def is_official(tensors: Iterable[str]) -> bool:
    """Returns True for the names of a CAV-MAE, pretrained or fine-tuned; no other transformer has a patch embedding for each modality."""
    return any("patch_embed_a." in name or "patch_embed_v." in name for name in tensors)


def is_unused(name: str) -> bool:
    """Returns True for an official norm that is stored and never used."""
    return _UNUSED.fullmatch(name) is not None


def path_of(name: str) -> str | None:
    """Maps an official name to our dotted path: "blocks_u.0.norm1_a.weight" -> "encoder.blocks.0.norm1.audio.scale"; None if unknown."""
    layer, _, kind = name.rpartition(".")
    ours = _map_layer(layer, _OURS_OF)
    if name in _TENSORS or not ours or kind not in ("weight", "bias"):
        return _TENSORS.get(name)
    weight = "scale" if re.search(r"\bnorm[12]?(\.(main|audio|image))?$", ours) else "kernel"
    return f"{ours}.{kind if kind == 'bias' else weight}"


def name_of(path: str) -> str | None:
    """Maps a dotted path to its official name, the inverse of path_of; None if the original has no such tensor."""
    layer, _, kind = path.rpartition(".")
    name = _map_layer(layer, _OFFICIAL_OF)
    return f"{name}.{'bias' if kind == 'bias' else 'weight'}" if name else _OFFICIAL_OF.get(path)


def _map_layer(layer: str, table: Mapping[str, str]) -> str | None:
    """Maps the name of a layer, alone or inside a block of a stack; None if the table lacks it."""
    block = re.fullmatch(r"(.*blocks\w*)\.(\d+)\.(.+)", layer)
    if block is None:
        return table.get(layer)
    stack, inside = table.get(block[1]), table.get(block[3])
    return f"{stack}.{block[2]}.{inside}" if stack and inside else None


def convert_tensor(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Converts an official weight or gradient to the layout and shape of ours; raises ValueError if the sizes differ."""
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return tensor.reshape(shape)


def official_tensor(path: str, tensor: np.ndarray) -> np.ndarray:
    """Converts a parameter to the official layout, the inverse of convert_tensor."""
    shape = _official_shape(path, tensor.shape)
    if len(shape) == 4:
        return tensor.reshape(*shape[2:], shape[1], shape[0]).transpose(3, 2, 0, 1)
    return tensor.reshape(shape[::-1]).T if len(shape) == 2 else tensor.reshape(shape)


def from_official(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Converts official tensors by name to ours by dotted path; the norms that are never used are left out.

    Args:
      tensors: official name -> array.
      shapes: dotted path -> shape, all that the result must have.

    Raises:
      WeightsError: listing every missing, unexpected and misshapen tensor.
    """
    converted, problems = {}, []
    for name, tensor in tensors.items():
        path = path_of(name)
        if is_unused(name):
            continue
        if path is None or path not in shapes:
            problems.append(f"unexpected: {name} {tensor.shape}")
        elif tensor.shape != (wanted := _official_shape(path, shapes[path])):
            problems.append(f"misshapen: {name} is {tensor.shape}, the model's is {wanted}")
        else:
            converted[path] = convert_tensor(tensor, shapes[path])
    missing = [path for path in shapes if name_of(path) not in tensors]
    require_none([f"missing: {name_of(path) or f'{path}, which the original does not have'}" for path in missing] + problems)
    return converted


def to_official(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts ours by dotted path to official tensors by name; adds the norms that are never used, as they are initialised.

    Raises:
      WeightsError: listing every parameter that the original has no place for.
    """
    names = {path: name_of(path) for path in params}
    require_none([f"not in the original: {path}" for path, name in names.items() if name is None])
    official: dict[str, np.ndarray] = {}
    for path, tensor in params.items():
        name = str(names[path])
        official[name] = np.ascontiguousarray(official_tensor(path, tensor))
        layer, _, kind = name.rpartition(".")
        for mark in ("_a", "_v"):
            if is_unused(unused := f"{layer}{mark}.{kind}"):
                official[unused] = np.full_like(tensor, kind == "weight")
    return official


def _official_shape(path: str, ours: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a parameter's official tensor; a comparison of sizes alone would let a transposed one through."""
    size = math.prod(ours)
    if path.endswith("patch_embed.kernel"):
        channels = 3 if ".image." in path else 1
        patch = math.isqrt(ours[0] // channels)
        return (ours[1], channels, patch, patch)
    if path.endswith(".kernel"):
        outputs = math.prod(ours[1:]) if path.endswith(".qkv.kernel") else ours[-1]
        return (outputs, size // outputs)
    if path.endswith((".positions", ".modality", ".mask_token")):
        return (1,) * (3 - len(ours)) + ours
    return (size,)


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
    decoder: dict[str, Any] = {}
    if "decoder_embed.weight" in tensors:
        decoder_width = tensors["decoder_embed.weight"].shape[0]
        decoder = {
            "decoder_width": decoder_width,
            "decoder_depth": count_blocks(tensors, "decoder_blocks"),
            "decoder_heads": decoder_heads or published_heads(decoder_width, "decoder_"),
        }
    return ModelConfig(
        kind=next((kind for name, kind in HEADS.items() if name in tensors), "cavmae"),
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
        **decoder,
    )


# the matrix [C, ...] by which a classifier's kind is known
HEADS = {"mlp_head.1.weight": "cavmae_classifier", "mlp_head_a.1.weight": "late_classifier"}


def count_classes(tensors: Mapping[str, Any]) -> int:
    """Returns the number of classes of a classifier's official tensors; 0: it is none."""
    return next((len(tensors[name]) for name in HEADS if name in tensors), 0)


def _head_pool(tensors: Mapping[str, np.ndarray], width: int) -> str:
    """Finds what a classifier's head pools: it has a query of its own, or is twice as wide as the tokens."""
    if "mlp_head.query" in tensors or "mlp_head_a.query" in tensors:
        return "attentive"
    given = {tensors[name].shape[1] for name in HEADS if name in tensors}
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
