"""Puts the predictions of a masked pass into the hidden places of its inputs.

Axis letters: n clips, H rows, W columns, C channels, P patch, L tokens.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from avmae_jax.models.patches import patchify, unpatchify


class Panels(NamedTuple):
    """Holds a batch of images or spectrograms before and after a masked pass, in their own units."""

    original: np.ndarray  # float32[n, H, W, C]
    hidden: np.ndarray  # bool[n, H, W], True where the pixel was hidden from the encoder
    reconstructed: np.ndarray  # float32[n, H, W, C], predictions where hidden, the original elsewhere
    frames: np.ndarray | None = None  # of spectrograms: int[n], how many of the W columns belong to the clip; None: all
    scales: np.ndarray | None = None  # of spectrograms: float[n, 2], mean and deviation by which they are normalised; None: they aren't

    def scale(self, clip: int) -> tuple[float, float]:
        """Returns mean and deviation by which the log-mel of a clip is normalised."""
        return (0.0, 1.0) if self.scales is None else (float(self.scales[clip, 0]), float(self.scales[clip, 1]))

    def held(self, clip: int) -> int:
        """Returns how many columns of a spectrogram belong to its clip; what follows is padding."""
        return self.original.shape[2] if self.frames is None else int(self.frames[clip])


def compose(inputs: np.ndarray, pred: np.ndarray, hidden: np.ndarray, *, grid: tuple[int, int], patch: int, norm_pix: bool) -> Panels:
    """Puts predictions into the hidden places of images or spectrograms.

    Args:
      inputs: float[n, H, W, C], what the model was given.
      pred: float[n, L, P * P * C].
      hidden: float[n, L], 1 where hidden.
      grid: (rows, columns) of the patches.
      patch: P.
      norm_pix: the predictions are of patches normalised one by one; each gets the mean and the standard deviation of its original, as in
        the figures of He et al., arXiv 2111.06377.

    Raises:
      ValueError: if the shapes don't fit each other.
    """
    patches = patchify(jnp.asarray(inputs, jnp.float32), patch)
    if pred.shape != patches.shape or hidden.shape != patches.shape[:2] or (grid[0] * patch, grid[1] * patch) != inputs.shape[1:3]:
        raise ValueError(
            f"predictions {pred.shape}, hidden {hidden.shape} and grid {grid} don't all belong to inputs {inputs.shape} cut into "
            f"patches of {patch} ({patches.shape}); take them from one pass of one model"
        )
    values = jnp.asarray(pred, jnp.float32)
    if norm_pix:
        values = values * patches.std(axis=-1, keepdims=True, ddof=1) + patches.mean(axis=-1, keepdims=True)
    where = jnp.broadcast_to(jnp.asarray(hidden, jnp.float32)[..., None] > 0, patches.shape)
    reconstructed, pixels = (unpatchify(rows, grid, patch) for rows in (jnp.where(where, values, patches), where))
    return Panels(np.asarray(inputs, np.float32), np.asarray(pixels[..., 0]), np.asarray(reconstructed))
