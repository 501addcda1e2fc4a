"""Computes the pretraining losses of Gong et al., arXiv 2210.07839, section 2; all in float32.

Axis letters: B batch, L tokens, K kept tokens, D width, P patch, C channels.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from avmae_jax.config import LossConfig
from avmae_jax.models.patches import as_picture, patchify
from avmae_jax.models.pooling import unit_length

_NORM_PIX_EPS = 1e-6


def normalise_patches(patches: Float[Array, "B L values"]) -> Float[Array, "B L values"]:
    """Normalises each patch to mean 0 and unbiased variance 1, the target of `norm_pix`: [B, L, P * P * C] -> the same."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return (patches - mean) / jnp.sqrt(variance + _NORM_PIX_EPS)


def reconstruction_loss(
    picture: Float[Array, "B H W C"], pred: Float[Array, "B L values"], hidden: Float[Array, "B L"], *, patch: int, norm_pix: bool
) -> Float32[Array, ""]:
    """Computes the mean squared error over the hidden patches.

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
    audio: Float[Array, "B D"], image: Float[Array, "B D"], *, temperature: float = 0.05, bidirectional: bool = False, groups: int = 1
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Computes InfoNCE between pooled audio and images; the right partner of row i is row i.

    Args:
      audio: float[B, D], pooled over tokens, of any length.
      image: float[B, D].
      temperature: what the cosine similarities are divided by.
      bidirectional: False: softmax over audio for each image; True: the mean of both directions.
      groups: the batch is cut into this many parts, and negatives come from the same part only.

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


def reconstruction_losses(out: Any, inputs: Mapping[str, jax.Array], config: LossConfig, *, patch: int) -> dict[str, jax.Array]:
    """Computes "mae_<modality>" of each modality that a masked pass predicts.

    Args:
      out: of a masked pass, with .predictions and .masks by modality.
      inputs: the normalised inputs that it saw, by modality.
      config: its norm_pix counts.
      patch: P.
    """
    return {
        f"mae_{modality}": reconstruction_loss(
            as_picture(modality, inputs[modality]), pred, out.masks[modality].hidden, patch=patch, norm_pix=config.norm_pix
        )
        for modality, pred in out.predictions.items()
    }


def pretraining_losses(
    out: Any, inputs: Mapping[str, jax.Array], config: LossConfig, *, patch: int, groups: int = 1
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Computes the losses of CAV-MAE by name, not weighted.

    Args:
      out: of CAVMAE.
      inputs: the normalised inputs that it saw, by modality.
      config: options.
      patch: P.
      groups: into how many parts the batch is cut for the contrastive loss.

    Returns:
      {"mae_audio", "mae_image", "nce"}, and the metric {"contrast_accuracy"}; float32[] each.
    """
    losses = reconstruction_losses(out, inputs, config, patch=patch)
    losses["nce"], accuracy = contrastive_loss(
        out.embed_audio, out.embed_image, temperature=config.temperature, bidirectional=config.bidirectional, groups=groups
    )
    return losses, {"contrast_accuracy": accuracy}


def pretraining_weights(config: LossConfig) -> dict[str, float]:
    """Returns the weight of each pretraining loss in the total."""
    return {"mae_audio": config.mae_weight, "mae_image": config.mae_weight, "nce": config.contrast_weight}


def weighted_sum(losses: Mapping[str, Float[Array, ""]], weights: Mapping[str, float]) -> Float[Array, ""]:
    """Computes the total loss: float32[]."""
    return jnp.stack([weights[name] * loss for name, loss in losses.items()]).sum()
