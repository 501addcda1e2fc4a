"""Defines the fine-tuned model: CAV-MAE's encoder and a linear head on the mean of its tokens (arXiv 2210.07839, section 4.2).

`model.head_pool` may choose something else than the published mean for the head to be given.

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, L tokens, D width, C classes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float32

from avmae_jax.config import ModelConfig
from avmae_jax.models.cavmae import require_both
from avmae_jax.models.encoder import VECTORS, Encoder, Inputs
from avmae_jax.models.layers import Stage, branch_key, dropout, layer_norm, linear
from avmae_jax.models.modes import MULTIMODAL, Mode
from avmae_jax.models.pooling import attention_weights, deviation_summands, pool
from avmae_jax.models.rows import RowKey
from avmae_jax.models.tokens import Tokens, join, of_modality


class Head(nnx.Module):
    """Turns tokens into logits: pooling as `model.head_pool` says, LayerNorm and a linear layer."""

    def __init__(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs):
        width = config.shape.width
        values = 2 * width if config.head_pool == "mean_std" else width
        self.pooling, self.dropout = config.head_pool, config.head_dropout
        self.query = nnx.Param(jnp.zeros(width)) if config.head_pool == "attentive" else None  # it begins with the mean
        self.norm = layer_norm(values, config.norm_eps, rngs)
        self.linear = linear(values, classes, jnp.dtype(config.product_dtype), rngs)

    def pool(self, tokens: Tokens) -> Float32[Array, "B P"]:
        """Computes the P = D or 2 D values of a clip that the logits are computed from.

        They are the mean of its tokens, or their mean and deviation, or their mean weighted by attention.
        """
        return pool(tokens) if self.pooling == "mean" else self.summands(join(tokens)).sum(axis=1)

    def summands(self, sequence: Float32[Array, "B L D"]) -> Float32[Array, "B L P"]:
        """Computes what each token adds to the pooled values: their sum over the tokens is `pool`."""
        length = sequence.shape[1]
        if self.query is not None:
            return sequence * attention_weights(sequence, self.query[...])[..., None]
        if self.pooling == "mean":
            return sequence / length
        return jnp.concatenate([sequence / length, deviation_summands(sequence)], axis=-1)

    def __call__(self, pooled: Float32[Array, "*B P"], key: RowKey | None = None) -> Float32[Array, "*B C"]:
        """Computes the logits of pooled tokens; `key` is that of dropout in training."""
        return self.linear(dropout(self.norm(pooled), self.dropout, key)).astype(jnp.float32)


class CAVMAEClassifier(nnx.Module):
    """CAV-MAE's encoder with a classification head.

    Args:
      config: sizes; its fields about the decoder and about masking have no effect.
      classes: C.
      rngs: `nnx.Rngs(seed)`.

    Raises:
      ValueError: if the config's sizes don't fit each other, or its modality isn't "both".
    """

    def __init__(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs):
        config.validate()
        require_both(config)
        self.encoder = Encoder(config, rngs=rngs)
        self.head: Any = self.make_head(config, classes, rngs=rngs)

    def make_head(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """Makes what turns tokens into logits."""
        return Head(config, classes, rngs=rngs)

    def __call__(self, inputs: Inputs, mode: Mode = MULTIMODAL) -> Float32[Array, "B C"]:
        """Computes the logits of one mode.

        Args:
          inputs: "audio" -> normalised log-mel, float[B, T, M]; "image" -> normalised image, float[B, H, W, 3]. The mode's
            inputs must be given; others have no effect.
          mode: which modalities and norms are used (models/modes.py).

        Raises:
          ValueError: if a modality that the mode needs isn't given.
        """
        return self.each(inputs, [mode])[mode]

    def each(self, inputs: Inputs, modes: Iterable[Mode], key: RowKey | None = None) -> dict[Mode, Float32[Array, "B C"]]:
        """Computes the logits of several modes, for which the inputs run through their towers once; raises as __call__.

        Args:
          inputs: as of __call__.
          modes: which are computed.
          key: of drop-path and dropout in training; None: evaluation.
        """
        modes = list(modes)
        wanted = {modality for mode in modes for modality in mode.inputs}
        tokens = self.separate({modality: value for modality, value in inputs.items() if modality in wanted}, branch_key(key, 0))
        return {mode: self.logits(tokens, mode, branch_key(key, number)) for number, mode in enumerate(modes, start=1)}

    def separate(self, inputs: Inputs, key: RowKey | None = None) -> Tokens:
        """Computes the tokens before the joint blocks, of all given modalities; `key` is that of drop-path in training."""
        return self.encoder.separate(inputs, key=key)

    def final(self, tokens: Tokens, mode: Mode, key: RowKey | None = None) -> Tokens:
        """Computes the float32[B, L, D] segments that the head pools in a mode; raises as __call__."""
        needed = {name: segment for modality in mode.inputs for name, segment in of_modality(tokens, modality).items()}
        passes = [self.encoder.joint(needed, stream, key=key) for stream in mode.streams]
        return jax.tree.map(lambda *segments: sum(segments[1:], segments[0]) / len(segments), *passes)

    def parts(self, tokens: Tokens, mode: Mode, key: RowKey | None = None) -> list[tuple[Head, Tokens, float]]:
        """Lists the heads whose logits are added up, each with the tokens that it pools and its factor in the sum: here the only one."""
        return [(self.head, self.final(tokens, mode, key), 1.0)]

    def logits(self, tokens: Tokens, mode: Mode, key: RowKey | None = None) -> Float32[Array, "B C"]:
        """Computes the logits of the tokens of separate; raises as __call__. `key` is that of drop-path and dropout in training."""
        return self.head(self.head.pool(self.final(tokens, mode, branch_key(key, 0))), branch_key(key, 1))

    def vectors(self, tokens: Tokens, what: Sequence[str] = VECTORS) -> dict[str, Float32[Array, "B ... D"]]:
        """Computes the vectors of Encoder.vectors of the tokens of separate."""
        return self.encoder.vectors(tokens, what)

    def embed(self, inputs: Inputs, what: Sequence[str] = VECTORS) -> dict[str, Float32[Array, "B ... D"]]:
        """Computes the vectors of `vectors` of inputs, of which one modality may be missing."""
        return self.vectors(self.separate(inputs), what)


def stages(config: ModelConfig, mode: Mode) -> list[Stage]:
    """Lists every run of a block stack in one pass of a mode, for the arithmetic and memory of a step."""
    shape = config.shape
    lengths = [rows * columns for rows, columns in map(config.grid, mode.inputs)]
    towers = [Stage(shape.depth - config.joint_depth, length, shape.width) for length in lengths]
    return [*towers, Stage(config.joint_depth * len(mode.streams), sum(lengths), shape.width)]
