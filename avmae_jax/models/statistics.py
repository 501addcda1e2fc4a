"""Computes classical statistics of a whole input, which a head can be given beside the tokens ("wide and deep", arXiv 1606.07792).

A model that learns from a few hundred clips has seen too little to find them by itself.

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, S statistics.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

COEFFICIENTS = 20  # cosine coefficients of a spectrum: its envelope without the partials
CELLS, DIRECTIONS = 4, 9  # cells along each side of an image, and the directions of edges that each cell distinguishes
SIZES = {"audio": 4 * COEFFICIENTS, "image": CELLS**2 * DIRECTIONS}  # S of each modality
_FAINT = 0.2  # what is added to the length of a cell's histogram, so that noise in an even cell stays small


def cosine_statistics(log_mel: Float[Array, "B T M"]) -> Float32[Array, "B S"]:
    """Computes statistics over time of the cosine coefficients of each frame (MFCCs).

    They are, each for 20 coefficients: the mean, the standard deviation, and of the differences between neighbouring frames the mean
    size and the standard deviation.

    Args:
      log_mel: of a clip, normalised or not.
    """
    bins = log_mel.shape[-1]
    angles = np.pi / (2 * bins) * np.outer(2 * np.arange(bins) + 1, np.arange(COEFFICIENTS))
    cosines = jnp.asarray(np.cos(angles) * np.sqrt(2 / bins), jnp.float32)
    coefficients = jnp.matmul(log_mel.astype(jnp.float32), cosines, precision="highest")
    steps = jnp.diff(coefficients, axis=1)
    return jnp.concatenate([coefficients.mean(1), _deviation(coefficients), jnp.abs(steps).mean(1), _deviation(steps)], axis=1)


def edge_statistics(image: Float[Array, "B H W 3"]) -> Float32[Array, "B S"]:
    """Computes how strong edges of nine directions are in each of 4 x 4 cells (histograms of oriented gradients, Dalal and Triggs 2005).

    Args:
      image: normalised; H and W are divisible by 4.
    """
    grey = image.astype(jnp.float32).mean(axis=-1)
    down, across = (_slope(grey, axis) for axis in (1, 2))
    strength = jnp.sqrt(down**2 + across**2 + 1e-12)
    place = jnp.mod(jnp.arctan2(down, across), jnp.pi) * (DIRECTIONS / jnp.pi)
    # each pixel is divided between the two nearest directions
    near = jnp.abs(place[..., None] - jnp.arange(DIRECTIONS, dtype=jnp.float32)[None, None, None])
    share = jnp.maximum(0.0, 1 - jnp.minimum(near, DIRECTIONS - near))
    count, height, width = grey.shape
    cells = (strength[..., None] * share).reshape(count, CELLS, height // CELLS, CELLS, width // CELLS, DIRECTIONS).sum(axis=(2, 4))
    return (cells / jnp.sqrt(jnp.square(cells).sum(axis=-1, keepdims=True) + _FAINT)).reshape(count, -1)


def _deviation(values: Float32[Array, "B T K"]) -> Float32[Array, "B K"]:
    """Computes the standard deviation over time; its gradient is finite where nothing changes."""
    return jnp.sqrt(values.var(axis=1) + 1e-6)


def _slope(grey: Float32[Array, "B H W"], axis: int) -> Float32[Array, "B H W"]:
    """Computes the differences between the two neighbours of each pixel along an axis; 0 at the borders."""
    size = grey.shape[axis]
    inner = jnp.take(grey, jnp.arange(2, size), axis=axis) - jnp.take(grey, jnp.arange(size - 2), axis=axis)
    return jnp.pad(inner, [(1, 1) if number == axis else (0, 0) for number in range(3)])
