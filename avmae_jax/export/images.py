"""Resizes frames inside a program: the numbers of data/decode/images.py's decode_image, to the last bit, for frames of any size.

Pillow resizes along a row first and then along a column (Pillow 13 the other way round where a frame more than twice as tall as wide is
made smaller, so that its pixels differ there); it rounds its weights to 22 bits, and each result to a whole number. The weights depend on
the size of the frame, which a program learns only when it runs, so that the program computes them, in float64 as Pillow does.

Axis letters: B batch, H W frame, S side of the result.
"""

from typing import Any

import jax
import jax.numpy as jnp

_BITS = 22  # to which Pillow rounds weights
_SHARPNESS = -0.5  # of the bicubic filter
_REACH = 2.0  # pixels of the result that the filter covers on each side


def resize(frames: jax.Array, side: int) -> jax.Array:
    """Resizes the short side of frames to `side`, and crops the centre.

    Args:
      frames: uint8[B, H, W, 3]; B, H and W may be symbolic.
      side: S.

    Returns:
      uint8[B, S, S, 3].
    """
    with jax.enable_x64(True):  # pyright: ignore[reportAttributeAccessIssue]
        high, wide = (jnp.asarray(size, jnp.int64) for size in frames.shape[1:3])
        short = jnp.minimum(high, wide)
        rows = _weights(high, short, side, frames.shape[1])
        columns = _weights(wide, short, side, frames.shape[2])
        across = _along_last(frames.transpose(0, 3, 1, 2).astype(jnp.float64), columns)  # [B, 3, H, S]
        return _along_last(across.swapaxes(2, 3), rows).astype(jnp.uint8).transpose(0, 3, 2, 1)


def _along_last(planes: jax.Array, weights: jax.Array) -> jax.Array:
    """Resizes the last axis, [B, 3, ..., length] -> [B, 3, ..., S]; rounds to whole numbers of a byte."""
    rows = planes.reshape(-1, planes.shape[-1])  # or onnxruntime would join the axes' exchange with the product, and has none in float64
    sums = (rows @ weights).reshape(*planes.shape[:-1], weights.shape[1])
    return jnp.clip(jnp.floor((sums + 2.0 ** (_BITS - 1)) * 2.0**-_BITS), 0.0, 255.0)


def _weights(size: jax.Array, short: jax.Array, side: int, length: Any) -> jax.Array:
    """Computes what each pixel of an axis of a frame counts for each of the result: whole numbers, float64[length, S]."""
    whole = side * size // short  # of the result before it is cropped
    first = jnp.round((whole - side) / 2)
    scale = size.astype(jnp.float64) / whole.astype(jnp.float64)
    spread = jnp.maximum(scale, 1.0)  # a smaller result averages
    centres = (jnp.arange(side, dtype=jnp.float64) + first + 0.5) * scale
    distance = jnp.abs((jnp.arange(length, dtype=jnp.float64)[:, None] - centres[None] + 0.5) * (1 / spread))
    near = ((_SHARPNESS + 2) * distance - (_SHARPNESS + 3)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * _SHARPNESS
    weights = jnp.where(distance < 1, near, jnp.where(distance < _REACH, far, 0.0))
    weights = weights * (1 / weights.sum(axis=0, keepdims=True)) * 2.0**_BITS
    return jnp.trunc(weights + jnp.where(weights < 0, -0.5, 0.5))
