"""CAV-MAE, the pretraining model (Gong et al., arXiv 2210.07839): the encoder on kept patches, a decoder that fills in the rest.

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, P patch, L tokens, K kept tokens, D width; a and v mark audio and image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.encoder import Encoder
from avmae_jax.models.layers import MAIN, Block, Position, linear, run_block, stream_norms
from avmae_jax.models.masking import Mask, mask_from_noise, restore
from avmae_jax.models.patches import sincos_positions

_token_init = nnx.initializers.normal(0.02)


class Pretraining(NamedTuple):
    """What one masked pass gives; tokens follow the order of the masks' keep_ids."""

    latent: jax.Array  # float32[B, Ka + Kv, D], the joint stream after its norm
    contrast_audio: jax.Array  # float32[B, Ka, D], the audio stream after its norm
    contrast_image: jax.Array  # float32[B, Kv, D]
    pred_audio: jax.Array  # float32[B, La, P * P]
    pred_image: jax.Array  # float32[B, Lv, P * P * 3]
    mask_audio: Mask
    mask_image: Mask


class DecoderEnds(nnx.Module):
    """What the decoder has for one modality alone: positions, modality embedding, output head."""

    def __init__(self, config: ModelConfig, grid: tuple[int, int], channels: int, *, rngs: nnx.Rngs):
        width = config.shape.decoder_width
        self.positions = Position(jnp.asarray(sincos_positions(grid, width)))
        self.modality = nnx.Param(_token_init(rngs.params(), (width,)))
        self.head = linear(width, config.patch**2 * channels, jnp.dtype(config.compute_dtype), rngs)

    def fill(self, kept: jax.Array, mask: Mask, mask_token: jax.Array) -> jax.Array:
        """Kept tokens in their places, the mask token elsewhere, and where and what each one is: [B, K, D] -> [B, L, D]."""
        return restore(kept, mask, mask_token.astype(kept.dtype)) + (self.positions[...] + self.modality[...]).astype(kept.dtype)


class Decoder(nnx.Module):
    """A light transformer over all tokens of both modalities."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        shape, dtype = config.shape, jnp.dtype(config.compute_dtype)
        width = shape.decoder_width
        self.remat = config.remat
        self.embed = linear(shape.width, width, dtype, rngs)
        self.mask_token = nnx.Param(_token_init(rngs.params(), (width,)))
        self.audio = DecoderEnds(config, config.audio_grid, 1, rngs=rngs)
        self.image = DecoderEnds(config, config.image_grid, 3, rngs=rngs)
        self.blocks = nnx.List(Block(width, shape.decoder_heads, config.mlp_ratio, dtype, rngs=rngs) for _ in range(shape.decoder_depth))
        self.norm = stream_norms(width, (MAIN,), rngs)

    def __call__(self, latent: jax.Array, mask_audio: Mask, mask_image: Mask) -> tuple[jax.Array, jax.Array]:
        """Predicts every patch: [B, Ka + Kv, D] -> float32[B, La, P * P], float32[B, Lv, P * P * 3]."""
        tokens, kept_audio = self.embed(latent), mask_audio.keep_ids.shape[1]
        audio = self.audio.fill(tokens[:, :kept_audio], mask_audio, self.mask_token[...])
        image = self.image.fill(tokens[:, kept_audio:], mask_image, self.mask_token[...])
        tokens = jnp.concatenate([audio, image], axis=1)
        for block in self.blocks:
            tokens = run_block(block, tokens, remat=self.remat)
        tokens, length = self.norm[MAIN](tokens), audio.shape[1]
        pred_audio, pred_image = self.audio.head(tokens[:, :length]), self.image.head(tokens[:, length:])
        return pred_audio.astype(jnp.float32), pred_image.astype(jnp.float32)


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
        self.decoder = Decoder(config, rngs=rngs)

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
        pred_audio, pred_image = self.decoder(latent, mask_audio, mask_image)
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
        """Tokens of unmasked sound for retrieval: float[B, T, M] -> float32[B, La, D]; pool them with metrics.embedding."""
        encoder = self.encoder
        return encoder.joint(encoder.audio.separate(encoder.embed_audio(fbank)), "audio")

    def image_features(self, image: jax.Array) -> jax.Array:
        """Tokens of an unmasked picture for retrieval: float[B, H, W, 3] -> float32[B, Lv, D]; pool them with metrics.embedding."""
        encoder = self.encoder
        return encoder.joint(encoder.image.separate(encoder.embed_image(image)), "image")
