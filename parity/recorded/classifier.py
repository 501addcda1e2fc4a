"""Compares files of the classifier of CAV-MAE: logits, losses and gradients of its modes, and features of its encoder."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.cavmae import MODALITIES
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.modes import MODES, Mode
from avmae_jax.models.tokens import join
from avmae_jax.train import optim
from avmae_jax.trees import flatten
from avmae_jax.weights import build, official_sizes
from parity.recorded.arrays import Arrays, GoldenError, has, inputs_of, part, require
from parity.recorded.tensors import gradient_rows
from parity.recorded.trials import best, error_of, head_counts
from parity.rows import OUTPUT_TOLERANCE, Row, compare


def losses(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Computes "logits" again, and "bce" and "ce", the two losses of fine-tuning."""
    bce = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
    return {"logits": logits, "bce": bce, "ce": optax.softmax_cross_entropy(logits, labels).mean()}


class Recorded:
    """Holds a file and the model with its weights.

    Raises:
      GoldenError: if the file lacks an array without which nothing can be compared.
    """

    title = "classifier of CAV-MAE"
    needed = ("param.*", "param.mlp_head.1.weight", "in.audio", "in.image", "in.labels", "out.logits.*")

    def __init__(self, arrays: Arrays):
        require(arrays, self.title, self.needed)
        self.arrays, self.params = arrays, part(arrays, "param.")
        self.given = inputs_of(arrays["in.audio"], arrays["in.image"])
        self.labels = jnp.asarray(arrays["in.labels"])
        self.modes = [mode for mode in MODES if f"out.logits.{mode}" in arrays]
        if unknown := part(arrays, "out.logits.").keys() - {mode.name for mode in self.modes}:
            raise GoldenError(f"out.logits.{min(unknown)} is of no mode; there are {', '.join(map(str, MODES))}")
        config = official_sizes.infer_sizes(self.params, heads=1, mel_bins=self.given["audio"].shape[2])
        trained = any(name.startswith("grad.") and name.endswith(("pos_embed_a", "pos_embed_v")) for name in arrays)
        config = dataclasses.replace(config, learned_positions=trained)
        self.config = best(config, "heads", head_counts(config.shape.width), self._error)
        self.model = self.build(self.config)

    def build(self, config: ModelConfig) -> CAVMAEClassifier:
        """Builds the JAX model with the file's weights."""
        classes = official_sizes.count_classes(self.params)
        return build.build_official(lambda: CAVMAEClassifier(config, classes, rngs=build.AnyKey()), self.params)

    def _error(self, config: ModelConfig) -> float:
        mode = self.modes[0]
        reference = self.arrays[f"out.logits.{mode}"]
        return error_of(self.build(config), lambda model, given: model(given, mode), (self.given,), reference)

    def output_rows(self) -> Iterator[Row]:
        """Compares logits and losses of every mode, and features; raises GoldenError for what the model doesn't have."""
        ours: dict[str, Any] = {f"feat_{modality}": _features(self.model, modality, self.given[modality]) for modality in MODALITIES}
        for mode in self.modes:
            found = losses(nnx.jit(CAVMAEClassifier.__call__, static_argnums=2)(self.model, self.given, mode), self.labels)
            ours |= {f"{name}.{mode}": value for name, value in found.items()}
        for name, reference in part(self.arrays, "out.").items():
            if name not in ours:
                raise GoldenError(f"out.{name} is no quantity of the {self.title}, or its inputs are missing; take it out or record them")
            yield compare(f"out.{name}", ours[name], reference, OUTPUT_TOLERANCE)

    def training_rows(self) -> Iterator[Row]:
        """Compares the gradients of binary cross-entropy in the modes for which the file has them."""
        graph, weights, rest = nnx.split(self.model, optim.trainable(self.config), ...)

        def loss(weights: Any, mode: Mode) -> jax.Array:
            return losses(nnx.merge(graph, weights, rest)(self.given, mode), self.labels)["bce"]

        for mode in self.modes:
            if has(self.arrays, prefix := f"grad.{mode}."):
                gradients = jax.jit(jax.grad(loss), static_argnums=1)(weights, mode)
                yield from gradient_rows(prefix, flatten(gradients), part(self.arrays, prefix))

    def rows(self) -> list[Row]:
        """Compares everything that the file holds."""
        return [*self.output_rows(), *self.training_rows()]

    def notes(self) -> list[str]:
        """Describes what was found in the file or by trial."""
        modes = ", ".join(map(str, self.modes))
        return [f"{self.title}: {self.config.shape}, joint_depth={self.config.joint_depth}; modes {modes}"]


def _features(model: CAVMAEClassifier, modality: str, inputs: jax.Array) -> jax.Array:
    run = nnx.jit(lambda model, inputs: join(model.encoder.joint(model.encoder.separate({modality: inputs}), modality)))
    return run(model, inputs)
