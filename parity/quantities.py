"""Computes what the comparisons compare: every intermediate and every loss of the JAX pretraining model, by its recorded name."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from avmae_jax.config import LossConfig
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.tokens import join
from avmae_jax.train import losses


def total_loss(
    out: Any, inputs: Mapping[str, Any], loss: LossConfig, patch: int, groups: int = 1
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the total loss of an output, and its parts with the accuracy; `groups` cut the batch for the contrastive loss."""
    parts, accuracy = losses.pretraining_losses(out, inputs, loss, patch=patch, groups=groups)
    return losses.weighted_sum(parts, losses.pretraining_weights(loss)), parts | accuracy


def quantities(model: CAVMAE, inputs: tuple[Any, Any], loss: LossConfig, patch: int, groups: int = 1) -> dict[str, jax.Array]:
    """Computes every intermediate and every loss of the JAX model, by its recorded name.

    Args:
      model: with any weights.
      inputs: the arguments of the model: inputs and noise, both by modality.
      loss: weights and options.
      patch: P.
      groups: see losses.contrastive_loss.
    """

    @nnx.jit
    def run(model: CAVMAE, inputs: tuple[Any, Any]) -> dict[str, jax.Array]:
        out = model(*inputs)
        total, parts = total_loss(out, inputs[0], loss, patch, groups)
        tokens = model.separate(inputs[0])
        by_modality = {
            f"{name}_{modality}{end}": value
            for modality in ("audio", "image")
            for name, end, value in (
                ("pred", "", out.predictions[modality]),
                ("contrast", "_tokens", join(out.contrast[modality])),
                ("mask", "", out.masks[modality].hidden),
                ("ids_restore", "", out.masks[modality].restore_ids),
                ("feat", "", join(model.encoder.joint(tokens, modality))),
            )
        }
        return by_modality | {
            "latent": join(out.latent),
            "loss": total,
            "loss_mae": loss.mae_weight * (parts["mae_audio"] + parts["mae_image"]),
            "loss_mae_audio": parts["mae_audio"],
            "loss_mae_image": parts["mae_image"],
            "loss_contrast_weighted": loss.contrast_weight * parts["nce"],
            "nce": parts["nce"],
            "contrast_accuracy": parts["contrast_accuracy"],
        }

    return run(model, inputs)
