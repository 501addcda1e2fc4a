"""Computes the pretraining losses of Gong et al., arXiv 2210.07839, section 2; all in float32.

Axis letters: B batch, H W sides of a spectrogram or image, L tokens, D width, P patch, C channels, V values of a patch.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from avmae_jax.config import LossConfig
from avmae_jax.models.encoder import Inputs
from avmae_jax.models.patches import as_image, patchify
from avmae_jax.models.pooling import pool, unit_length

_NORM_PIX_EPS = 1e-6

Losses = dict[str, Float32[Array, ""]]  # by name
Vectors = Mapping[str, Float[Array, "B *F D"]]  # what the contrastive loss compares, by modality


def normalise_patches(patches: Float[Array, "B L V"]) -> Float[Array, "B L V"]:
    """Normalises each patch to mean 0 and unbiased variance 1, the target of `norm_pix`; V = P * P * C."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return (patches - mean) / jnp.sqrt(variance + _NORM_PIX_EPS)


def reconstruction_loss(
    original: Float[Array, "B H W C"], pred: Float[Array, "B L V"], hidden: Float[Array, "B L"], *, patch: int, norm_pix: bool
) -> Float32[Array, ""]:
    """Computes the mean squared error over the hidden patches.

    Args:
      original: the spectrogram or image that should have been predicted.
      pred: predicted patches, V = P * P * C.
      hidden: 1 where the encoder didn't see the patch.
      patch: P.
      norm_pix: compare with patches that are normalised one by one.

    Returns:
      The errors of hidden patches summed and divided by their number; 0 if nothing is hidden.
    """
    target = patchify(original, patch)
    if norm_pix:
        target = normalise_patches(target)
    error = jnp.square(pred - target).mean(axis=-1)
    return (error * hidden).sum() / jnp.maximum(hidden.sum(), 1.0)


def contrastive_loss(
    audio: Float[Array, "B *F D"],
    image: Float[Array, "B *F D"],
    *,
    temperature: float = 0.05,
    bidirectional: bool = False,
    groups: int = 1,
    clip_negatives: bool = False,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Computes InfoNCE between pooled audio and images; the right partner of row i is row i.

    Args:
      audio: vectors pooled over tokens, not normalised; of clips, or of F pairs of each clip.
      image: as audio, of the same clips.
      temperature: divides the cosine similarities.
      bidirectional: False: softmax over audio for each image; True: the mean of both directions.
      groups: number of parts into which the batch is cut; negatives come from the same part only.
      clip_negatives: the negatives of a pair are all others, not only those of other clips.

    Returns:
      (loss in nats, share of the batch whose right partner is the most similar).

    Raises:
      ValueError: if the batch can't be cut into that many groups.
    """
    (batch, *pairs), width = audio.shape[:-1], audio.shape[-1]
    if batch % groups:
        raise ValueError(f"a batch of {batch} can't be cut into {groups} groups of negatives; make it a multiple of {groups}")
    audio, image = (unit_length(rows).reshape(groups, -1, width) for rows in (audio, image))
    logits = jnp.einsum("gad,gid->gai", audio, image, precision="highest") / temperature  # TF32 errs by 1.7e-3 in them
    if pairs and not clip_negatives:
        clip = jnp.arange(logits.shape[1]) // pairs[0]
        others = (clip[:, None] != clip[None]) | jnp.eye(len(clip), dtype=bool)
        logits = jnp.where(others[None], logits, -jnp.inf)
    losses, hits = [], []
    for axis in (1, 2) if bidirectional else (1,):  # 1: over audio for each image
        losses.append(-jnp.diagonal(jax.nn.log_softmax(logits, axis=axis), axis1=1, axis2=2).mean())
        hits.append((logits.argmax(axis=axis) == jnp.arange(logits.shape[1])[None]).mean(dtype=jnp.float32))
    return jnp.stack(losses).mean(), jnp.stack(hits).mean()


def reconstruction_losses(out: Any, inputs: Inputs, config: LossConfig, *, patch: int) -> Losses:
    """Computes "mae_<modality>" of each modality that a masked pass predicts.

    Args:
      out: result of a masked pass, with .predictions and .masks by modality.
      inputs: what the pass was given.
      config: only norm_pix has an effect.
      patch: P.
    """
    return {
        f"mae_{modality}": reconstruction_loss(
            as_image(modality, inputs[modality]), pred, out.masks[modality].hidden, patch=patch, norm_pix=config.norm_pix
        )
        for modality, pred in out.predictions.items()
    }


def contrasted(out: Any, config: LossConfig) -> Vectors:
    """Selects the vectors that the contrastive loss compares: "audio" and "image", with global_local "audio_local" and "image_local" too.

    Args:
      out: result of a masked pass of CAVMAE.
      config: only global_local has an effect.
    """
    vectors = {"audio": out.embed_audio, "image": out.embed_image}
    return vectors | ({f"{m}_local": pool(tokens, "mean") for m, tokens in out.contrast.items()} if config.global_local else {})


def contrastive_losses(vectors: Vectors, config: LossConfig, *, groups: int = 1) -> tuple[Losses, Losses]:
    """Computes the loss "nce" of the vectors of `contrasted`, not weighted, and the metric "contrast_accuracy"; see contrastive_loss.

    With global_local they are the means of both kinds of vector, and the losses of each are among the metrics.
    """
    options: Any = {name: getattr(config, name) for name in ("temperature", "bidirectional", "clip_negatives")} | {"groups": groups}
    loss, accuracy = contrastive_loss(vectors["audio"], vectors["image"], **options)
    if not config.global_local:
        return {"nce": loss}, {"contrast_accuracy": accuracy}
    local, local_accuracy = contrastive_loss(vectors["audio_local"], vectors["image_local"], **options)
    metrics = {"nce_global": loss, "nce_local": local, "contrast_accuracy": (accuracy + local_accuracy) / 2}
    return {"nce": (loss + local) / 2}, metrics


def pretraining_losses(out: Any, inputs: Inputs, config: LossConfig, *, patch: int, groups: int = 1) -> tuple[Losses, Losses]:
    """Computes the losses of CAV-MAE by name, not weighted, where one pass gives them all.

    Args:
      out: result of a masked pass of CAVMAE.
      inputs: what the pass was given.
      config: options.
      patch: P.
      groups: number of parts into which the batch is cut for the contrastive loss.

    Returns:
      The losses "mae_audio", "mae_image" and "nce", and the metrics of contrastive_losses.
    """
    losses, metrics = contrastive_losses(contrasted(out, config), config, groups=groups)
    return reconstruction_losses(out, inputs, config, patch=patch) | losses, metrics


def pretraining_weights(config: LossConfig) -> dict[str, float]:
    """Returns the weight of each pretraining loss in the total."""
    weights = {"mae_audio": config.mae_weight, "mae_image": config.mae_weight, "nce": config.contrast_weight}
    return weights | ({"distill": config.distill_weight} if config.distill_weight else {})


def weighted_sum(losses: Mapping[str, Float[Array, ""]], weights: Mapping[str, float]) -> Float32[Array, ""]:
    """Computes the total loss."""
    return jnp.stack([weights[name] * loss for name, loss in losses.items()]).sum()
