"""CAV-MAE, the pretraining model (Gong et al., arXiv 2210.07839): the encoder on kept patches, a decoder that fills in the rest.

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, P patch, L tokens, K kept tokens, D width; a and v mark audio and image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.decoder import Decoder
from avmae_jax.models.encoder import Encoder
from avmae_jax.models.masking import Mask, mask_from_noise


class Pretraining(NamedTuple):
    """What one masked pass gives; tokens follow the order of the masks' keep_ids."""

    latent: jax.Array  # float32[B, Ka + Kv, D], the joint stream after its norm
    contrast_audio: jax.Array  # float32[B, Ka, D], the audio stream after its norm
    contrast_image: jax.Array  # float32[B, Kv, D]
    pred_audio: jax.Array  # float32[B, La, P * P]
    pred_image: jax.Array  # float32[B, Lv, P * P * 3]
    mask_audio: Mask
    mask_image: Mask


class CAVMAE(nnx.Module):
    """Contrastive audio-visual masked autoencoder.

    Args:
      config: sizes, positions and masking.
      rngs: `nnx.Rngs(seed)`; the stream `params` initialises the weights.

    Raises:
      ValueError: if the config's sizes don't fit each other.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        config.validate()
        self.audio_mask_ratio, self.image_mask_ratio = config.audio_mask_ratio, config.image_mask_ratio
        self.unchained_contrastive = config.unchained_contrastive
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, ("audio", "image"), rngs=rngs)

    def __call__(self, fbank: jax.Array, image: jax.Array, noise_audio: jax.Array, noise_image: jax.Array) -> Pretraining:
        """The masked pretraining pass.

        Args:
          fbank: normalised log-mel, float[B, T, M].
          image: normalised image, float[B, H, W, 3].
          noise_audio: float[B, La]; the patches with the smallest values are seen (models/masking.py makes such noise).
          noise_image: float[B, Lv].

        Returns:
          Pretraining.
        """
        mask_audio = mask_from_noise(noise_audio, self.audio_mask_ratio)
        mask_image = mask_from_noise(noise_image, self.image_mask_ratio)
        encoder, unchained = self.encoder, self.unchained_contrastive
        audio = encoder.audio.separate(encoder.embed_audio(fbank, mask_audio))
        image = encoder.image.separate(encoder.embed_image(image, mask_image))
        latent = encoder.joint(jnp.concatenate([audio, image], axis=1))
        pred_audio, pred_image = self.decoder(latent, (mask_audio, mask_image))
        return Pretraining(
            latent=latent,
            contrast_audio=encoder.joint(audio, "audio", unchained=unchained),
            contrast_image=encoder.joint(image, "image", unchained=unchained),
            pred_audio=pred_audio,
            pred_image=pred_image,
            mask_audio=mask_audio,
            mask_image=mask_image,
        )

    def audio_features(self, fbank: jax.Array) -> jax.Array:
        """Tokens of unmasked sound for retrieval: float[B, T, M] -> float32[B, La, D]; see Encoder.features."""
        return self.encoder.features("audio", fbank)

    def image_features(self, image: jax.Array) -> jax.Array:
        """Tokens of an unmasked picture for retrieval: float[B, H, W, 3] -> float32[B, Lv, D]; see Encoder.features."""
        return self.encoder.features("image", image)
