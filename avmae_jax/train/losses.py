"""The pretraining losses of Gong et al., arXiv 2210.07839, section 2; all in float32.

Axis letters: B batch, L tokens, K kept tokens, D width, P patch, C channels.
"""

import jax
import jax.numpy as jnp

from avmae_jax.config import LossConfig
from avmae_jax.models.cavmae import Pretraining
from avmae_jax.models.patches import patchify, spectrogram_picture

_NORM_PIX_EPS = 1e-6


def normalise_patches(patches: jax.Array) -> jax.Array:
    """Each patch to mean 0 and unbiased variance 1, the target of `norm_pix`: [B, L, P * P * C] -> the same."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return (patches - mean) / jnp.sqrt(variance + _NORM_PIX_EPS)


def reconstruction_loss(picture: jax.Array, pred: jax.Array, hidden: jax.Array, *, patch: int, norm_pix: bool) -> jax.Array:
    """Mean squared error over the hidden patches.

    Args:
      picture: [B, H, W, C], what should have been predicted.
      pred: [B, L, P * P * C].
      hidden: float[B, L], 1 where the encoder didn't see the patch.
      patch: P.
      norm_pix: compare with patches normalised one by one.

    Returns:
      float32[]: the sum over hidden patches over their number. 0 if nothing is hidden.
    """
    target = patchify(picture, patch)
    if norm_pix:
        target = normalise_patches(target)
    error = jnp.square(pred - target).mean(axis=-1)
    return (error * hidden).sum() / jnp.maximum(hidden.sum(), 1.0)


def contrastive_loss(
    audio: jax.Array, image: jax.Array, *, temperature: float = 0.05, bidirectional: bool = False, groups: int = 1
) -> tuple[jax.Array, jax.Array]:
    """InfoNCE between pooled sounds and pictures; the right partner of row i is row i.

    Args:
      audio: float[B, D], pooled over tokens, of any length.
      image: float[B, D].
      temperature: what the cosine similarities are divided by.
      bidirectional: False: softmax over audio for each image; True: the mean of both directions.
      groups: the batch is cut into this many parts and negatives come from the same part only.

    Returns:
      (loss in nats, share of the batch whose right partner is the most similar), float32[] each.

    Raises:
      ValueError: if the batch can't be cut into that many groups.
    """
    batch, width = audio.shape
    if batch % groups:
        raise ValueError(f"a batch of {batch} can't be cut into {groups} groups of negatives; make it a multiple of {groups}")
    audio, image = (unit_length(rows).reshape(groups, -1, width) for rows in (audio, image))
    logits = jnp.einsum("gad,gid->gai", audio, image) / temperature
    losses, hits = [], []
    for axis in (1, 2) if bidirectional else (1,):  # 1: over audio for each image
        losses.append(-jnp.diagonal(jax.nn.log_softmax(logits, axis=axis), axis1=1, axis2=2).mean())
        hits.append((logits.argmax(axis=axis) == jnp.arange(batch // groups)[None]).mean(dtype=jnp.float32))
    return jnp.stack(losses).mean(), jnp.stack(hits).mean()


def unit_length(rows: jax.Array) -> jax.Array:
    """Rows over their L2 norm, as torch.nn.functional.normalize: float[B, D] -> float32[B, D]."""
    rows = rows.astype(jnp.float32)
    return rows * jax.lax.rsqrt(jnp.maximum(jnp.square(rows).sum(axis=-1, keepdims=True), 1e-24))


def pretraining_loss(
    out: Pretraining, fbank: jax.Array, image: jax.Array, config: LossConfig, *, patch: int, groups: int = 1
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The total loss and its parts.

    Args:
      out: of CAVMAE.
      fbank: normalised log-mel, float[B, T, M].
      image: normalised image, float[B, H, W, 3].
      config: weights and options.
      patch: P.
      groups: see contrastive_loss.

    Returns:
      (total, {"loss", "mae_audio", "mae_image", "nce", "contrast_accuracy"}), float32[] each; the parts are not weighted.
    """
    mae_audio = reconstruction_loss(
        spectrogram_picture(fbank), out.pred_audio, out.mask_audio.hidden, patch=patch, norm_pix=config.norm_pix
    )
    mae_image = reconstruction_loss(image, out.pred_image, out.mask_image.hidden, patch=patch, norm_pix=config.norm_pix)
    nce, accuracy = contrastive_loss(
        out.contrast_audio.mean(axis=1),
        out.contrast_image.mean(axis=1),
        temperature=config.temperature,
        bidirectional=config.bidirectional,
        groups=groups,
    )
    total = config.mae_weight * (mae_audio + mae_image) + config.contrast_weight * nce
    return total, {"loss": total, "mae_audio": mae_audio, "mae_image": mae_image, "nce": nce, "contrast_accuracy": accuracy}
