"""Reduces a sequence of tokens to one vector.

Axis letters: B batch, L tokens, D width.
"""

import jax
import jax.numpy as jnp


def unit_length(rows: jax.Array) -> jax.Array:
    """Divides rows by their L2 norm, as torch.nn.functional.normalize does: float[..., D] -> float32[..., D]."""
    rows = rows.astype(jnp.float32)
    return rows * jax.lax.rsqrt(jnp.maximum(jnp.square(rows).sum(axis=-1, keepdims=True), 1e-24))


def embedding(tokens: jax.Array) -> jax.Array:
    """Returns the mean token at length 1, the vector that the contrastive loss compares: float[B, L, D] -> float32[B, D]."""
    return unit_length(tokens.mean(axis=1, dtype=jnp.float32))
