"""Defines how layers multiply tokens by kernels: alone, after a LayerNorm, after a GELU; in the way that suits the program's platform.

On CPUs a norm and the layer after it are computed one after the other. On GPUs and TPUs, which wait for memory, the norm's scale s and
shift c need no passes over the tokens, since (x s + c) W + b = x (s W) + (c W + b), where x are the standardized tokens: the kernel is
changed, and the gradients of s and c are sums over the kernel's gradient in place of sums over all tokens. With the small batches of CPUs
a kernel is no smaller than the tokens, and nothing would be gained.

Axis letters: D width; H width of a hidden layer; P parts of a layer's output, such as queries, keys and values; "outer" the axes of a part.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_Arrays = TypeVar("_Arrays", jax.Array, tuple[jax.Array, ...])


def project(tokens: Float[Array, "..."], kernel: Float[Array, "..."], dimension_numbers: Any, **_: Any) -> Float[Array, "..."]:
    """Multiplies tokens by a kernel for flax's linear layers: contracts the last axes of tokens with the first ones of the kernel.

    The numbers are those of `lax.dot_general`; the gradient of the kernel has another order, tokens first and cotangent second. With
    jax's own order XLA's CPU backend transposes the cotangent, and for that recomputes the chain of residual sums behind it in each layer:
    40 % of a step of the base model.

    Raises:
      ValueError: if other axes would be contracted.
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
    """Multiplies [R, *inner] by [*inner, *outer] to [R, *outer]; `axes` is the number of inner axes."""
    return _contract(rows, kernel, range(1, rows.ndim), range(axes))


def _project_forward(rows: jax.Array, kernel: jax.Array, axes: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _project(rows, kernel, axes), (rows, kernel)


def _project_backward(axes: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, kernel = saved
    of_rows = _contract(cotangent, kernel, range(1, cotangent.ndim), range(axes, kernel.ndim))
    return of_rows, _contract(rows, cotangent, (0,), (0,))


_project.defvjp(_project_forward, _project_backward)


def _contract(left: jax.Array, right: jax.Array, left_axes: Sequence[int], right_axes: Sequence[int]) -> jax.Array:
    return lax.dot_general(left, right, ((tuple(left_axes), tuple(right_axes)), ((), ())))


def computed_once(values: _Arrays) -> _Arrays:
    """Returns an array or a tuple of arrays that a CPU writes once, in a step compiled with the options of train/step.py.

    Elsewhere it does nothing. Left alone, XLA for CPUs computes the sum of the residual branches anew in every kernel that needs a block's
    tokens, up to all branches before it. No two blocks have the same kernels then, and each has to be compiled by itself: 30 % of a step's
    compilation.
    """
    return lax.platform_dependent(values, cpu=lax.optimization_barrier, default=lambda same: same)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes the exact GELU; jax.nn.gelu takes the erfc of a negated argument, which costs twice as much on a CPU."""
    return 0.5 * x * (1 + lax.erf(x * math.sqrt(0.5)))


def project_gelu(hidden: Float[Array, "... H"], kernel: Float[Array, "H D"], dimension_numbers: Any, **_: Any) -> Float[Array, "... D"]:
    """Multiplies the GELU of `hidden` by a kernel. On CPUs the backward pass computes the GELU again.

    So of a hidden layer a CPU keeps its input alone, instead of that, its erf and its GELU: three quarters of a step's memory are left.
    The numbers are ignored, since flax's Linear contracts the last axis with the first.
    """
    product: jax.Array = _project_gelu(hidden.reshape(-1, hidden.shape[-1]), kernel)
    return product.reshape(*hidden.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _project_gelu(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies the GELU of [R, H] by [H, D]."""
    return _project(gelu(rows), kernel, 1)


def _project_gelu_forward(rows: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _project_gelu(rows, kernel), (rows, kernel)


def _project_gelu_backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, cotangent = computed_once((saved[0], cotangent))  # together, so that nothing is computed again before it is needed
    activated, of_gelu = jax.vjp(gelu, rows)
    of_activated, of_kernel = _project_backward(1, (activated, saved[1]), cotangent)
    return *of_gelu(of_activated), of_kernel


_project_gelu.defvjp(_project_gelu_forward, _project_gelu_backward)


@partial(jax.jit, static_argnames=("epsilon", "dtype"))  # traced once for all blocks of a shape
def norm_and_project(
    tokens: Float[Array, "*leading D"],
    scale: Float[Array, " D"],
    shift: Float[Array, " D"],
    kernel: Float[Array, "D ..."],
    bias: Float[Array, "..."],
    *,
    epsilon: float,
    dtype: jnp.dtype,
) -> Float[Array, "..."]:
    """Applies a LayerNorm and a linear layer.

    Args:
      tokens: of any float dtype.
      scale: float32, of the norm.
      shift: float32, of the norm.
      kernel: float32; its second axis is that of the parts if it has more than two.
      bias: float32.
      epsilon: of the norm.
      dtype: of the product and the result; all else is float32.

    Returns:
      dtype[*leading, ...], the axes of the bias last.
    """
    arrays = tokens.astype(jnp.float32), scale, shift, kernel, bias
    apart, folded = (partial(way, epsilon, dtype) for way in (_apart, _folded))
    result: jax.Array = lax.platform_dependent(*arrays, cpu=apart, default=folded)
    return result


def _apart(epsilon: float, dtype: jnp.dtype, tokens: jax.Array, *params: jax.Array) -> jax.Array:
    scale, shift, kernel, bias = params
    leading = [1] * (tokens.ndim - 1)
    centred, inverse = _moments(tokens, epsilon)
    normed = computed_once(centred * (inverse * scale.reshape(*leading, -1)) + shift.reshape(*leading, -1))
    product = project(normed.astype(dtype), kernel.astype(dtype), (((tokens.ndim - 1,), (0,)), ((), ())))
    return product + bias.astype(dtype).reshape(*leading, *bias.shape)


def _folded(epsilon: float, dtype: jnp.dtype, tokens: jax.Array, *params: jax.Array) -> jax.Array:
    scale, shift, kernel, bias = params
    scale, shift = (each.reshape(-1, *[1] * bias.ndim) for each in (scale, shift))
    kernel, bias = (scale * kernel).astype(dtype), (bias + (shift * kernel).sum(0)).astype(dtype)
    normal = _standardize(tokens, epsilon, dtype)
    if bias.ndim > 1:
        return _multiply(normal, kernel, bias)
    return _multiply(normal, kernel[:, None], bias[None]).squeeze(tokens.ndim - 1)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _standardize(tokens: jax.Array, epsilon: float, dtype: jnp.dtype) -> jax.Array:
    """Standardizes float32 tokens; the variance is computed in two passes as torch does."""
    centred, inverse = _moments(tokens, epsilon)
    return (centred * inverse).astype(dtype)


def _moments(tokens: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    centred = tokens - tokens.mean(-1, keepdims=True)
    return centred, lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)


def _standardize_forward(tokens: jax.Array, epsilon: float, dtype: jnp.dtype) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    centred, inverse = _moments(tokens, epsilon)
    # The result is kept anyway, for the gradient of the kernel. Without the barrier XLA would keep the tokens too, to compute both again.
    normal, inverse = lax.optimization_barrier(((centred * inverse).astype(dtype), inverse))
    return normal, (normal, inverse)


def _standardize_backward(epsilon: float, dtype: jnp.dtype, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array]:
    normal, inverse, cotangent = (each.astype(jnp.float32) for each in (*saved, cotangent))
    # Subtracted one after the other, since XLA:GPU makes a single kernel of that, and three of the usual formula.
    cotangent -= cotangent.mean(-1, keepdims=True)
    cotangent -= normal * (cotangent * normal).mean(-1, keepdims=True)
    return (cotangent * inverse,)


_standardize.defvjp(_standardize_forward, _standardize_backward)


@jax.custom_vjp
def _multiply(tokens: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Computes [*leading, D] times [D, P, *outer] plus a bias; each part is a product, so that none has to be cut out of a larger one."""
    inner, outer = len(kernel), bias.shape[1:]

    def part(number: int) -> jax.Array:
        flat = bias[number].reshape(*[1] * (tokens.ndim - 1), -1)  # which cuBLAS adds; one with more axes would be read as a matrix
        product = tokens @ kernel[:, number].reshape(inner, -1) + flat
        return product.reshape(*tokens.shape[:-1], *outer)

    return jnp.stack([part(number) for number in range(len(bias))], tokens.ndim - 1)


def _multiply_forward(tokens: jax.Array, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The gradient multiplies by this kernel, too. Without the barrier XLA would compute it there again, in one GPU kernel with the gradient
    # of the norm's scale, a sum over this kernel's gradient: of several devices, each block would wait for the exchange of its gradients.
    tokens, kernel = lax.optimization_barrier((tokens, kernel))
    return _multiply(tokens, kernel, bias), (tokens, kernel)


def _multiply_backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes one product for all parts: three would read the tokens three times and add three results."""
    tokens, kernel = saved
    leading = range(tokens.ndim - 1)
    outer = range(tokens.ndim - 1, cotangent.ndim)
    of_tokens = lax.dot_general(cotangent, kernel, ((tuple(outer), tuple(range(1, kernel.ndim))), ((), ())))
    of_kernel = lax.dot_general(tokens, cotangent, ((tuple(leading), tuple(leading)), ((), ())))
    return of_tokens, of_kernel, cotangent.sum(tuple(leading))


_multiply.defvjp(_multiply_forward, _multiply_backward)
