"""Renames the tensors of a transformer of one modality to the names of timm and facebookresearch/mae."""

import re
from collections.abc import Mapping

import numpy as np

from avmae_jax.errors import require_none

Tensors = Mapping[str, np.ndarray]
Rules = list[tuple[str, str]]  # (regular expression, replacement), applied one after the other

TRANSFORMERS_PREFIXES = ("vit.", "audio_spectrogram_transformer.")  # of whole models; how their names begin in the transformers library
# transformers -> timm. Version 5 of that library has other names in memory than any version writes to files; both are here.
_TRANSFORMERS: Rules = [
    (r"^(vit|audio_spectrogram_transformer)\.", ""),
    (r"^decoder\.(decoder_layers|decoder_encoder\.layer)\.", "decoder_blocks."),
    (r"^decoder\.(?=decoder_|mask_token)", ""),
    (r"^(layers|encoder\.layer)\.", "blocks."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.layernorm\.", "mlp_head.0."),
    (r"^classifier\.dense\.", "mlp_head.1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(q_proj|attention\.query)\.", ".attn.q."),
    (r"\.attention\.(k_proj|attention\.key)\.", ".attn.k."),
    (r"\.attention\.(v_proj|attention\.value)\.", ".attn.v."),
    (r"\.attention\.(o_proj|output\.dense)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
]
# the original AST wraps timm's model -> timm
_AST: Rules = [(r"^v\.", "")]


def rename(name: str, rules: Rules) -> str:
    """Applies every rule to a name, one after the other."""
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def canonical(tensors: Tensors) -> dict[str, np.ndarray]:
    """Returns tensors under their names in timm and facebookresearch/mae, with queries, keys and values in one tensor.

    Args:
      tensors: name -> array, under those names, the original AST's or the transformers library's.

    Raises:
      WeightsError: if two tensors get the same name.
    """
    renamed: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = rename(name, _AST + _TRANSFORMERS)
        require_none([f"twice: {name} and another are both {short}"] if short in renamed else [])
        renamed[short] = tensor
    for name in list(renamed):
        if layer := re.fullmatch(r"(.+\.attn)\.q\.(weight|bias)", name):
            parts = [f"{layer[1]}.{part}.{layer[2]}" for part in "qkv"]
            if len({renamed[part].shape if part in renamed else None for part in parts}) == 1:
                renamed[f"{layer[1]}.qkv.{layer[2]}"] = np.concatenate([renamed.pop(part) for part in parts])
    return renamed
