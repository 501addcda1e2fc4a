"""Computes what the teacher of the dual path says of patches, by the recorded names.

The original returns attention, ranks and probabilities of patches in the shuffled order in which masking leaves them; files have these and,
computed from them, ranks and scores in the patches' own numbers, which are what this project computes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.models.cavmae import MODALITIES
from avmae_jax.models.guidance import joint_attention, patch_scores
from avmae_jax.models.masking import mask_from_noise
from parity.recorded.arrays import Arrays


def quantities(model: Any, inputs: Mapping[str, jax.Array], noise: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Computes "teacher_..." of a model that sees all patches; those that end in _shuffled are in increasing order of noise."""
    unchained, masks = model.unchained_contrastive, {modality: mask_from_noise(noise[modality], 0.0) for modality in MODALITIES}
    own, shuffled = model.encoder.separate(inputs), model.encoder.separate(inputs, masks)
    found = {}
    for modality in MODALITIES:
        scores, others = (patch_scores(model.encoder, tokens, modality, unchained=unchained) for tokens in (own, shuffled))
        found |= {
            f"teacher_attention_{modality}": joint_attention(model.encoder, shuffled, modality, unchained=unchained),
            f"teacher_score_{modality}": scores,
            f"teacher_rank_{modality}": jnp.argsort(-scores, axis=1),
            f"teacher_rank_{modality}_shuffled": jnp.argsort(-others, axis=1),
            f"teacher_prob_{modality}_shuffled": jax.nn.softmax(others, axis=1),
        }
    return found


def settle_ties(ours: dict[str, Any], arrays: Arrays) -> None:
    """Replaces a rank of ours by the recorded one where both have the same score to float32's rounding, which may order them either way."""
    for modality in MODALITIES:
        for end, values in (("", f"teacher_score_{modality}"), ("_shuffled", f"teacher_prob_{modality}_shuffled")):
            name = f"teacher_rank_{modality}{end}"
            if name in ours and f"out.{name}" in arrays:
                scores, recorded, rank = np.asarray(ours[values]), arrays[f"out.{name}"], np.asarray(ours[name])
                one, other = (np.take_along_axis(scores, ranks, axis=1) for ranks in (rank, recorded))
                ours[name] = np.where(np.abs(one - other) <= 1e-6 * np.abs(one), recorded, rank)
