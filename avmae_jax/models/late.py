"""Defines a classifier for few labelled clips: each modality is classified by itself, and the logits are added (late fusion).

Trained on a few hundred clips, a joint head lets the modality that is soon memorised, a few photographs, drown out the other one. Here each
modality has a head and a loss of its own. A head is given the pooled tokens and, beside them, classical statistics of the whole input
(models/statistics.py), which such a small set is too little to learn.

Axis letters: B batch, L tokens, D width, S statistics, C classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float32

from avmae_jax.config import ModelConfig
from avmae_jax.models import statistics
from avmae_jax.models.cavmae import MODALITIES
from avmae_jax.models.classifier import CAVMAEClassifier, Head
from avmae_jax.models.encoder import Inputs
from avmae_jax.models.layers import Stage, branch_key
from avmae_jax.models.modes import Mode
from avmae_jax.models.rows import RowKey
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


class LateClassifier(CAVMAEClassifier):
    """CAV-MAE's encoder with a head for each modality, whose logits are added; arguments and errors are those of CAVMAEClassifier."""

    def __init__(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs):
        super().__init__(config, classes, rngs=rngs)
        self.image_factor = config.image_factor

    def make_head(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """Makes a head for each modality."""
        return nnx.Dict({modality: ModalityHead(config, modality, classes, rngs=rngs) for modality in MODALITIES})

    def __call__(self, inputs: Inputs, mode: Mode = BOTH) -> Float32[Array, "B C"]:
        """Computes the logits of one mode; arguments and errors are those of CAVMAEClassifier."""
        return super().__call__(inputs, mode)

    def separate(self, inputs: Inputs, key: RowKey | None = None) -> Tokens:
        """Computes the tokens before the joint blocks and the statistics, of all given modalities; `key` is that of training."""
        statistics_of = {name_of(STATISTICS, modality): values[:, None] for modality, values in measure(inputs).items()}
        return super().separate(inputs, key) | statistics_of

    def parts(self, tokens: Tokens, mode: Mode, key: RowKey | None = None) -> list[tuple[Head, Tokens, float]]:
        """Lists for each modality of a mode its head, the tokens that it pools, and the factor of its logits in the sum."""
        factors = {"audio": 1.0, "image": self.image_factor if len(mode.inputs) > 1 else 1.0}
        return [
            (self.head[modality], self.encoder.joint(tokens, modality, key=branch_key(key, number)), factors[modality])
            for number, modality in enumerate(mode.inputs)
        ]

    def logits(self, tokens: Tokens, mode: Mode, key: RowKey | None = None) -> Float32[Array, "B C"]:
        """Computes the sum of the modalities' logits, of what separate returns; raises as __call__. `key` is that of training."""
        total: Any = 0.0
        parts = self.parts(tokens, mode, branch_key(key, 0))
        for number, (modality, (head, own, factor)) in enumerate(zip(mode.inputs, parts, strict=True)):
            values = tokens[name_of(STATISTICS, modality)][:, 0]
            found = head(head.pool(own), branch_key(key, 1 + number)) + self.head[modality].of_statistics(values)
            total += factor * found
        return total

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
