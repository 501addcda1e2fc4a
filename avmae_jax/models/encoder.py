"""Defines the audio-visual encoder: embed, separate, joint. Every mode of every model is a composition of these three steps.

    patches --embed--> tokens of one modality --separate--> through its own blocks --joint--> through the shared blocks

The shared blocks run once on [audio; image] (stream "main"), and once on each modality alone (streams "audio" and "image"), with the same
attention and MLP weights and each stream's own norms (Gong et al., arXiv 2210.07839, figure 1).

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, P patch, L tokens, K kept tokens, D width.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from avmae_jax.config import ModelConfig
from avmae_jax.models.layers import (
    ALL_STREAMS,
    MAIN,
    Block,
    Position,
    branch_key,
    drop_rate,
    linear,
    run_blocks,
    stream_norms,
    token_init,
)
from avmae_jax.models.masking import Mask, keep, mask_from_noise
from avmae_jax.models.patches import as_image, grid_of, patchify, sincos_positions
from avmae_jax.models.pooling import Pooling, pool, unit_length
from avmae_jax.models.rows import RowKey, draw, fold_in
from avmae_jax.models.tokens import GLOBAL, PATCHES, REGISTERS, Tokens, name_of, of_modality, of_part, through, without_part

Inputs = Mapping[str, Float[Array, "B ..."]]  # "audio" -> normalised log-mel [B, T, M], "image" -> normalised image [B, H, W, 3]
_PATCHES = 0x70617463  # far from the small numbers by which a tower's key is split for its blocks
_register_init = nnx.initializers.normal(1.0)  # as CAV-MAE Sync's
VECTORS = ("audio", "image", "joint")  # kinds of vector that an encoder computes


class Tower(nnx.Module):
    """Encodes one modality by its own part of an encoder: patch embedding, positions, separate blocks."""

    def __init__(
        self,
        config: ModelConfig,
        modality: str,
        *,
        depth: int,
        shared: bool = False,
        prefix: int = 0,
        registers: int = 0,
        stride: int | None = None,
        rngs: nnx.Rngs,
    ):
        """Initialises fresh weights.

        Args:
          config: sizes.
          modality: "audio" or "image".
          depth: number of blocks.
          shared: add a modality embedding, because later blocks see other modalities too.
          prefix: number of learned tokens of no patch that come first, such as a class token; they need no positions.
          registers: number of learned tokens of no patch that come last, Darcet et al., arXiv 2309.16588; they need no positions.
          stride: pixels from one patch to the next, less than a patch if they overlap; None: the side of a patch.
          rngs: initialises the weights.
        """
        width = config.shape.width
        self.name, self.patch, self.stride, self.input_shape = modality, config.patch, stride, config.input_shape(modality)
        height, length, channels = self.input_shape
        patch_values = config.patch**2 * channels
        bound = 1 / math.sqrt(patch_values)  # torch's default for a convolution's bias, which the original leaves as it is
        self.patch_embed = linear(
            patch_values, width, jnp.dtype(config.product_dtype), rngs, bias_init=partial(jax.random.uniform, minval=-bound, maxval=bound)
        )
        self.positions = Position(jnp.asarray(sincos_positions(grid_of(height, length, config.patch, stride), width)))
        self.modality = nnx.Param(token_init(rngs.params(), (width,))) if shared else None
        self.prefix = nnx.Param(token_init(rngs.params(), (prefix, width))) if prefix else None
        self.registers = nnx.Param(_register_init(rngs.params(), (registers, width))) if registers else None
        self.blocks = nnx.List(
            Block(config, width, config.shape.heads, drop=drop_rate(config, number), rngs=rngs) for number in range(depth)
        )

    def embed(self, inputs: Float[Array, "B T M"] | Float[Array, "B H W 3"], mask: Mask | None = None) -> Tokens:
        """Turns patches into tokens; hidden patches are dropped before anything is computed on them.

        Args:
          inputs: normalised log-mel or normalised image.
          mask: which patches to keep; None keeps all.

        Returns:
          The segments "<modality>.global" [B, prefix, D] and "<modality>.registers" [B, registers, D], where there are such tokens, and
          "<modality>.patches" [B, K, D] in the order of mask.keep_ids, or [B, L, D].

        Raises:
          ValueError: if the input isn't of the size that the model was built for.
        """
        image = as_image(self.name, inputs)
        if image.shape[1:] != self.input_shape:
            raise ValueError(
                f"{self.name} input has {image.shape[1:]} (height, width, channels); the model is built for {self.input_shape}"
            )
        patches, positions = patchify(image, self.patch, self.stride), self.positions[...]
        patches, where = (patches, positions[None]) if mask is None else (keep(patches, mask), positions[mask.keep_ids])
        if self.modality is not None:
            where += self.modality[...][None, None]
        tokens = self.patch_embed(patches)
        embedded = {name_of(self.name, PATCHES): tokens + where.astype(tokens.dtype)}
        for part, learned in ((GLOBAL, self.prefix), (REGISTERS, self.registers)):
            if learned is not None:
                embedded[name_of(self.name, part)] = jnp.broadcast_to(learned[...].astype(tokens.dtype), (tokens.shape[0], *learned.shape))
        return embedded

    def separate(self, tokens: Tokens, key: RowKey | None = None) -> Tokens:
        """Runs the modality's own blocks on its segments; `key` is that of drop-path in training."""
        return through(lambda sequence: run_blocks(self.blocks, sequence, key=key), tokens)


class Encoder(nnx.Module):
    """Encodes audio and images: two towers and the joint blocks over them.

    With `config.class_token` each modality has a token of no patch, and with `config.registers` some more, which the joint blocks don't
    see. With `config.contrast_depth` each modality has further blocks behind the joint ones, for its own stream alone (CAV-MAE Sync).
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        shape = config.shape
        separate = shape.depth - config.joint_depth
        self.patch_dropout = config.patch_dropout
        self.pooling: Pooling = "global" if config.class_token else "mean"
        learned = {"prefix": int(config.class_token), "registers": config.registers}
        self.audio = Tower(config, "audio", depth=separate, shared=True, **learned, rngs=rngs)
        self.image = Tower(config, "image", depth=separate, shared=True, **learned, rngs=rngs)
        self.blocks = nnx.List(
            Block(config, shape.width, shape.heads, streams=ALL_STREAMS, drop=drop_rate(config, separate + number), rngs=rngs)
            for number in range(config.joint_depth)
        )
        self.norm = stream_norms(shape.width, ALL_STREAMS, config.norm_eps, rngs)
        heads = range(config.contrast_depth)
        self.contrast = nnx.Dict(
            {m: nnx.List(Block(config, shape.width, shape.heads, rngs=rngs) for _ in heads) for m in ("audio", "image")} if heads else {}
        )

    def separate(self, inputs: Inputs, masks: Mapping[str, Mask] | None = None, key: RowKey | None = None) -> Tokens:
        """Runs each given modality through its own tower, audio first.

        Args:
          inputs: "audio" -> float[B, T, M] and "image" -> float[B, H, W, 3], both normalised; either may be missing.
          masks: which patches of each to keep; None keeps all.
          key: of training, for drop-path and, where no masks are given, for leaving out a share of the patches; None: evaluation.

        Returns:
          The segments of all given modalities, before the joint blocks; registers have done their work and are left out.

        Raises:
          ValueError: if there is no input, or one isn't of the model's size.
        """
        towers = {"audio": self.audio, "image": self.image}
        if not inputs:
            raise ValueError("there is neither audio nor image; give at least one")
        tokens: Tokens = {}
        for modality in filter(inputs.__contains__, towers):
            tower, own = towers[modality], branch_key(key, ALL_STREAMS.index(modality))
            mask = masks[modality] if masks else self._dropout_mask(tower, inputs[modality], own)
            tokens |= without_part(tower.separate(tower.embed(inputs[modality], mask), own), REGISTERS)
        return tokens

    def _dropout_mask(self, tower: Tower, inputs: Float[Array, "B ..."], key: RowKey | None) -> Mask | None:
        """Draws which patches a classifier is tuned on: Liu et al., PatchDropout, arXiv 2208.07220; None: on all."""
        if key is None or not self.patch_dropout:
            return None
        noise = draw(jax.random.uniform, fold_in(key, _PATCHES), (len(inputs), len(tower.positions[...])))
        return mask_from_noise(noise, self.patch_dropout)

    def joint(self, tokens: Tokens, stream: str = MAIN, *, unchained: bool = False, key: RowKey | None = None) -> Tokens:
        """Runs the joint blocks, a modality's own blocks for the contrast where there are such, and the final norm of a stream.

        Args:
          tokens: of separate; the streams "audio" and "image" take that modality's segments alone.
          stream: whose norms are used: "main", "audio" or "image".
          unchained: give every block the unchanged input, so that only the last one counts; the original's contrastive pass does this.
          key: of drop-path in training; None: evaluation.

        Returns:
          float32 segments.
        """
        blocks = list(self.blocks)[-1:] if unchained else self.blocks
        own = branch_key(key, len(ALL_STREAMS) + ALL_STREAMS.index(stream))

        def run(sequence: Array) -> Array:
            joined = run_blocks(blocks, sequence, stream, own)
            return self.norm[stream](run_blocks(self.contrast[stream], joined) if stream in self.contrast else joined)

        return through(run, tokens if stream == MAIN else of_modality(tokens, stream))

    def vectors(self, tokens: Tokens, what: Sequence[str] = VECTORS, *, unchained: bool = False) -> dict[str, Float32[Array, "B D"]]:
        """Computes one vector of length 1 per row: of each modality alone, and of both together where both are given.

        Args:
          tokens: of separate, unmasked.
          what: kinds of vector, of VECTORS; those whose modality isn't given are left out.
          unchained: as of joint, for the vectors of one modality.

        Returns:
          Kind -> float32[B, D]; the contrastive loss compares those of "audio" and "image". That of both is the mean of the patches, which
          are what pretraining gives the joint blocks.
        """
        given = [modality for modality in ("audio", "image") if name_of(modality, PATCHES) in tokens]
        found = {m: pool(self.joint(tokens, m, unchained=unchained), self.pooling) for m in given if m in what}
        if "joint" in what and len(given) == 2:
            found["joint"] = pool(self.joint(of_part(tokens, PATCHES)))
        return {kind: unit_length(vector) for kind, vector in found.items()}
