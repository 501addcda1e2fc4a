"""Defines the fine-tuned model: CAV-MAE's encoder and a linear head on the mean of its tokens (arXiv 2210.07839, section 4.2).

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, L tokens, D width, C classes.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float32

from avmae_jax.config import ModelConfig
from avmae_jax.models.cavmae import require_both
from avmae_jax.models.encoder import VECTORS, Encoder, Inputs
from avmae_jax.models.layers import Stage, layer_norm, linear
from avmae_jax.models.modes import MULTIMODAL, Mode
from avmae_jax.models.pooling import pool
from avmae_jax.models.tokens import Tokens, of_modality


class Head(nnx.Module):
    """Turns pooled tokens into logits: LayerNorm and a linear layer."""

    def __init__(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs):
        self.norm = layer_norm(config.shape.width, config.norm_eps, rngs)
        self.linear = linear(config.shape.width, classes, jnp.dtype(config.compute_dtype), rngs)

    def __call__(self, pooled: Float32[Array, "B D"]) -> Float32[Array, "B C"]:
        """Computes the logits of pooled tokens."""
        return self.linear(self.norm(pooled)).astype(jnp.float32)


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
        self.head = Head(config, classes, rngs=rngs)

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

    def each(self, inputs: Inputs, modes: Iterable[Mode]) -> dict[Mode, Float32[Array, "B C"]]:
        """Computes the logits of several modes, for which the inputs run through their towers once; raises as __call__."""
        modes = list(modes)
        wanted = {modality for mode in modes for modality in mode.inputs}
        tokens = self.separate({modality: value for modality, value in inputs.items() if modality in wanted})
        return {mode: self.logits(tokens, mode) for mode in modes}

    def separate(self, inputs: Inputs) -> Tokens:
        """Computes the tokens before the joint blocks, of all given modalities."""
        return self.encoder.separate(inputs)

    def final(self, tokens: Tokens, mode: Mode) -> Tokens:
        """Computes the float32[B, L, D] segments whose mean the head takes in a mode; raises as __call__."""
        needed = {name: segment for modality in mode.inputs for name, segment in of_modality(tokens, modality).items()}
        passes = [self.encoder.joint(needed, stream) for stream in mode.streams]
        return jax.tree.map(lambda *segments: sum(segments[1:], segments[0]) / len(segments), *passes)

    def logits(self, tokens: Tokens, mode: Mode) -> Float32[Array, "B C"]:
        """Computes the logits of the tokens of separate; raises as __call__."""
        return self.head(pool(self.final(tokens, mode)))

    def embed(self, inputs: Inputs, what: Sequence[str] = VECTORS) -> dict[str, Float32[Array, "B D"]]:
        """Computes the vectors of Encoder.vectors of inputs, of which one modality may be missing."""
        return self.encoder.vectors(self.separate(inputs), what)


def stages(config: ModelConfig, mode: Mode) -> list[Stage]:
    """Lists every run of a block stack in one pass of a mode, for the arithmetic and memory of a step."""
    shape = config.shape
    lengths = [rows * columns for rows, columns in map(config.grid, mode.inputs)]
    towers = [Stage(shape.depth - config.joint_depth, length, shape.width) for length in lengths]
    return [*towers, Stage(config.joint_depth * len(mode.streams), sum(lengths), shape.width)]
