"""Lists the modes in which a classifier is evaluated by default."""

from collections.abc import Sequence

from avmae_jax.config import Modality
from avmae_jax.models.classifier import Mode, modality_of

MODES: dict[str, tuple[Mode, ...]] = {
    "multimodal": ("multimodal", "missingaudioonly", "missingvideoonly"),
    "audioonly": ("audioonly",),
    "videoonly": ("videoonly",),
}  # by the mode that the classifier was fine-tuned in


def common_needs(modes: Sequence[Mode]) -> Modality:
    """Returns the modalities that a clip must have to be evaluated in all modes."""
    needs: set[Modality] = {modality_of(mode) for mode in modes}
    return "both" if len(needs) > 1 else needs.pop()
