"""Turns tokens into one vector per clip.

Axis letters: B batch, L tokens, D width.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from avmae_jax.models.tokens import GLOBAL, PATCHES, join, of_part

Pooling = Literal["mean", "global"]


def pool(tokens: Mapping[str, Float[Array, "B _ D"]], how: Pooling = "mean") -> Float32[Array, "B D"]:
    """Computes the mean over the patch tokens ("mean") or over the tokens of no patch ("global"), every token counting equally.

    Args:
      tokens: segments [B, L, D], of one modality or several.
      how: which tokens count.

    Returns:
      float32[B, D].

    Raises:
      ValueError: if there are no such tokens.
    """
    counted = of_part(tokens, PATCHES if how == "mean" else GLOBAL)
    if not counted:
        raise ValueError(f"pooling {how!r} needs tokens that these are not: {', '.join(tokens)}")
    return join(counted).mean(axis=1, dtype=jnp.float32)


def unit_length(rows: Float[Array, "*rows D"]) -> Float32[Array, "*rows D"]:
    """Divides rows by their L2 norm, as torch.nn.functional.normalize: float[..., D] -> float32[..., D]."""
    rows = rows.astype(jnp.float32)
    return rows * jax.lax.rsqrt(jnp.maximum(jnp.square(rows).sum(axis=-1, keepdims=True), 1e-24))
