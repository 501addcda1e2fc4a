"""Softmax attention that is fast and lean on the machine it runs on.

All paths compute softmax(q k^T / sqrt(d)) v with logits and softmax in float32. Which one runs follows from the backend and the dtype:

- One CPU device: a loop over two heads at a time, so that their [L, L] matrices stay in cache and are never held for all heads (128 MB
  each in the decoder at B = 4). The gradient is written by hand: it recomputes the matrix from the log-sum-exp of its rows instead of
  storing it, as in Dao et al., arXiv 2205.14135. Two heads rather than one keep XLA's batched matrix product, which is faster; eight
  leave the cache.
- CUDA with bfloat16: cuDNN's flash attention, which never holds the matrix either.
- Everything else: `jax.nn.dot_product_attention` in plain XLA. That includes several CPU devices: the partitioner cuts it along batch and
  heads without communication, whereas it would gather every head on every device before a loop over them.

Axis letters: B batch, L tokens, N heads, d channels of a head; S steps of the loop, G heads in a step, S * G = B * N.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.backend import get_backend

_HEADS_PER_STEP = 2


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention of every token to every token, without mask or dropout.

    Args:
      query: float[B, L, N, d].
      key: as query.
      value: as query.

    Returns:
      float[B, L, N, d] of the dtype of query.

    Raises:
      ValueError: if the three differ in shape or dtype.
    """
    kinds = {"query": query, "key": key, "value": value}
    if query.ndim != 4 or len({(x.shape, x.dtype) for x in kinds.values()}) > 1:
        found = ", ".join(f"{name} is {x.dtype}{list(x.shape)}" for name, x in kinds.items())
        raise ValueError(f"{found}; attention needs three arrays of one dtype and one shape [B, L, N, d]")
    backend = get_backend()
    if backend.platform == "cpu" and jax.device_count() == 1:
        return _looped(*(x.astype(jnp.float32) for x in (query, key, value))).astype(query.dtype)
    # cuDNN takes half precision and a head size that is a multiple of 8 up to 128 (256 on the newest GPUs only).
    if "cuda" in backend.platform_version and query.dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0 and query.shape[-1] <= 128:
        return _cudnn(query, key, value)
    return jax.nn.dot_product_attention(query, key, value, implementation="xla")


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Flash attention on CUDA; its gradient wants even lengths, so an odd one gets one more token, which the true lengths hide."""
    batch, length = query.shape[:2]
    if length % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    lengths = jnp.full(batch, length, jnp.int32)
    query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
    out = jax.nn.dot_product_attention(query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation="cudnn")
    return out[:, :length]


@jax.custom_vjp
def _looped(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """float32[B, L, N, d] three times -> float32[B, L, N, d], a few heads at a time."""
    return _looped_forward(query, key, value)[0]


def _looped_forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the output and what the gradient needs: the arguments, the output, and the log-sum-exp of the logits [S, G, L]."""
    scale = query.shape[-1] ** -0.5
    out, logsumexp = lax.map(_heads_forward, (_to_steps(query * scale), _to_steps(key), _to_steps(value)))
    out = _from_steps(out, query.shape)
    return out, (query, key, value, out, logsumexp)


def _looped_backward(saved: tuple[jax.Array, ...], out_grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    query, key, value, out, logsumexp = saved
    scale = query.shape[-1] ** -0.5
    steps = (_to_steps(query * scale), _to_steps(key), _to_steps(value), _to_steps(out), logsumexp, _to_steps(out_grad))
    query_grad, key_grad, value_grad = (_from_steps(x, query.shape) for x in lax.map(_heads_backward, steps))
    return query_grad * scale, key_grad, value_grad


_looped.defvjp(_looped_forward, _looped_backward)


def _heads_forward(heads: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    """One step: scaled query, key, value [G, L, d] -> output [G, L, d] and log-sum-exp [G, L]."""
    query, key, value = heads
    logits = jnp.einsum("gqd,gkd->gqk", query, key)
    largest = logits.max(axis=-1, keepdims=True)  # taken off before exp, so that logits of any size stay finite
    weights = jnp.exp(logits - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("gqk,gkd->gqd", weights, value) / total
    return out, (largest + jnp.log(total))[..., 0]


def _heads_backward(heads: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One step of the gradient, on [key, query] matrices: so two of the three products that shrink them run along their rows."""
    query, key, value, out, logsumexp, out_grad = heads
    weights = jnp.exp(jnp.einsum("gkd,gqd->gkq", key, query) - logsumexp[:, None])
    value_grad = jnp.einsum("gkq,gqd->gkd", weights, out_grad)
    weights_grad = jnp.einsum("gkd,gqd->gkq", value, out_grad)
    logits_grad = weights * (weights_grad - (out_grad * out).sum(axis=-1)[:, None])
    query_grad = jnp.einsum("gkq,gkd->gqd", logits_grad, key)
    key_grad = jnp.einsum("gkq,gqd->gkd", logits_grad, query)
    return query_grad, key_grad, value_grad


def _to_steps(x: jax.Array) -> jax.Array:
    """[B, L, N, d] -> [S, G, L, d]."""
    batch, length, heads, channels = x.shape
    return x.transpose(2, 0, 1, 3).reshape(-1, math.gcd(batch * heads, _HEADS_PER_STEP), length, channels)


def _from_steps(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[S, G, L, d] -> [B, L, N, d] = shape."""
    batch, length, heads, channels = shape
    return x.reshape(heads, batch, length, channels).transpose(1, 2, 0, 3)
