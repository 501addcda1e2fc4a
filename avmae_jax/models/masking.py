"""Chooses which patches the encoder sees.

Masking is a pure function of noise, so that a test can give PyTorch and JAX the same mask. The number of kept tokens follows from shapes
alone and is static under jit. Structured masks use the same mechanism with other noise: cells of hidden rows or columns get larger values
than all others.

Axis letters: B batch, L tokens, K kept tokens, D width.
"""

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped

from avmae_jax.config import MaskMode
from avmae_jax.models.rows import RowKey, draw, split

# Share of the ratio that `tf` spends on rows and on columns each, so that their union hides about the ratio (the original's choice).
_TF_SHARE = 0.7


class Mask(NamedTuple):
    """Holds the split of L tokens into kept and hidden ones, for each example."""

    keep_ids: Int[Array, "B K"]  # tokens the encoder sees, in increasing order of noise
    restore_ids: Int[Array, "B L"]  # place of each token in [kept, hidden]
    hidden: Float32[Array, "B L"]  # 1 where hidden


def num_kept(length: int, ratio: float) -> int:
    """Returns K = int(L * (1 - ratio)), the rounding of He et al., arXiv 2111.06377; raises ValueError if that keeps nothing."""
    kept = int(length * (1 - ratio))
    if not 0 <= ratio < 1 or kept == 0:
        raise ValueError(f"mask ratio {ratio} keeps {kept} of {length} tokens; give a ratio in [0, 1) that keeps at least one")
    return kept


def mask_from_noise(noise: Float[Array, "B L"], ratio: float) -> Mask:
    """Keeps the K tokens with the smallest noise.

    Args:
      noise: float[B, L]; only its order within a row matters.
      ratio: share of tokens to hide, in [0, 1).

    Returns:
      A Mask with K = num_kept(L, ratio).

    Raises:
      ValueError: if no token would be kept or the ratio is out of range.
    """
    kept = num_kept(noise.shape[1], ratio)
    shuffle_ids = jnp.argsort(noise, axis=1)
    restore_ids = jnp.argsort(shuffle_ids, axis=1)
    return Mask(shuffle_ids[:, :kept], restore_ids, (restore_ids >= kept).astype(jnp.float32))


def structure_noise(
    noise: Float[Array, "B L"], line_noise: Float[Array, "B lines"], grid: tuple[int, int], ratio: float, mode: str
) -> Float[Array, "B L"]:
    """Makes noise that hides whole rows or columns of a grid first.

    Args:
      noise: float[B, L] in [0, 1); breaks ties inside the hidden and the visible cells.
      line_noise: float[B, rows + columns]; the rows and the columns with the smallest values are hidden.
      grid: (rows, columns) with rows * columns = L; for audio rows are mel bands and columns time.
      ratio: share of tokens that will be hidden.
      mode: `unstructured` (noise unchanged), `time` (columns), `freq` (rows), or `tf` (both, each at 0.7 * ratio).

    Returns:
      float[B, L] for mask_from_noise: cells of hidden lines have values in [1, 2), the others keep theirs.

    Raises:
      ValueError: for an unknown mode.
    """
    if mode not in get_args(MaskMode):
        raise ValueError(f"mask mode {mode!r} is unknown; choose one of {', '.join(get_args(MaskMode))}")
    rows, columns = grid
    share = ratio * _TF_SHARE if mode == "tf" else ratio
    hidden = jnp.zeros((noise.shape[0], rows, columns), bool)
    if mode in ("freq", "tf"):
        hidden |= _smallest(line_noise[:, :rows], int(rows * share))[:, :, None]
    if mode in ("time", "tf"):
        hidden |= _smallest(line_noise[:, rows:], int(columns * share))[:, None, :]
    return noise + hidden.reshape(noise.shape).astype(noise.dtype)


def sample_noise(key: RowKey, batch: int, grid: tuple[int, int], ratio: float, mode: str = "unstructured") -> Float32[Array, "{batch} L"]:
    """Draws the noise for `batch` masks of a grid of (rows, columns); `ratio` and `mode` are those of structure_noise."""
    cell_key, line_key = split(key, 2)
    noise = draw(jax.random.uniform, cell_key, (batch, grid[0] * grid[1]))
    return structure_noise(noise, draw(jax.random.uniform, line_key, (batch, sum(grid))), grid, ratio, mode)


def keep(tokens: Shaped[Array, "B L D"], mask: Mask) -> Shaped[Array, "B K D"]:
    """Returns the tokens that the encoder sees."""
    return jnp.take_along_axis(tokens, mask.keep_ids[..., None], axis=1)


def restore(kept: Shaped[Array, "B K D"], mask: Mask, fill: Shaped[Array, " D"]) -> Shaped[Array, "B L D"]:
    """Puts kept tokens back in their places and `fill` everywhere else."""
    batch, kept_length, width = kept.shape
    hidden = jnp.broadcast_to(fill, (batch, mask.restore_ids.shape[1] - kept_length, width))
    return jnp.take_along_axis(jnp.concatenate([kept, hidden], axis=1), mask.restore_ids[..., None], axis=1)


def _smallest(noise: Float[Array, "B lines"], count: int) -> Bool[Array, "B lines"]:
    """Returns True at the `count` smallest values of each row."""
    return jnp.argsort(jnp.argsort(noise, axis=1), axis=1) < count
