"""Cuts images into rows of patches, puts them together again, and computes where each patch is.

Both modalities share this file: a spectrogram becomes an image of one channel whose rows are mel bins and whose columns are time.
Token index is row * columns + column; inside a patch the order is (row, column, channel), channel fastest. Both orders are the
original's.

Axis letters: B batch, H rows, W columns, C channels, P patch, L tokens, D width, V = P * P * C values of a patch.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

_TRAINED = 0.3  # how far training moves a sin-cos position at most, for find_rows


def spectrogram_image(fbank: Float[Array, "B T M"]) -> Float[Array, "B M T 1"]:
    """Turns a log-mel into an image of one channel."""
    return fbank.swapaxes(1, 2)[..., None]


def as_image(modality: str, inputs: Float[Array, "B ..."]) -> Float[Array, "B H W C"]:
    """Turns a log-mel [B, T, M] into the image from which patches are cut; returns images [B, H, W, 3] as they are."""
    return spectrogram_image(inputs) if modality == "audio" else inputs


def patchify(image: Shaped[Array, "B H W C"], patch: int, stride: int | None = None) -> Shaped[Array, "B L V"]:
    """Cuts images into patches.

    Args:
      image: H and W are multiples of `patch` unless patches overlap.
      patch: side of a patch, P.
      stride: pixels from one patch to the next; less than `patch` makes them overlap, None is `patch`.

    Returns:
      V = P * P * C values of each of L = (H / P) * (W / P) patches, or with a stride ((H - P) // stride + 1) * ((W - P) // stride + 1).

    Raises:
      ValueError: if the patch doesn't divide the image.
    """
    batch, height, width, channels = image.shape
    if stride is not None:
        rows, columns = (jnp.arange(0, side - patch + 1, stride)[:, None] + jnp.arange(patch)[None] for side in (height, width))
        patches = image[:, rows[:, None, :, None], columns[None, :, None, :]]  # [B, rows, columns, P, P, C]
        return patches.reshape(batch, len(rows) * len(columns), patch * patch * channels)
    if height % patch or width % patch:
        raise ValueError(f"an image of {height} x {width} can't be cut into patches of {patch}; both sides must be multiples of it")
    rows, columns = height // patch, width // patch
    pixels = image.reshape(batch, rows, patch, columns, patch, channels)
    return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, patch * patch * channels)


def grid_of(height: int, width: int, patch: int, stride: int | None = None) -> tuple[int, int]:
    """Returns (rows, columns) of the patches that patchify cuts from an image."""
    rows, columns = ((side - patch) // (stride or patch) + 1 for side in (height, width))
    return rows, columns


def unpatchify(patches: Shaped[Array, "B L V"], grid: tuple[int, int], patch: int) -> Shaped[Array, "B H W C"]:
    """Puts the patches of a grid of (rows, columns) together again; V = P * P * C."""
    batch, (rows, columns) = patches.shape[0], grid
    pixels = patches.reshape(batch, rows, columns, patch, patch, -1)
    return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * patch, columns * patch, -1)


def sincos_positions(grid: Sequence[int], width: int) -> np.ndarray:
    """Computes fixed 2-D positions, He et al., arXiv 2111.06377: computed in float64, stored in float32.

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


def interpolate_columns(positions: np.ndarray, grid: Sequence[int], columns: int) -> np.ndarray:
    """Computes positions for inputs of another width, interpolated linearly along the columns; rows don't mix.

    A column stands for its centre, and the old and the new image are laid over each other edge to edge: new column j is where old column
    (j + 1/2) * old / new - 1/2 is, the first or the last one outside of their centres. torch's interpolate calls it align_corners=False.

    Args:
      positions: float32[L, D] of the patches of `grid`.
      grid: (rows, columns) that the positions are of.
      columns: how many there shall be, 1 or more.

    Returns:
      float32[rows * columns, D]; the same array if the number of columns is the same.

    Raises:
      ValueError: if the positions aren't of the grid.
    """
    rows, before = grid
    table = positions.reshape(rows, before, positions.shape[1]).astype(np.float64)
    if columns == before:
        return positions
    places = np.clip((np.arange(columns) + 0.5) * before / columns - 0.5, 0, before - 1)
    left = places.astype(int)
    right = np.minimum(left + 1, before - 1)
    # left + share * step, not a sum of two shares: what is the same in both, as the row's half is, stays the same to the last bit
    mixed = table[:, left] + (places - left)[:, None] * (table[:, right] - table[:, left])
    return mixed.reshape(rows * columns, -1).astype(np.float32)


def find_rows(positions: np.ndarray) -> int:
    """Finds how many rows of patches positions [L, D] belong to, by the half that encodes the row; 0 if they don't come from sin-cos ones.

    That half says it of interpolated positions too, and of those that were trained from sin-cos: neighbouring rows are sin(1) = 0.84 apart.
    """
    length, width = positions.shape
    if width % 4:
        return 0
    for rows in range(1, length + 1):
        if length % rows == 0:
            expected = sincos_positions((rows, length // rows), width)
            if np.abs(positions - expected)[:, width // 2 :].max() < _TRAINED:
                return rows
    return 0
