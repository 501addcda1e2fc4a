"""Defines CAV-MAE Sync (Araujo et al., arXiv 2505.01237): CAV-MAE on pairs of an image and the audio around it.

What the contrastive loss compares are class tokens of their own, one a modality, which see their modality's patches and never reach the
decoder; registers give the separate blocks room to compute in. Both come after masking, and neither has a position.

Axis letters: B clips, F pairs of a clip, T spectrogram frames of a window, M mel bins, H W image, D width.
"""

from collections.abc import Sequence

from jaxtyping import Array, Float, Float32

from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.encoder import VECTORS, Inputs
from avmae_jax.models.pairs import merge_pairs, pairs_in


class Sync(CAVMAE):
    """Is CAV-MAE with class tokens, registers and blocks for the contrast as its config says. Its masked pass takes pairs as rows."""

    def separate(self, inputs: Inputs) -> dict[str, Float[Array, "rows _ _"]]:
        """Computes the tokens of unmasked pairs, [B, F, ...], before the joint blocks; each pair is a row."""
        return self.encoder.separate(merge_pairs(inputs))

    def embed(self, inputs: Inputs, what: Sequence[str] = VECTORS) -> dict[str, Float32[Array, "B F D"]]:
        """Computes a vector of length 1 of each pair.

        Args:
          inputs: "audio" -> normalised log-mel of the windows, float[B, F, T, M]; "image" -> normalised images, float[B, F, H, W, 3];
            one of them may be missing.
          what: kinds of vector, of Encoder.vectors.

        Raises:
          ValueError: if an input has no axis of pairs, or isn't of the model's size.
        """
        lead = pairs_in(inputs)
        vectors = self.encoder.vectors(self.separate(inputs), what, unchained=self.unchained_contrastive)
        return {kind: vector.reshape(*lead, -1) for kind, vector in vectors.items()}
