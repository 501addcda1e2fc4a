"""Converts the official state dict to this project's parameters and back.

The name map is the tables below, read in either direction. The tensors need one rule: a torch linear weight [out, in] is transposed, a
convolution [D, C, P, P] becomes [P, P, C, D], and the result has the shape of its target (heads as an axis of their own, patches
flattened). The rule is linear, so that gradients are converted like weights, and exact, so that there and back is the same to the last bit.
"""

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from avmae_jax.errors import WeightsError, require_none

REGISTERS = "register_tokens"  # one tensor of both modalities, audio first; here it is treated as two of them, _a and _v
_STREAMS = {"": "main", "_a": "audio", "_v": "image"}
_MODALITIES = {"a": "audio", "v": "image"}
# official name -> ours, without the last part (weight, bias)
_STACKS = {
    "blocks_a": "encoder.audio.blocks",
    "blocks_v": "encoder.image.blocks",
    "blocks_u": "encoder.blocks",
    "decoder_blocks": "decoder.blocks",
    "constrative_head_audio": "encoder.contrast.audio",  # spelled so
    "constrative_head_visual": "encoder.contrast.image",
    "classifier_layers": "head.blocks",
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
    "classifier_norm": "head.last.norm",
    "classifier_head": "head.last.linear",
    # ours: the original has one head for both modalities, and no statistics
    **{f"mlp_head_{m}.0": f"head.{modality}.norm" for m, modality in _MODALITIES.items()},
    **{f"mlp_head_{m}.1": f"head.{modality}.linear" for m, modality in _MODALITIES.items()},
    **{f"mlp_head_{m}.statistics": f"head.{modality}.statistics" for m, modality in _MODALITIES.items()},
}
_TENSORS = {
    "mask_token": "decoder.mask_token",
    "cls_cls_token": "head.token",
    **{f"{REGISTERS}_{m}": f"encoder.{modality}.registers" for m, modality in _MODALITIES.items()},
    **{f"cls_token_{m}": f"encoder.{modality}.prefix" for m, modality in _MODALITIES.items()},
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
_UNUSED = re.compile(r"(blocks_[av]|decoder_blocks|constrative_head_(audio|visual)|classifier_layers)\.\d+\.norm[12]_[av]\.(weight|bias)")


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
    block = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", layer)
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
    tensors = split_registers(tensors)
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
    return _join_registers(official)


def split_registers(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replaces the official tensor of both modalities' registers, [2R, D], by one of each, [1, R, D].

    Raises:
      WeightsError: if there is an odd number of them.
    """
    found = dict(tensors)
    if (both := found.pop(REGISTERS, None)) is not None:
        if both.ndim != 2 or len(both) % 2:
            raise WeightsError(f"{REGISTERS} is {both.shape}; it must hold as many registers of audio as of images")
        found |= {f"{REGISTERS}_{m}": half[None] for m, half in zip(_MODALITIES, np.split(both, 2), strict=True) if len(half)}
    return found


def _join_registers(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undoes split_registers."""
    halves = [tensors[name][0] for m in _MODALITIES if (name := f"{REGISTERS}_{m}") in tensors]
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{REGISTERS}_")}
    return others | ({REGISTERS: np.concatenate(halves)} if halves else {})


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
    if path.endswith((".positions", ".modality", ".mask_token", ".prefix", ".registers", ".token")):
        return (1,) * (3 - len(ours)) + ours
    return (size,)
