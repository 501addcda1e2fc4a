"""Turns tokens into one vector per clip.

Axis letters: B batch, L tokens, D width.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from avmae_jax.models.tokens import GLOBAL, PATCHES, Tokens, join, of_part

Pooling = Literal["mean", "global"]


def pool(tokens: Tokens, how: Pooling = "mean") -> Float32[Array, "B D"]:
    """Computes the mean over the patch tokens ("mean") or over the tokens of no patch ("global"), every token counting equally.

    Args:
      tokens: segments of one modality or several, all of one D.
      how: which tokens count.

    Raises:
      ValueError: if there are no such tokens.
    """
    counted = of_part(tokens, PATCHES if how == "mean" else GLOBAL)
    if not counted:
        raise ValueError(f"pooling {how!r} finds none of its tokens among {', '.join(tokens)}; give them or choose the other pooling")
    return join(counted).mean(axis=1, dtype=jnp.float32)


def attention_weights(sequence: Float32[Array, "B L D"], query: Float32[Array, " D"]) -> Float32[Array, "B L"]:
    """Computes how much each token counts for one learned query: the softmax over the tokens of their products with it."""
    return jax.nn.softmax(jnp.einsum("bld,d->bl", sequence, query, precision="highest") / math.sqrt(sequence.shape[-1]), axis=-1)


def deviation_summands(sequence: Float32[Array, "B L D"]) -> Float32[Array, "B L D"]:
    """Computes what each token adds to the standard deviation over the tokens: its squared distance from their mean over L times it.

    Over no distance at all the deviation is 0.001, so that it has a gradient there.
    """
    squares = jnp.square(sequence - sequence.mean(axis=1, keepdims=True)) + 1e-6
    return squares / (jnp.sqrt(squares.mean(axis=1, keepdims=True)) * sequence.shape[1])


def unit_length(rows: Float[Array, "*leading D"]) -> Float32[Array, "*leading D"]:
    """Divides rows by their L2 norm, as torch.nn.functional.normalize does: a row of length 0 stays 0."""
    rows = rows.astype(jnp.float32)
    return rows * jax.lax.rsqrt(jnp.maximum(jnp.square(rows).sum(axis=-1, keepdims=True), 1e-24))
