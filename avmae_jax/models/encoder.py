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
from avmae_jax.models.layers import ALL_STREAMS, MAIN, Block, Position, linear, run_block, stream_norms
from avmae_jax.models.masking import Mask, keep
from avmae_jax.models.patches import patchify, sincos_positions, spectrogram_picture

_token_init = nnx.initializers.normal(0.02)


class Tower(nnx.Module):
    """One modality's own part of the encoder: patch embedding, positions, modality embedding, separate blocks."""

    def __init__(self, config: ModelConfig, grid: tuple[int, int], channels: int, *, rngs: nnx.Rngs):
        shape, dtype = config.shape, jnp.dtype(config.compute_dtype)
        patch_values = config.patch**2 * channels
        self.patch, self.grid = config.patch, grid
        self.remat = config.remat
        bound = 1 / math.sqrt(patch_values)  # torch's default for a convolution's bias, which the original leaves as it is
        self.patch_embed = linear(
            patch_values, shape.width, dtype, rngs, bias_init=partial(jax.random.uniform, minval=-bound, maxval=bound)
        )
        self.positions = Position(jnp.asarray(sincos_positions(grid, shape.width)))
        self.modality = nnx.Param(_token_init(rngs.params(), (shape.width,)))
        self.blocks = nnx.List(
            Block(shape.width, shape.heads, config.mlp_ratio, dtype, rngs=rngs) for _ in range(shape.depth - config.joint_depth)
        )

    def embed(self, picture: jax.Array, mask: Mask | None = None) -> jax.Array:
        """Patches to tokens; hidden patches are dropped before anything is computed on them.

        Args:
          picture: [B, H, W, C], for audio the spectrogram picture [B, M, T, 1].
          mask: which patches to keep; None keeps all.

        Returns:
          [B, K, D] in the order of mask.keep_ids, or [B, L, D].

        Raises:
          ValueError: if the picture doesn't have the grid of patches that the model was built for.
        """
        patches = patchify(picture, self.patch)
        positions = self.positions[...]
        if (rows := picture.shape[1] // self.patch, columns := picture.shape[2] // self.patch) != self.grid:
            raise ValueError(
                f"input of {picture.shape[1:]} has {rows * columns} patches; the model is built for {math.prod(self.grid)}: "
                f"{rows} x {columns} against {self.grid[0]} x {self.grid[1]}"
            )
        if mask is not None:
            patches, positions = keep(patches, mask), positions[mask.keep_ids]
        tokens = self.patch_embed(patches)
        return tokens + (positions + self.modality[...]).astype(tokens.dtype)

    def separate(self, tokens: jax.Array) -> jax.Array:
        """Through the modality's own blocks: [B, K, D] -> [B, K, D]."""
        for block in self.blocks:
            tokens = run_block(block, tokens, remat=self.remat)
        return tokens


class Encoder(nnx.Module):
    """Two towers and the joint blocks over them."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        shape, dtype = config.shape, jnp.dtype(config.compute_dtype)
        self.remat = config.remat
        self.audio = Tower(config, config.audio_grid, 1, rngs=rngs)
        self.image = Tower(config, config.image_grid, 3, rngs=rngs)
        self.blocks = nnx.List(
            Block(shape.width, shape.heads, config.mlp_ratio, dtype, streams=ALL_STREAMS, rngs=rngs) for _ in range(config.joint_depth)
        )
        self.norm = stream_norms(shape.width, ALL_STREAMS, rngs)

    def embed_audio(self, fbank: jax.Array, mask: Mask | None = None) -> jax.Array:
        """Normalised log-mel [B, T, M] -> tokens [B, K, D]; see Tower.embed."""
        return self.audio.embed(spectrogram_picture(fbank), mask)

    def embed_image(self, image: jax.Array, mask: Mask | None = None) -> jax.Array:
        """Normalised image [B, H, W, 3] -> tokens [B, K, D]; see Tower.embed."""
        return self.image.embed(image, mask)

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
            tokens = run_block(block, tokens, stream, remat=self.remat)
        return self.norm[stream](tokens)
