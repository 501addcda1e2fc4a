"""Defines the decoder: predicts the patches that the encoder didn't see, for any set of modalities.

Axis letters: B batch, P patch, L tokens, K kept tokens, D width, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from avmae_jax.config import ModelConfig
from avmae_jax.models.layers import MAIN, Block, Position, linear, run_blocks, stream_norms, token_init
from avmae_jax.models.masking import Mask, restore
from avmae_jax.models.patches import sincos_positions
from avmae_jax.models.tokens import PATCHES, Tokens, name_of, through


class Reconstruction(NamedTuple):
    """Holds the result of one masked pass; kept tokens are in the order of the masks' keep_ids."""

    latent: Tokens  # float32 segments after the encoder's norm
    predictions: dict[str, Float32[Array, "B L _"]]  # modality -> float32[B, L, P * P * C]
    masks: dict[str, Mask]  # by modality


class Ends(nnx.Module):
    """Holds the decoder's parameters for one modality: positions, modality embedding, output head."""

    def __init__(self, config: ModelConfig, modality: str, *, shared: bool, rngs: nnx.Rngs):
        width, channels = config.shape.decoder_width, config.input_shape(modality)[2]
        self.positions = Position(jnp.asarray(sincos_positions(config.grid(modality), width)))
        self.modality = nnx.Param(token_init(rngs.params(), (width,))) if shared else None
        self.head = linear(width, config.patch**2 * channels, jnp.dtype(config.product_dtype), rngs)

    def fill(self, kept: Float[Array, "B K D"], mask: Mask, mask_token: Float[Array, " D"]) -> Float[Array, "B L D"]:
        """Puts kept tokens in their places and the mask token elsewhere, and adds position and modality."""
        where = self.positions[...] if self.modality is None else self.positions[...] + self.modality[...][None]
        return restore(kept, mask, mask_token.astype(kept.dtype)) + where.astype(kept.dtype)[None]


class Decoder(nnx.Module):
    """Predicts patches with a light transformer over all tokens of all modalities."""

    def __init__(self, config: ModelConfig, modalities: Sequence[str], *, rngs: nnx.Rngs):
        width = config.shape.decoder_width
        self.embed = linear(config.shape.width, width, jnp.dtype(config.product_dtype), rngs)
        self.mask_token = nnx.Param(token_init(rngs.params(), (width,)))
        self.ends = nnx.Dict({modality: Ends(config, modality, shared=len(modalities) > 1, rngs=rngs) for modality in modalities})
        self.blocks = nnx.List(Block(config, width, config.shape.decoder_heads, rngs=rngs) for _ in range(config.shape.decoder_depth))
        self.norm = stream_norms(width, (MAIN,), config.norm_eps, rngs)

    def __call__(self, latent: Tokens, masks: Mapping[str, Mask]) -> dict[str, Float32[Array, "B L _"]]:
        """Predicts every patch of each modality.

        Args:
          latent: the encoder's segments; those other than patches take part in attention but are not predicted.
          masks: by modality; each says which patches `latent` holds.

        Returns:
          Modality -> float32[B, L, P * P * C].
        """
        tokens = through(self.embed, latent)
        for modality, end in self.ends.items():
            name = name_of(modality, PATCHES)
            tokens[name] = end.fill(tokens[name], masks[modality], self.mask_token[...])

        def run(sequence: Array) -> Array:
            return self.norm[MAIN](run_blocks(self.blocks, sequence))

        tokens = through(run, tokens)
        return {modality: end.head(tokens[name_of(modality, PATCHES)]).astype(jnp.float32) for modality, end in self.ends.items()}
