"""Computes what the comparisons compare: every intermediate and every loss of the JAX pretraining models, by its recorded name."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from avmae_jax.config import LossConfig
from avmae_jax.models.cavmae import CAVMAE, MODALITIES, Pretraining
from avmae_jax.models.tokens import GLOBAL, PATCHES, join, name_of, of_part
from avmae_jax.train import losses

Inputs = tuple[Mapping[str, Any], Mapping[str, Any]]  # arguments of a model: inputs and noise, both by modality


def total_loss(
    out: Any, inputs: Mapping[str, Any], loss: LossConfig, patch: int, groups: int = 1
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the total loss of an output, and its parts with the accuracy; `groups` cut the batch for the contrastive loss."""
    parts, accuracy = losses.pretraining_losses(out, inputs, loss, patch=patch, groups=groups)
    return losses.weighted_sum(parts, losses.pretraining_weights(loss)), parts | accuracy


def of_pass(out: Pretraining) -> dict[str, jax.Array]:
    """Lists the intermediates of a masked pass; "cls_audio" and "cls_image" only where there are class tokens."""
    found = {"latent": join(out.latent)}
    for modality in MODALITIES:
        tokens, mask = out.contrast[modality], out.masks[modality]
        found |= {
            f"pred_{modality}": out.predictions[modality],
            f"contrast_{modality}_tokens": join(of_part(tokens, PATCHES)),
            f"mask_{modality}": mask.hidden,
            f"ids_restore_{modality}": mask.restore_ids,
        }
        if name_of(modality, GLOBAL) in tokens:
            found[f"cls_{modality}"] = tokens[name_of(modality, GLOBAL)][:, 0]
    return found


def of_losses(parts: Mapping[str, jax.Array], loss: LossConfig) -> dict[str, jax.Array]:
    """Names the parts of a total loss as files do."""
    return {
        "loss_mae": loss.mae_weight * (parts["mae_audio"] + parts["mae_image"]),
        "loss_mae_audio": parts["mae_audio"],
        "loss_mae_image": parts["mae_image"],
        "loss_contrast_weighted": loss.contrast_weight * parts["nce"],
        "nce": parts["nce"],
        "contrast_accuracy": parts["contrast_accuracy"],
    }


def quantities(model: CAVMAE, inputs: Inputs, loss: LossConfig, patch: int, groups: int = 1) -> dict[str, jax.Array]:
    """Computes every intermediate, every loss and the features of CAV-MAE, by its recorded name.

    Args:
      model: with any weights.
      inputs: the arguments of the model.
      loss: weights and options.
      patch: P.
      groups: see losses.contrastive_loss.
    """

    @nnx.jit
    def run(model: CAVMAE, inputs: Inputs) -> dict[str, jax.Array]:
        out = model(*inputs)
        total, parts = total_loss(out, inputs[0], loss, patch, groups)
        tokens = model.separate(inputs[0])
        features = {f"feat_{modality}": join(model.encoder.joint(tokens, modality)) for modality in MODALITIES}
        return of_pass(out) | features | of_losses(parts, loss) | {"loss": total}

    return run(model, inputs)
