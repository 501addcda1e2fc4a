"""Computes softmax attention, fast and in little memory on whatever platform the program is lowered for.

All paths compute softmax(q k^T / sqrt(d)) v with logits and softmax in float32. The path is chosen when the program is lowered, not by the
machine that traces it, so that a program can be exported for another platform:

- CPU: a loop over two heads at a time, so that their [L, L] matrices stay in cache and are never held for all heads (128 MB each in the
  decoder at B = 4). The gradient is written by hand: it recomputes the matrix from the log-sum-exp of its rows instead of storing it, as
  in Dao et al., arXiv 2205.14135. Two heads rather than one keep XLA's batched matrix product, which is faster; eight leave the cache.
- CUDA with bfloat16: cuDNN's flash attention, which never holds the matrix either. Not where XLA_FLAGS asks for kernels that repeat to the
  last bit: XLA then runs no program in which two blocks have the same attention, "raw_hash_map<>::at" (seen with jax 0.11 on an H100,
  openxla/xla#46500).
- Every other accelerator, and CUDA where cuDNN isn't used, as for float32: all heads at once, with the gradient of the loop, and with
  products of the queries' dtype that add up in float32. A matrix
  lives as long as its block is computed and is not kept for the backward pass; the two that were kept a block took 515 of the 806 MiB
  that a pair of the base model takes in float32. The partitioner cuts this along batch and heads without communication, whereas it would
  gather every head on every device before a loop.
- Several CPU devices: `jax.nn.dot_product_attention` in plain XLA.

Axis letters: B batch, L tokens, N heads, d channels of a head; S steps of the loop, G heads in a step, S * G = B * N.
"""

import importlib.util
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avmae_jax.xla_flags import exclude_nondeterministic

_HEADS_PER_STEP = 2
_CUDNN_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def attention(query: Float[Array, "B L N d"], key: Float[Array, "..."], value: Float[Array, "..."]) -> Float[Array, "B L N d"]:
    """Computes the attention of every token to every token, without mask or dropout.

    Args:
      query: float[B, L, N, d]; B may be symbolic (`jax.export.symbolic_shape`).
      key: the same shape and dtype as query.
      value: the same shape and dtype as query.

    Returns:
      float[B, L, N, d] of the dtype of query.

    Raises:
      ValueError: if the three differ in shape or dtype.
    """
    given = {"query": query, "key": key, "value": value}
    if query.ndim != 4 or len({(x.shape, x.dtype) for x in given.values()}) > 1:
        found = ", ".join(f"{name} is {x.dtype}{list(x.shape)}" for name, x in given.items())
        raise ValueError(f"{found}; attention needs three arrays of one dtype and one shape [B, L, N, d]")
    cpu = _on_cpu if _cpus() == 1 else _plain
    out: jax.Array = lax.platform_dependent(query, key, value, cpu=cpu, cuda=_cudnn if _fits_cudnn(query) else _whole, default=_whole)
    return out


def _cpus() -> int:
    """Counts the CPU devices: none where JAX_PLATFORMS names other platforms alone."""
    try:
        return jax.device_count("cpu")
    except RuntimeError:
        return 0


def _plain(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    with jax.numpy_dtype_promotion("standard"):  # jax's own code mixes bfloat16 and float32
        return jax.nn.dot_product_attention(query, key, value, implementation="xla")


def _on_cpu(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    return _looped(*(x.astype(jnp.float32) for x in (query, key, value))).astype(query.dtype)


def _fits_cudnn(query: jax.Array) -> bool:
    """Returns True if cuDNN has a kernel for these shapes that may be used, and is installed; jax traces its call only where it is.

    cuDNN takes half precision, fixed sizes, and a head size that is a multiple of 8 up to 128 (256 on the newest GPUs only).
    """
    fixed = all(isinstance(size, int) for size in query.shape)
    fits = fixed and query.dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0 and query.shape[-1] <= 128
    return fits and not exclude_nondeterministic() and any(map(importlib.util.find_spec, _CUDNN_PLUGINS))


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Calls cuDNN's flash attention; its gradient needs even lengths, so an odd one is padded by a token that the true lengths hide."""
    batch, length = query.shape[:2]
    if length % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    lengths = jnp.full(batch, length, jnp.int32)
    query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
    out = jax.nn.dot_product_attention(query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation="cudnn")
    return out[:, :length]


@jax.custom_vjp
def _whole(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes attention for all heads at once and keeps no matrix for the gradient: [B, L, N, d] three times -> the same."""
    return _whole_forward(query, key, value)[0]


def _whole_forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the output and what the gradient needs: the arguments, the output, and the log-sum-exp of the logits [B, N, L]."""
    out, logsumexp = _heads_forward((*map(_swapped, (query, key, value)),), query.shape[-1] ** -0.5)
    out = _swapped(out.astype(query.dtype))
    return out, (query, key, value, out, logsumexp)


def _whole_backward(saved: tuple[jax.Array, ...], out_grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    query, key, value, out, logsumexp = saved
    heads = (*map(_swapped, (query, key, value, out)), logsumexp, _swapped(out_grad))
    query_grad, key_grad, value_grad = (_swapped(x.astype(query.dtype)) for x in _heads_backward(heads, query.shape[-1] ** -0.5))
    return query_grad, key_grad, value_grad


_whole.defvjp(_whole_forward, _whole_backward)


def _swapped(x: jax.Array) -> jax.Array:
    """Puts the heads before the tokens, or back: [B, L, N, d] <-> [B, N, L, d]."""
    return x.swapaxes(1, 2)


@jax.custom_vjp
def _looped(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes attention a few heads at a time: float32[B, L, N, d] three times -> float32[B, L, N, d]."""
    return _looped_forward(query, key, value)[0]


def _looped_forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the output and what the gradient needs: the arguments, the output, and the log-sum-exp of the logits [S, G, L]."""
    scale = query.shape[-1] ** -0.5
    out, logsumexp = lax.map(_heads_forward, (_to_steps(query * scale), _to_steps(key), _to_steps(value)))
    out = _from_steps(out, query)
    return out, (query, key, value, out, logsumexp)


def _looped_backward(saved: tuple[jax.Array, ...], out_grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    query, key, value, out, logsumexp = saved
    scale = query.shape[-1] ** -0.5
    steps = (_to_steps(query * scale), _to_steps(key), _to_steps(value), _to_steps(out), logsumexp, _to_steps(out_grad))
    query_grad, key_grad, value_grad = (_from_steps(x, query) for x in lax.map(_heads_backward, steps))
    return query_grad * scale, key_grad, value_grad


_looped.defvjp(_looped_forward, _looped_backward)


def _heads_forward(heads: tuple[jax.Array, ...], scale: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Computes some heads: query, key, value [..., L, d] -> float32 output [..., L, d] and log-sum-exp [..., L]."""
    query, key, value = heads
    logits = _multiply("...qd,...kd->...qk", query, key) * scale
    largest = logits.max(axis=-1, keepdims=True)  # subtracted before exp, so that logits of any size stay finite
    weights = jnp.exp(logits - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = _multiply("...qk,...kd->...qd", weights.astype(value.dtype), value) / total
    return out, (largest + jnp.log(total))[..., 0]


def _heads_backward(heads: tuple[jax.Array, ...], scale: float = 1.0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the gradient of some heads on [key, query] matrices: so two of the three products that shrink them run along their rows."""
    query, key, value, out, logsumexp, out_grad = heads
    weights = jnp.exp(_multiply("...kd,...qd->...kq", key, query) * scale - logsumexp[..., None, :])
    value_grad = _multiply("...kq,...qd->...kd", weights.astype(value.dtype), out_grad)
    weights_grad = _multiply("...kd,...qd->...kq", value, out_grad)
    shares = (out_grad.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1)[..., None, :]
    logits_grad = (weights * (weights_grad - shares)).astype(query.dtype)
    query_grad = _multiply("...kq,...kd->...qd", logits_grad, key) * scale
    key_grad = _multiply("...kq,...qd->...kd", logits_grad, query) * scale
    return query_grad, key_grad, value_grad


def _multiply(axes: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies in the dtype of both and adds up in float32."""
    return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)


def _to_steps(x: jax.Array) -> jax.Array:
    """Groups heads: [B, L, N, d] -> [S, G, L, d]. G follows from the number of heads alone, since B may be symbolic."""
    batch, length, heads, channels = x.shape
    group = math.gcd(heads, _HEADS_PER_STEP)
    return x.transpose(2, 0, 1, 3).reshape(heads // group * batch, group, length, channels)


def _from_steps(x: jax.Array, like: jax.Array) -> jax.Array:
    """Undoes _to_steps: [S, G, L, d] -> [B, L, N, d], the shape of `like`."""
    batch, length, heads, channels = like.shape
    return x.reshape(heads, batch, length, channels).transpose(1, 2, 0, 3)
