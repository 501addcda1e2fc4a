"""Pictures to rows of patches and back, and where each patch is.

A spectrogram is a one-channel picture whose rows are mel bins and whose columns are time, so that both modalities share this file.
Token index is row * columns + column; inside a patch the order is (row, column, channel), channel fastest. Both orders are the
original's.

Axis letters: B batch, H rows, W columns, C channels, P patch, L tokens, D width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def spectrogram_picture(fbank: jax.Array) -> jax.Array:
    """The log-mel as a picture: [B, T, M] -> [B, M, T, 1]."""
    return fbank.swapaxes(1, 2)[..., None]


def patchify(picture: jax.Array, patch: int, stride: int | None = None) -> jax.Array:
    """Cuts pictures into patches.

    Args:
      picture: [B, H, W, C], H and W multiples of `patch` unless patches overlap.
      patch: side of a patch, P.
      stride: pixels from one patch to the next; less than `patch` makes them overlap, None is `patch`.

    Returns:
      [B, L, P * P * C] with L = (H / P) * (W / P), or with a stride ((H - P) // stride + 1) * ((W - P) // stride + 1).

    Raises:
      ValueError: if the patch doesn't divide the picture.
    """
    batch, height, width, channels = picture.shape
    if stride is not None:
        rows, columns = (jnp.arange(0, side - patch + 1, stride)[:, None] + jnp.arange(patch) for side in (height, width))
        patches = picture[:, rows[:, None, :, None], columns[None, :, None, :]]  # [B, rows, columns, P, P, C]
        return patches.reshape(batch, len(rows) * len(columns), patch * patch * channels)
    if height % patch or width % patch:
        raise ValueError(f"a picture of {height} x {width} can't be cut into patches of {patch}; both sides must be multiples of it")
    rows, columns = height // patch, width // patch
    picture = picture.reshape(batch, rows, patch, columns, patch, channels)
    return picture.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(patches: jax.Array, grid: tuple[int, int], patch: int) -> jax.Array:
    """Puts patches together again: [B, L, P * P * C] -> [B, H, W, C] for a grid of (rows, columns)."""
    batch, (rows, columns) = patches.shape[0], grid
    picture = patches.reshape(batch, rows, columns, patch, patch, -1)
    return picture.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * patch, columns * patch, -1)


def sincos_positions(grid: Sequence[int], width: int) -> np.ndarray:
    """Fixed 2-D positions, He et al., arXiv 2111.06377: computed in float64, stored in float32.

    Args:
      grid: (rows, columns) of the patches.
      width: channels D, a multiple of 4.

    Returns:
      float32[L, D]; the first half of the channels encodes the column, the second the row, each as a block of sines and one of cosines.
    """
    rows, columns = np.meshgrid(np.arange(grid[0], dtype=np.float64), np.arange(grid[1], dtype=np.float64), indexing="ij")
    frequencies = 1 / 10_000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    halves = []
    for place in (columns, rows):
        angles = place.reshape(-1, 1) * frequencies
        halves += [np.sin(angles), np.cos(angles)]
    return np.concatenate(halves, axis=1).astype(np.float32)
