"""Converts the parameters of an MAE or an AST to the tensors of facebookresearch/mae and of the original AST: the inverse of vit.pull."""

import math
from collections.abc import Mapping

import numpy as np
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.errors import WeightsError
from avmae_jax.weights.vit_sources import DECODER_POSITIONS, POSITIONS, TOKENS, describe_target, name_of

_AST = "v."  # the original AST wraps timm's model, whose names begin so, and adds a head


def to_vit(config: ModelConfig, model: nnx.Module, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts ours by dotted path to official tensors by name.

    The class and the distillation token are stored with their positions added, as the model uses them, and these positions as -0.0: adding
    it changes no bit of a token, while adding 0.0 would make 0.0 of -0.0.

    Args:
      config: of an MAE or an AST.
      model: of that config; only its shapes are used, so the result of nnx.eval_shape will do.
      params: dotted path -> array.
    """
    target = describe_target(config, model)
    tokens = params.get("tower.prefix", np.zeros((0, config.shape.width), np.float32))
    if len(tokens) > len(TOKENS):
        raise WeightsError(f"has {len(tokens)} tokens of no patch; {' and '.join(TOKENS)} are all that the original has names for")
    named = {name: token[None, None] for name, token in zip(TOKENS, tokens, strict=False)}
    for path, value in params.items():
        if path != "tower.prefix":
            name = name_of(path, target)
            named[name] = (
                _with_tokens(value, len(tokens)) if name in (POSITIONS, DECODER_POSITIONS) else _official(path, value, config.patch)
            )
    prefix = _AST if config.kind == "ast" else ""
    return {(name if name.startswith("mlp_head.") else prefix + name): np.ascontiguousarray(value) for name, value in named.items()}


def _with_tokens(positions: np.ndarray, tokens: int) -> np.ndarray:
    """Returns the positions [1, tokens + L, D] of a whole sequence, of those of its patches, [L, D]."""
    return np.concatenate([np.full((tokens, positions.shape[1]), -0.0, positions.dtype), positions])[None]


def _official(path: str, value: np.ndarray, patch: int) -> np.ndarray:
    """Converts a parameter to torch's layout, the inverse of official.convert_tensor."""
    if path.endswith("patch_embed.kernel"):
        channels = len(value) // patch**2
        return value.reshape(patch, patch, channels, -1).transpose(3, 2, 0, 1)
    if path.endswith("mask_token"):
        return value[None, None]
    if not path.endswith(".kernel"):
        return value.reshape(-1)
    outputs = math.prod(value.shape[1:]) if path.endswith(".qkv.kernel") else value.shape[-1]
    return value.reshape(-1, outputs).T
