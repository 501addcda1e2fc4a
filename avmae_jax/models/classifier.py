"""The fine-tuned model: the encoder of CAV-MAE and a linear head on the mean of its tokens (Gong et al., arXiv 2210.07839, section 4.2).

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, L tokens, D width, C classes.
"""

from collections.abc import Iterable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from avmae_jax.config import Modality, ModelConfig
from avmae_jax.models.encoder import Encoder
from avmae_jax.models.layers import MAIN, layer_norm, linear

Mode = Literal["multimodal", "audioonly", "videoonly", "missingaudioonly", "missingvideoonly"]


def modality_of(mode: Mode) -> Modality:
    """What a mode looks at; ValueError if there is no such mode."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}; choose one of {', '.join(get_args(Mode))}")
    return "both" if mode == "multimodal" else "audio" if "audio" in mode else "image"


class Head(nnx.Module):
    """LayerNorm and a linear layer: float32[B, D] -> float32[B, C]."""

    def __init__(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs):
        self.norm = layer_norm(config.shape.width, config.norm_eps, rngs)
        self.linear = linear(config.shape.width, classes, jnp.dtype(config.compute_dtype), rngs)

    def __call__(self, pooled: jax.Array) -> jax.Array:
        """Logits of pooled tokens."""
        return self.linear(self.norm(pooled)).astype(jnp.float32)


class CAVMAEClassifier(nnx.Module):
    """CAV-MAE's encoder with a classification head.

    Args:
      config: sizes; what it says of the decoder and of masking has no effect.
      classes: C.
      rngs: `nnx.Rngs(seed)`.

    Raises:
      ValueError: if the config's sizes don't fit each other.
    """

    def __init__(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs):
        config.validate()
        self.encoder = Encoder(config, rngs=rngs)
        self.head = Head(config, classes, rngs=rngs)

    def __call__(self, fbank: jax.Array | None = None, image: jax.Array | None = None, *, mode: Mode = "multimodal") -> jax.Array:
        """Logits: float32[B, C].

        Args:
          fbank: normalised log-mel, float[B, T, M]; modes of the picture alone don't look at it.
          image: normalised image, float[B, H, W, 3]; modes of the sound alone don't look at it.
          mode: `multimodal`: all tokens of both, each counting alike. `audioonly`, `videoonly`: one modality, with its own norms, for a
            model tuned on it alone. `missingaudioonly`, `missingvideoonly`: only that modality is given, to a model tuned on both.

        Raises:
          ValueError: for an unknown mode, or if a modality that the mode needs isn't given.
        """
        return self.each(fbank, image, [mode])[mode]

    def each(self, fbank: jax.Array | None, image: jax.Array | None, modes: Iterable[Mode]) -> dict[Mode, jax.Array]:
        """The logits of several modes, for which the inputs go through their towers once; see __call__."""
        wanted = {modality_of(mode) for mode in modes}
        given = {"audio": fbank, "image": image}
        tokens = {name: self._separate(name, inputs) for name, inputs in given.items() if wanted & {name, "both"}}
        return {mode: self.head(final_tokens(self.encoder, tokens, mode).mean(axis=1)) for mode in modes}

    def _separate(self, modality: str, inputs: jax.Array | None) -> jax.Array:
        if inputs is None:
            raise ValueError(f"this mode needs {modality}, which isn't given; choose a mode of what there is")
        return self.encoder.separate(modality, inputs)


def final_tokens(encoder: Encoder, tokens: dict[str, jax.Array], mode: Mode) -> jax.Array:
    """The tokens whose mean is what the head sees in a mode: float32[B, L, D], sound before picture.

    Args:
      encoder: of the model.
      tokens: [B, L, D] of each modality that the mode looks at, before the joint blocks.
      mode: see CAVMAEClassifier.__call__.
    """
    modality = modality_of(mode)
    if modality == "both":
        return encoder.joint(jnp.concatenate([tokens["audio"], tokens["image"]], axis=1))
    own = encoder.joint(tokens[modality], modality)
    # A model tuned on both knows the joint norms; with one modality missing the original takes the mean of both passes.
    return (own + encoder.joint(tokens[modality], MAIN)) / 2 if mode.startswith("missing") else own
