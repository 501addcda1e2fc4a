"""The Audio Spectrogram Transformer (Gong et al., arXiv 2104.01778): the audio-only classifier that CAV-MAE grew out of.

Axis letters: B batch, T spectrogram frames, M mel bins, D width, C classes.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.classifier import Head
from avmae_jax.models.encoder import Tower
from avmae_jax.models.layers import MAIN, stream_norms
from avmae_jax.models.patches import spectrogram_picture

STRIDE = 10  # pixels between patches of 16, which therefore overlap
_TOKENS = 2  # class and distillation


class AST(nnx.Module):
    """Overlapping patches of a spectrogram and two tokens of no patch through one stack of blocks; the two tokens' mean is classified.

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
        self.tower = Tower(config, "audio", depth=config.shape.depth, prefix=_TOKENS, stride=stride, rngs=rngs)
        self.norm = stream_norms(config.shape.width, (MAIN,), config.norm_eps, rngs)
        self.head = Head(config, classes, rngs=rngs)

    def features(self, fbank: jax.Array) -> jax.Array:
        """Tokens after the norm, class and distillation token first: float[B, T, M] -> float32[B, 2 + L, D]."""
        return self.norm[MAIN](self.tower.separate(self.tower.embed(spectrogram_picture(fbank))))

    def __call__(self, fbank: jax.Array) -> jax.Array:
        """Normalised log-mel float[B, T, M] -> logits float32[B, C]."""
        return self.head(jnp.mean(self.features(fbank)[:, :_TOKENS], axis=1))
