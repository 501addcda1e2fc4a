"""The audio-visual encoder: embed, separate, joint. Every mode of every model is a composition of these three steps.

    patches --embed--> tokens of one modality --separate--> through its own blocks --joint--> through the shared blocks

The shared blocks are run once on [audio; image] (stream "main"), and once on each modality alone (streams "audio" and "image"), with
the same attention and MLP weights and each stream's own norms (Gong et al., arXiv 2210.07839, figure 1).

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, P patch, L tokens, K kept tokens, D width.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.layers import ALL_STREAMS, MAIN, Block, Position, linear, stream_norms, token_init
from avmae_jax.models.masking import Mask, keep
from avmae_jax.models.patches import grid_of, patchify, sincos_positions, spectrogram_picture


class Tower(nnx.Module):
    """One modality's own part of an encoder: patch embedding, positions, separate blocks."""

    def __init__(
        self,
        config: ModelConfig,
        modality: str,
        *,
        depth: int,
        shared: bool = False,
        prefix: int = 0,
        stride: int | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes fresh weights.

        Args:
          config: sizes.
          modality: "audio" or "image".
          depth: number of blocks.
          shared: other modalities follow in the same blocks, so that tokens must say which one they are of.
          prefix: tokens of no patch that come first, their positions included: a class token, for example.
          stride: see patchify.
          rngs: for initialisation.
        """
        width = config.shape.width
        self.patch, self.stride, self.picture = config.patch, stride, config.picture(modality)
        height, length, channels = self.picture
        patch_values = config.patch**2 * channels
        bound = 1 / math.sqrt(patch_values)  # torch's default for a convolution's bias, which the original leaves as it is
        self.patch_embed = linear(
            patch_values, width, jnp.dtype(config.compute_dtype), rngs, bias_init=partial(jax.random.uniform, minval=-bound, maxval=bound)
        )
        self.positions = Position(jnp.asarray(sincos_positions(grid_of(height, length, config.patch, stride), width)))
        self.modality = nnx.Param(token_init(rngs.params(), (width,))) if shared else None
        self.prefix = nnx.Param(token_init(rngs.params(), (prefix, width))) if prefix else None
        self.blocks = nnx.List(Block(config, width, config.shape.heads, rngs=rngs) for _ in range(depth))

    def embed(self, picture: jax.Array, mask: Mask | None = None) -> jax.Array:
        """Patches to tokens; hidden patches are dropped before anything is computed on them.

        Args:
          picture: [B, H, W, C], for audio the spectrogram picture [B, M, T, 1].
          mask: which patches to keep; None keeps all.

        Returns:
          [B, K, D] in the order of mask.keep_ids, or [B, L, D]; the prefix tokens, if there are any, come first.

        Raises:
          ValueError: if the picture isn't of the size that the model was built for.
        """
        if picture.shape[1:] != self.picture:
            raise ValueError(f"input has {picture.shape[1:]} (height, width, channels); the model is built for {self.picture}")
        patches, positions = patchify(picture, self.patch, self.stride), self.positions[...]
        if mask is not None:
            patches, positions = keep(patches, mask), positions[mask.keep_ids]
        tokens = self.patch_embed(patches)
        what = positions if self.modality is None else positions + jnp.broadcast_to(self.modality[...], positions.shape)
        tokens = tokens + jnp.broadcast_to(what.astype(tokens.dtype), tokens.shape)
        if self.prefix is None:
            return tokens
        prefix = jnp.broadcast_to(self.prefix[...].astype(tokens.dtype), (len(tokens), *self.prefix.shape))
        return jnp.concatenate([prefix, tokens], axis=1)

    def separate(self, tokens: jax.Array) -> jax.Array:
        """Through the modality's own blocks: [B, K, D] -> [B, K, D]."""
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class Encoder(nnx.Module):
    """Two towers and the joint blocks over them."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        shape = config.shape
        separate = shape.depth - config.joint_depth
        self.audio = Tower(config, "audio", depth=separate, shared=True, rngs=rngs)
        self.image = Tower(config, "image", depth=separate, shared=True, rngs=rngs)
        self.blocks = nnx.List(Block(config, shape.width, shape.heads, streams=ALL_STREAMS, rngs=rngs) for _ in range(config.joint_depth))
        self.norm = stream_norms(shape.width, ALL_STREAMS, config.norm_eps, rngs)

    def embed_audio(self, fbank: jax.Array, mask: Mask | None = None) -> jax.Array:
        """Normalised log-mel [B, T, M] -> tokens [B, K, D]; see Tower.embed."""
        return self.audio.embed(spectrogram_picture(fbank), mask)

    def embed_image(self, image: jax.Array, mask: Mask | None = None) -> jax.Array:
        """Normalised image [B, H, W, 3] -> tokens [B, K, D]; see Tower.embed."""
        return self.image.embed(image, mask)

    def separate(self, modality: str, inputs: jax.Array) -> jax.Array:
        """All patches of one modality through its own blocks: float[B, T, M] or float[B, H, W, 3] -> [B, L, D]."""
        if modality == "audio":
            return self.audio.separate(self.embed_audio(inputs))
        return self.image.separate(self.embed_image(inputs))

    def features(self, modality: str, inputs: jax.Array) -> jax.Array:
        """Tokens of one unmasked modality for retrieval: as separate, -> float32[B, L, D]; pool them with metrics.embedding."""
        return self.joint(self.separate(modality, inputs), modality)

    def joint(self, tokens: jax.Array, stream: str = MAIN, *, unchained: bool = False) -> jax.Array:
        """Through the joint blocks and the final norm of a stream.

        Args:
          tokens: [B, K, D] of one modality, or [audio; image] for the stream "main".
          stream: whose norms are used: "main", "audio" or "image".
          unchained: give every block the unchanged input, so that only the last one counts; the original's contrastive pass does this.

        Returns:
          float32[B, K, D].
        """
        blocks = list(self.blocks)[-1:] if unchained else self.blocks
        for block in blocks:
            tokens = block(tokens, stream)
        return self.norm[stream](tokens)
