"""Defines the transformer block of which all models here are made.

A block has a pair of LayerNorms for each *stream* that runs through it, and one attention and MLP for all of them. Blocks of a
single stream have the stream "main" only; joint blocks also have "audio" and "image" (Gong et al., arXiv 2210.07839, section 2.3).

Parameters are float32; matrix products run in the module's `dtype`; norms and softmax in float32.

Axis letters: B batch, L tokens, D width, N heads.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avmae_jax.config import ModelConfig
from avmae_jax.models.attention import attention
from avmae_jax.models.projection import computed_once, norm_and_project, project, project_gelu
from avmae_jax.models.rows import RowKey, draw, fold_in

MAIN = "main"
ALL_STREAMS = (MAIN, "audio", "image")

_xavier = nnx.initializers.xavier_uniform()
_zeros = nnx.initializers.zeros_init()
token_init = nnx.initializers.normal(0.02)  # of tokens and modality embeddings


class Stage(NamedTuple):
    """Describes one run of a stack of blocks in a model's pass."""

    blocks: int
    tokens: int  # of one row
    width: int  # D
    rows: int = 1  # of one clip: its pairs, where a model takes several
    gradient: bool = True  # False: nothing is kept for a backward pass


class Position(nnx.Param):
    """Holds the positions of the patches, float32[L, D]: a parameter that pretraining leaves as it is unless the config says otherwise."""


def linear(
    in_width: int,
    out_width: int,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
    *,
    bias_init: nnx.Initializer = _zeros,
    product: Callable[..., jax.Array] = project,
) -> nnx.Linear:
    """Makes a linear layer with Xavier-uniform kernel and, unless `bias_init` is given, a bias of zero; `product` multiplies."""
    return nnx.Linear(in_width, out_width, kernel_init=_xavier, bias_init=bias_init, dtype=dtype, dot_general=product, rngs=rngs)


def layer_norm(width: int, eps: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Makes a LayerNorm that computes in float32, the variance in two passes as torch does."""
    return nnx.LayerNorm(width, epsilon=eps, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)


def stream_norms(width: int, streams: Sequence[str], eps: float, rngs: nnx.Rngs) -> nnx.Dict:
    """Makes a LayerNorm for each stream."""
    return nnx.Dict({stream: layer_norm(width, eps, rngs) for stream in streams})


def after_norm(
    tokens: Float[Array, "*leading D"], norm: nnx.LayerNorm | None, layer: nnx.Linear | nnx.LinearGeneral
) -> Float[Array, "..."]:
    """Applies a norm, if one is given, and a linear layer."""
    if norm is None:
        return layer(tokens)
    given = norm.scale, norm.bias, layer.kernel, layer.bias
    params = [each[...] for each in given if each is not None]  # for the type checker: all layers here have all four
    return norm_and_project(tokens, *params, epsilon=norm.epsilon, dtype=layer.dtype)


def branch_key(key: RowKey | None, number: int) -> RowKey | None:
    """Derives the key of one part of a pass in training; None, which means evaluation, stays None."""
    return None if key is None else fold_in(key, number)


def drop_path(branch: Float[Array, "B L D"], rate: float, key: RowKey | None) -> Float[Array, "B L D"]:
    """Leaves a residual branch out for a share of the examples, and scales it up for the others: Huang et al., arXiv 1603.09382.

    Args:
      branch: what a block would add to its tokens.
      rate: the share, in [0, 1]; 0 returns the branch as it is.
      key: decides which examples; None: evaluation, which leaves nothing out.
    """
    if key is None or not rate:
        return branch
    kept = draw(lambda key, shape: jax.random.bernoulli(key, 1 - rate, shape), key, (len(branch), 1, 1))
    return jnp.where(kept, branch / max(1 - rate, 1e-6), 0)


def dropout(values: Float[Array, "*shape"], rate: float, key: RowKey | None) -> Float[Array, "*shape"]:
    """Sets a share of the values to 0 and scales the others up; with the rate 0 or without a key it returns them as they are."""
    if key is None or not rate:
        return values
    kept = draw(lambda key, shape: jax.random.bernoulli(key, 1 - rate, shape), key, values.shape)
    return jnp.where(kept, values / max(1 - rate, 1e-6), 0)


class Attention(nnx.Module):
    """Computes multi-head self-attention with one fused projection."""

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        # (q/k/v, head, channel) is the order of the fused matrix of the original; separate axes let heads be sharded.
        projected = (3, heads, width // heads)
        self.qkv = nnx.LinearGeneral(width, projected, kernel_init=_xavier, dtype=dtype, dot_general=project, rngs=rngs)
        self.proj = nnx.LinearGeneral(projected[1:], width, axis=(-2, -1), kernel_init=_xavier, dtype=dtype, dot_general=project, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B L D"], norm: nnx.LayerNorm | None = None) -> Float[Array, "B L D"]:
        """Computes the attention of every token to every token, after a norm if one is given."""
        projected = after_norm(tokens, norm, self.qkv)
        return self.proj(attention(*(projected[:, :, part] for part in range(3))))


class Mlp(nnx.Module):
    """Applies two linear layers with an exact (erf) GELU between them, which belongs to the second one's product."""

    def __init__(self, width: int, hidden_width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.fc1 = linear(width, hidden_width, dtype, rngs)
        self.fc2 = linear(hidden_width, width, dtype, rngs, product=project_gelu)

    def __call__(self, tokens: Float[Array, "*leading D"], norm: nnx.LayerNorm | None = None) -> Float[Array, "*leading D"]:
        """Transforms each token alone, after a norm if one is given."""
        return self.fc2(after_norm(tokens, norm, self.fc1))


class Block(nnx.Module):
    """Implements a pre-norm transformer block; in training each of its two branches is left out for a share `drop` of the examples."""

    def __init__(self, config: ModelConfig, width: int, heads: int, *, streams: Sequence[str] = (MAIN,), drop: float = 0.0, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.product_dtype)
        self.remat, self.drop = config.remat, drop
        self.norm1 = stream_norms(width, streams, config.norm_eps, rngs)
        self.attn = Attention(width, heads, dtype, rngs=rngs)
        self.norm2 = stream_norms(width, streams, config.norm_eps, rngs)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B L D"], stream: str = MAIN, key: RowKey | None = None) -> Float[Array, "B L D"]:
        """Runs the block with the norms of one stream; with `model.remat` the backward pass recomputes its inside.

        Args:
          tokens: of the stream.
          stream: whose norms are used.
          key: decides in training which examples skip a branch; None: evaluation.
        """
        graph, params = nnx.split((self.norm1[stream], self.attn, self.norm2[stream], self.mlp))
        run = jax.checkpoint(_run_block, static_argnums=(0, 4)) if self.remat else _run_block
        drop = 0.0 if key is None else self.drop  # of no effect in evaluation, where blocks that differ in it alone share a trace
        return run(graph, params, tokens, key, drop)


@partial(jax.jit, static_argnums=(0, 4))  # traced once for all blocks of a shape
def _run_block(graph: nnx.GraphDef, params: nnx.State, tokens: jax.Array, key: RowKey | None, drop: float) -> jax.Array:
    """Runs the two branches of a block."""
    norm1, attn, norm2, mlp = nnx.merge(graph, params)
    first, second = (branch_key(key, number) if drop else None for number in range(2))
    for norm, layer, own in ((norm1, attn, first), (norm2, mlp, second)):
        branch = computed_once(layer(tokens, norm))
        tokens = computed_once(tokens + drop_path(branch, drop, own))
    return tokens


def drop_rate(config: ModelConfig, block: int) -> float:
    """Returns the rate of drop-path of an encoder block, counted from 0 over separate and joint ones: it rises evenly to the config's."""
    return config.drop_path * (block + 1) / config.shape.depth


def run_blocks(blocks: Sequence[Block], tokens: Float[Array, "B L D"], stream: str = MAIN, key: RowKey | None = None) -> jax.Array:
    """Runs a stack of blocks on one sequence; each block has a key of its own in training."""
    for number, block in enumerate(blocks):
        tokens = block(tokens, stream, branch_key(key, number))
    return tokens
