"""The masked autoencoder of one modality: He et al., arXiv 2111.06377, for images, and the same for spectrograms.

It is CAV-MAE with one tower, nothing to share and nothing to contrast: same blocks, masking, decoder and loss.

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, P patch, L tokens, K kept tokens, D width, C channels.
"""

from typing import NamedTuple

import jax
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.decoder import Decoder
from avmae_jax.models.encoder import Tower
from avmae_jax.models.layers import MAIN, stream_norms
from avmae_jax.models.masking import Mask, mask_from_noise
from avmae_jax.models.patches import spectrogram_picture


class Reconstruction(NamedTuple):
    """What one masked pass gives."""

    latent: jax.Array  # float32[B, K, D] after the norm, in the order of mask.keep_ids; a class token comes first
    pred: jax.Array  # float32[B, L, P * P * C]
    mask: Mask


class MAE(nnx.Module):
    """Masked autoencoder of one modality.

    Args:
      config: sizes and masking; `modality` says which one, `class_token` whether a token of no patch goes along.
      rngs: `nnx.Rngs(seed)`.

    Raises:
      ValueError: if the config's sizes don't fit each other, or its modality is "both".
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        config.validate()
        if config.modality == "both":
            raise ValueError("model.modality is 'both', which CAVMAE is for; choose audio or image")
        self.modality = config.modality
        self.mask_ratio: float = getattr(config, f"{config.modality}_mask_ratio")
        self.tower = Tower(config, config.modality, depth=config.shape.depth, prefix=int(config.class_token), rngs=rngs)
        self.norm = stream_norms(config.shape.width, (MAIN,), config.norm_eps, rngs)
        self.decoder = Decoder(config, (config.modality,), rngs=rngs)

    def __call__(self, inputs: jax.Array, noise: jax.Array) -> Reconstruction:
        """The masked pass.

        Args:
          inputs: normalised log-mel float[B, T, M], or normalised image float[B, H, W, 3].
          noise: float[B, L]; the patches with the smallest values are seen.
        """
        mask = mask_from_noise(noise, self.mask_ratio)
        latent = self.norm[MAIN](self.tower.separate(self.tower.embed(self._picture(inputs), mask)))
        (pred,) = self.decoder(latent, (mask,))
        return Reconstruction(latent, pred, mask)

    def features(self, inputs: jax.Array) -> jax.Array:
        """Tokens of the unmasked input, a class token first: float32[B, L, D]."""
        return self.norm[MAIN](self.tower.separate(self.tower.embed(self._picture(inputs))))

    def _picture(self, inputs: jax.Array) -> jax.Array:
        return spectrogram_picture(inputs) if self.modality == "audio" else inputs
