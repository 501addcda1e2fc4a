"""Handles clips that are given as pairs: several images, each with the window of the audio around it.

Axis letters: B clips, F pairs of a clip, D width.
"""

import math
from collections.abc import Mapping

from jaxtyping import Array, Float32, Shaped

USUAL_PAIRS = 10  # of a clip, where neither the config nor the data has said so yet
_RANKS = {"audio": 4, "image": 5}  # of inputs with an axis of pairs: [B, F, T, M] and [B, F, H, W, 3]


def pairs_in(inputs: Mapping[str, Shaped[Array, "B F ..."]]) -> tuple[int, int]:
    """Returns the number of clips and of pairs of each.

    Args:
      inputs: "audio" -> [B, F, T, M], "image" -> [B, F, H, W, 3]; either may be missing.

    Raises:
      ValueError: if there is no input, one has no axis of pairs, or the two don't have the same pairs.
    """
    for modality, values in inputs.items():
        if values.ndim != _RANKS[modality]:
            wanted = "[B, F, T, M]" if modality == "audio" else "[B, F, H, W, 3]"
            raise ValueError(f"{modality} input has shape {values.shape}; a model of pairs takes {wanted}, with F pairs of each clip")
    found = {values.shape[:2] for values in inputs.values()}
    if len(found) != 1:
        shapes = ", ".join(f"{modality} {values.shape[:2]}" for modality, values in inputs.items())
        raise ValueError(f"audio and images must have the same clips and pairs; given: {shapes or 'nothing'}")
    clips, pairs = found.pop()
    return clips, pairs


def merge_pairs(inputs: Mapping[str, Shaped[Array, "B F ..."]]) -> dict[str, Shaped[Array, "rows ..."]]:
    """Makes each pair a row of its own, B * F rows: those of a clip stand next to each other. Raises as pairs_in."""
    pairs_in(inputs)
    return {modality: values.reshape(-1, *values.shape[2:]) for modality, values in inputs.items()}


def side_by_side(vectors: Mapping[str, Float32[Array, "B *F D"]]) -> dict[str, Float32[Array, "B _"]]:
    """Makes one vector of length 1 of those of a clip's pairs, so that the cosine of two clips is the mean of their pairs' cosines.

    Args:
      vectors: by kind, of length 1: [B, F, D], or [B, D] of a model without pairs, which stay as they are.
    """
    return {kind: value.reshape(len(value), -1) / math.prod(value.shape[1:-1]) ** 0.5 for kind, value in vectors.items()}
