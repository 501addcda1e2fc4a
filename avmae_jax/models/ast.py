"""Defines the Audio Spectrogram Transformer (Gong et al., arXiv 2104.01778): the audio-only classifier that CAV-MAE grew out of.

Axis letters: B batch, T spectrogram frames, M mel bins, D width, C classes.
"""

from collections.abc import Iterable

from flax import nnx
from jaxtyping import Array, Float32

from avmae_jax.config import ModelConfig
from avmae_jax.models.classifier import Head
from avmae_jax.models.encoder import Inputs, Tower
from avmae_jax.models.layers import MAIN, Stage, branch_key, stream_norms
from avmae_jax.models.modes import Mode
from avmae_jax.models.patches import grid_of
from avmae_jax.models.pooling import pool
from avmae_jax.models.rows import RowKey
from avmae_jax.models.tokens import Tokens, through

STRIDE = 10  # pixels between patches of 16, which therefore overlap
TOKENS = 2  # class and distillation
AUDIO = Mode("audioonly", ("audio",), (MAIN,))  # the one mode of an AST


class AST(nnx.Module):
    """Classifies audio: a stack of blocks over overlapping patches and two tokens of no patch, whose mean the head takes.

    Args:
      config: sizes of the audio side; its `modality` is "audio".
      classes: C.
      stride: pixels between patches, in both directions.
      rngs: `nnx.Rngs(seed)`.

    Raises:
      ValueError: if the config's sizes don't fit each other.
    """

    def __init__(self, config: ModelConfig, classes: int, *, stride: int = STRIDE, rngs: nnx.Rngs):
        config.validate()
        self.tower = Tower(config, "audio", depth=config.shape.depth, prefix=TOKENS, stride=stride, rngs=rngs)
        self.norm = stream_norms(config.shape.width, (MAIN,), config.norm_eps, rngs)
        self.head = Head(config, classes, rngs=rngs)

    def separate(self, inputs: Inputs, key: RowKey | None = None) -> Tokens:
        """Computes the float32 segments after the norm, class and distillation token first; `key` is that of drop-path in training."""
        return through(self.norm[MAIN], self.tower.separate(self.tower.embed(inputs["audio"]), key))

    def logits(self, tokens: Tokens, mode: Mode = AUDIO, key: RowKey | None = None) -> Float32[Array, "B C"]:
        """Computes the logits of the tokens of separate; `key` is that of dropout in training."""
        return self.head(pool(tokens, "global"), key)

    def each(self, inputs: Inputs, modes: Iterable[Mode], key: RowKey | None = None) -> dict[Mode, Float32[Array, "B C"]]:
        """Computes the logits of each mode, of which an AST has one; `key` is that of drop-path and dropout in training."""
        tokens = self.separate(inputs, branch_key(key, 0))
        return {mode: self.logits(tokens, mode, branch_key(key, 1)) for mode in modes}

    def __call__(self, inputs: Inputs, mode: Mode = AUDIO) -> Float32[Array, "B C"]:
        """Computes the logits of "audio" -> normalised log-mel, float[B, T, M]."""
        return self.each(inputs, [mode])[mode]


def stages(config: ModelConfig) -> list[Stage]:
    """Lists every run of a block stack in one pass, for the arithmetic and memory of a step."""
    rows, columns = grid_of(config.mel_bins, config.audio_frames, config.patch, STRIDE)
    return [Stage(config.shape.depth, TOKENS + rows * columns, config.shape.width)]
