"""Defines a classifier for few labelled clips: each modality is classified by itself, and the logits are added (late fusion).

Trained on a few hundred clips, a joint head lets the modality that is soon memorised, a few photographs, drown out the other one. Here each
modality has a head and a loss of its own. A head is given the pooled tokens and, beside them, classical statistics of the whole input
(models/statistics.py), which such a small set is too little to learn.

Axis letters: B batch, L tokens, D width, S statistics, C classes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float32

from avmae_jax.config import ModelConfig
from avmae_jax.models import statistics
from avmae_jax.models.cavmae import MODALITIES, require_both
from avmae_jax.models.classifier import Head
from avmae_jax.models.encoder import VECTORS, Encoder, Inputs
from avmae_jax.models.layers import Stage, branch_key
from avmae_jax.models.masking import Mask
from avmae_jax.models.modes import Mode
from avmae_jax.models.tokens import Tokens, name_of

STATISTICS = "statistics"  # the segment statistics.audio is not of the audio's tokens
_FAR = 4.0  # deviations beyond which a statistic tells no more: it belongs to an input unlike those of training

BOTH = Mode("multimodal", MODALITIES, MODALITIES)
MODES = (BOTH, *(Mode(name, (given,), (given,), fallback=True) for name, given in zip(("audioonly", "videoonly"), MODALITIES, strict=True)))


class Constant(nnx.Param):
    """Holds numbers that belong to the weights and that no gradient changes."""


class ModalityHead(Head):
    """Turns one modality's tokens and statistics into logits."""

    def __init__(self, config: ModelConfig, modality: str, classes: int, *, rngs: nnx.Rngs):
        super().__init__(config, classes, rngs=rngs)
        size = statistics.SIZES[modality]
        zeros = nnx.initializers.zeros_init()
        self.statistics = nnx.Linear(size, classes, use_bias=False, kernel_init=zeros, rngs=rngs)
        self.centre, self.spread = Constant(jnp.zeros(size)), Constant(jnp.ones(size))

    def of_statistics(self, values: Float32[Array, "B S"]) -> Float32[Array, "B C"]:
        """Computes what the statistics add to the logits."""
        return self.statistics(jnp.clip((values - self.centre[...][None]) / self.spread[...][None], -_FAR, _FAR))


class LateClassifier(nnx.Module):
    """CAV-MAE's encoder with a head for each modality, whose logits are added.

    Args:
      config: sizes; its fields about the decoder have no effect.
      classes: C.
      rngs: `nnx.Rngs(seed)`.

    Raises:
      ValueError: if the config's sizes don't fit each other, or its modality isn't "both".
    """

    def __init__(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs):
        config.validate()
        require_both(config)
        self.encoder = Encoder(config, rngs=rngs)
        self.head = nnx.Dict({modality: ModalityHead(config, modality, classes, rngs=rngs) for modality in MODALITIES})
        self.image_factor = config.image_factor

    def __call__(self, inputs: Inputs, mode: Mode = BOTH) -> Float32[Array, "B C"]:
        """Computes the logits of one mode.

        Args:
          inputs: "audio" -> normalised log-mel, float[B, T, M]; "image" -> normalised image, float[B, H, W, 3]. The mode's inputs must be
            given; others have no effect.
          mode: which modalities are used.

        Raises:
          ValueError: if a modality that the mode needs isn't given.
        """
        return self.each(inputs, [mode])[mode]

    def each(
        self, inputs: Inputs, modes: Iterable[Mode], key: jax.Array | None = None, masks: dict[str, Mask] | None = None
    ) -> dict[Mode, Float32[Array, "B C"]]:
        """Computes the logits of several modes, for which the inputs run through their towers once; raises as __call__.

        Args:
          inputs: as of __call__.
          modes: which are computed.
          key: of drop-path and dropout in training; None: evaluation.
          masks: which patches of each modality are used, in training; None: all.
        """
        modes = list(modes)
        wanted = {modality for mode in modes for modality in mode.inputs}
        tokens = self.separate({modality: value for modality, value in inputs.items() if modality in wanted}, branch_key(key, 0), masks)
        return {mode: self.logits(tokens, mode, branch_key(key, 1)) for mode in modes}

    def separate(self, inputs: Inputs, key: jax.Array | None = None, masks: dict[str, Mask] | None = None) -> Tokens:
        """Computes the tokens before the joint blocks and the statistics, of all given modalities."""
        tokens = self.encoder.separate(inputs, masks, key=key)
        return tokens | {name_of(STATISTICS, modality): values[:, None] for modality, values in measure(inputs).items()}

    def parts(self, tokens: Tokens, mode: Mode, key: jax.Array | None = None) -> list[tuple[Head, Tokens, float]]:
        """Lists for each modality of a mode its head, the tokens that it pools, and the factor of its logits in the sum."""
        factors = {"audio": 1.0, "image": self.image_factor if len(mode.inputs) > 1 else 1.0}
        return [
            (self.head[modality], self.encoder.joint(tokens, modality, key=branch_key(key, number)), factors[modality])
            for number, modality in enumerate(mode.inputs)
        ]

    def logits(self, tokens: Tokens, mode: Mode, key: jax.Array | None = None) -> Float32[Array, "B C"]:
        """Computes the logits of what separate returns; raises as __call__. `key` is that of drop-path and dropout in training."""
        total: Any = 0.0
        parts = self.parts(tokens, mode, branch_key(key, 0))
        for number, (modality, (head, own, factor)) in enumerate(zip(mode.inputs, parts, strict=True)):
            values = tokens[name_of(STATISTICS, modality)][:, 0]
            found = head(head.pool(own), branch_key(key, 1 + number)) + self.head[modality].of_statistics(values)
            total += factor * found
        return total

    def embed(self, inputs: Inputs, what: Sequence[str] = VECTORS) -> dict[str, Float32[Array, "B D"]]:
        """Computes the vectors of Encoder.vectors of inputs, of which one modality may be missing."""
        return self.encoder.vectors(self.encoder.separate(inputs), what)

    def standardise(self, values: dict[str, Any]) -> None:
        """Sets in place by which values the statistics are centred and divided.

        Args:
          values: modality -> float[N, S], the statistics of training clips.
        """
        for modality, measured in values.items():
            head = self.head[modality]
            head.centre[...] = jnp.asarray(measured.mean(axis=0), jnp.float32)
            head.spread[...] = jnp.asarray(measured.std(axis=0) + 1e-3, jnp.float32)


def measure(inputs: Inputs) -> dict[str, Float32[Array, "B S"]]:
    """Computes the statistics of each given modality. Nothing before them is learned, so they need no gradients."""
    of = {"audio": statistics.cosine_statistics, "image": statistics.edge_statistics}
    return {modality: of[modality](jax.lax.stop_gradient(value)) for modality, value in inputs.items()}


def stages(config: ModelConfig, mode: Mode) -> list[Stage]:
    """Lists every run of a block stack in one pass of a mode, for the arithmetic and memory of a step."""
    shape = config.shape
    lengths = [rows * columns for rows, columns in map(config.grid, mode.inputs)]
    return [Stage(depth, length, shape.width) for length in lengths for depth in (shape.depth - config.joint_depth, config.joint_depth)]
