"""The transformer block that all models here are made of.

A block has one pair of LayerNorms for each *stream* that goes through it, and one attention and MLP for all of them. Blocks of a
single stream have the stream "main" only; joint blocks also have "audio" and "image" (Gong et al., arXiv 2210.07839, section 2.3).

Parameters are float32; matrix products run in the module's `dtype`; norms and softmax in float32.

Axis letters: B batch, L tokens, D width, N heads.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.attention import attention

MAIN = "main"
ALL_STREAMS = (MAIN, "audio", "image")

_xavier = nnx.initializers.xavier_uniform()
_zeros = nnx.initializers.zeros_init()
token_init = nnx.initializers.normal(0.02)  # of tokens and modality embeddings


class Stage(NamedTuple):
    """A run of a stack of blocks in a model's pass."""

    blocks: int
    tokens: int  # of one example
    width: int  # D


class Position(nnx.Param):
    """Positions of the patches, float32[L, D]: a parameter that pretraining leaves as it is unless the config says otherwise."""


def linear(in_width: int, out_width: int, dtype: jnp.dtype, rngs: nnx.Rngs, bias_init: nnx.Initializer = _zeros) -> nnx.Linear:
    """A linear layer with Xavier-uniform kernel and, unless said otherwise, zero bias."""
    return nnx.Linear(in_width, out_width, kernel_init=_xavier, bias_init=bias_init, dtype=dtype, dot_general=project, rngs=rngs)


def project(tokens: jax.Array, kernel: jax.Array, dimension_numbers: Any, **_: Any) -> jax.Array:
    """Tokens times a kernel, as flax's linear layers ask for it: the last axes of the one with the first axes of the other.

    The same numbers as `jax.lax.dot_general`, with another order in the gradient of the kernel: tokens first, cotangent second. After
    jax's own order XLA's CPU backend transposes the cotangent, and for that computes the chain of residual sums behind it anew in each
    layer, which was 40 % of a step of the base model.
    """
    (contracted, _), batched = dimension_numbers
    axes = len(contracted)
    if batched != ((), ()) or tuple(contracted) != tuple(range(tokens.ndim - axes, tokens.ndim)):
        raise ValueError(f"project contracts the last axes of tokens with the first of a kernel, not {dimension_numbers}")
    leading = tokens.shape[: tokens.ndim - axes]
    rows = tokens.reshape(-1, *tokens.shape[tokens.ndim - axes :])
    product: jax.Array = _project(rows, kernel, axes)
    return product.reshape(*leading, *kernel.shape[axes:])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _project(rows: jax.Array, kernel: jax.Array, axes: int) -> jax.Array:
    """[R, *inner] times [*inner, *outer], with as many inner `axes`: [R, *outer]."""
    return _contract(rows, kernel, range(1, rows.ndim), range(axes))


def _project_forward(rows: jax.Array, kernel: jax.Array, axes: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _project(rows, kernel, axes), (rows, kernel)


def _project_backward(axes: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, kernel = saved
    of_rows = _contract(cotangent, kernel, range(1, cotangent.ndim), range(axes, kernel.ndim))
    return of_rows, _contract(rows, cotangent, (0,), (0,))


_project.defvjp(_project_forward, _project_backward)


def _contract(left: jax.Array, right: jax.Array, left_axes: Sequence[int], right_axes: Sequence[int]) -> jax.Array:
    return jax.lax.dot_general(left, right, ((tuple(left_axes), tuple(right_axes)), ((), ())))


def layer_norm(width: int, eps: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm in float32; the variance is taken in two passes, as torch does."""
    return nnx.LayerNorm(width, epsilon=eps, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)


def stream_norms(width: int, streams: Sequence[str], eps: float, rngs: nnx.Rngs) -> nnx.Dict:
    """A LayerNorm for each stream."""
    return nnx.Dict({stream: layer_norm(width, eps, rngs) for stream in streams})


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU; jax.nn.gelu takes the erfc of a negated argument, which costs twice as much on a CPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection: [B, L, D] -> [B, L, D]."""

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        # (q/k/v, head, channel) is the order of the fused matrix of the original; separate axes let heads be sharded.
        projected = (3, heads, width // heads)
        self.qkv = nnx.LinearGeneral(width, projected, kernel_init=_xavier, dtype=dtype, dot_general=project, rngs=rngs)
        self.proj = nnx.LinearGeneral(projected[1:], width, axis=(-2, -1), kernel_init=_xavier, dtype=dtype, dot_general=project, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Attention of all tokens to all tokens."""
        query, key, value = jnp.moveaxis(self.qkv(tokens), 2, 0)
        return self.proj(attention(query, key, value))


class Mlp(nnx.Module):
    """Two linear layers with an exact (erf) GELU between them: [B, L, D] -> [B, L, D]."""

    def __init__(self, width: int, hidden_width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.fc1 = linear(width, hidden_width, dtype, rngs)
        self.fc2 = linear(hidden_width, width, dtype, rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Applies to each token alone."""
        return self.fc2(gelu(self.fc1(tokens)))


class Block(nnx.Module):
    """Pre-norm transformer block: [B, L, D] -> [B, L, D]."""

    def __init__(self, config: ModelConfig, width: int, heads: int, *, streams: Sequence[str] = (MAIN,), rngs: nnx.Rngs):
        dtype = jnp.dtype(config.compute_dtype)
        self.remat = config.remat
        self.norm1 = stream_norms(width, streams, config.norm_eps, rngs)
        self.attn = Attention(width, heads, dtype, rngs=rngs)
        self.norm2 = stream_norms(width, streams, config.norm_eps, rngs)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array, stream: str = MAIN) -> jax.Array:
        """Runs the block with the norms of one stream; with `model.remat` the backward pass computes its inside again."""
        run = nnx.remat(Block._run, static_argnums=2) if self.remat else Block._run
        return run(self, tokens, stream)

    def _run(self, tokens: jax.Array, stream: str) -> jax.Array:
        tokens = tokens + self.attn(self.norm1[stream](tokens))
        return tokens + self.mlp(self.norm2[stream](tokens))
