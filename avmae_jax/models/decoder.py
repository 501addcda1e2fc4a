"""The decoder: fills in what the encoder didn't see, for any set of modalities.

Axis letters: B batch, P patch, L tokens, K kept tokens, D width, C channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.layers import MAIN, Block, Position, linear, stream_norms, token_init
from avmae_jax.models.masking import Mask, restore
from avmae_jax.models.patches import sincos_positions


class Ends(nnx.Module):
    """What the decoder has for one modality alone: positions, modality embedding, output head."""

    def __init__(self, config: ModelConfig, modality: str, *, shared: bool, rngs: nnx.Rngs):
        width, channels = config.shape.decoder_width, config.picture(modality)[2]
        self.positions = Position(jnp.asarray(sincos_positions(config.grid(modality), width)))
        self.modality = nnx.Param(token_init(rngs.params(), (width,))) if shared else None
        self.head = linear(width, config.patch**2 * channels, jnp.dtype(config.compute_dtype), rngs)

    def fill(self, kept: jax.Array, mask: Mask, mask_token: jax.Array) -> jax.Array:
        """Kept tokens in their places, the mask token elsewhere, and where and what each one is: [B, K, D] -> [B, L, D]."""
        what = self.positions[...] if self.modality is None else self.positions[...] + self.modality[...]
        return restore(kept, mask, mask_token.astype(kept.dtype)) + what.astype(kept.dtype)


class Decoder(nnx.Module):
    """A light transformer over all tokens of all modalities."""

    def __init__(self, config: ModelConfig, modalities: Sequence[str], *, rngs: nnx.Rngs):
        width = config.shape.decoder_width
        self.embed = linear(config.shape.width, width, jnp.dtype(config.compute_dtype), rngs)
        self.mask_token = nnx.Param(token_init(rngs.params(), (width,)))
        self.ends = nnx.Dict({modality: Ends(config, modality, shared=len(modalities) > 1, rngs=rngs) for modality in modalities})
        self.blocks = nnx.List(Block(config, width, config.shape.decoder_heads, rngs=rngs) for _ in range(config.shape.decoder_depth))
        self.norm = stream_norms(width, (MAIN,), config.norm_eps, rngs)

    def __call__(self, latent: jax.Array, masks: Sequence[Mask]) -> list[jax.Array]:
        """Predicts every patch of each modality.

        Args:
          latent: [B, prefix + Ka + Kv, D], of the encoder; tokens of no patch come first, and see and are seen by all others.
          masks: of each modality, in order.

        Returns:
          float32[B, L, P * P * C] of each modality.
        """
        tokens, kept = self.embed(latent), [mask.keep_ids.shape[1] for mask in masks]
        ends, begin = list(self.ends.values()), latent.shape[1] - sum(kept)
        parts = [tokens[:, :begin]]
        for end, mask, count in zip(ends, masks, kept, strict=True):
            parts.append(end.fill(tokens[:, begin : begin + count], mask, self.mask_token[...]))
            begin += count
        tokens = jnp.concatenate(parts, axis=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens, begin, predictions = self.norm[MAIN](tokens), parts[0].shape[1], []
        for end, part in zip(ends, parts[1:], strict=True):
            predictions.append(end.head(tokens[:, begin : begin + part.shape[1]]).astype(jnp.float32))
            begin += part.shape[1]
        return predictions
