"""Compares files of the classifiers of CAV-MAE Sync: one encoder, and for each mode a head of its own, with logits, loss and gradients."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.modes import Mode
from avmae_jax.models.sync_classifier import MODES, SyncClassifier
from avmae_jax.train import optim
from avmae_jax.trees import flatten
from avmae_jax.weights import build, official_sizes
from parity.recorded.arrays import Arrays, GoldenError, has, inputs_of, part, require
from parity.recorded.classifier import losses
from parity.recorded.tensors import gradient_rows
from parity.recorded.trials import best, error_of, head_counts
from parity.rows import OUTPUT_TOLERANCE, Row, compare


class Tuned(NamedTuple):
    """Holds the classifier of one mode."""

    name: str  # of the mode in the file, with what the pairs' vectors become if that isn't usual: "audioonly_none"
    mode: Mode
    config: ModelConfig
    model: SyncClassifier


class Recorded:
    """Holds a file and the models with its weights.

    Raises:
      GoldenError: if the file lacks an array without which nothing can be compared.
    """

    title = "classifier of CAV-MAE Sync"
    needed = ("param.*", "in.audio", "in.image", "in.labels")

    def __init__(self, arrays: Arrays):
        require(arrays, self.title, self.needed)
        self.arrays, self.params = arrays, part(arrays, "param.")
        self.given = inputs_of(arrays["in.audio"], arrays["in.image"])
        self.labels = jnp.asarray(arrays["in.labels"])
        self.tuned: list[Tuned] = []
        for name in dict.fromkeys(found[1] for key in arrays if (found := re.fullmatch(r"out\.(\w+)\.logits", key))):
            heads = [self.config.shape.heads] if self.tuned else []  # all share the encoder
            self.tuned.append(self._find(name, heads))
        if not self.tuned:
            raise GoldenError(f"it has values of a {self.title}, but out.<mode>.logits are missing; record them too")

    @property
    def config(self) -> ModelConfig:
        """Returns what was found of the first mode's model."""
        return self.tuned[0].config

    def _find(self, name: str, heads: list[int]) -> Tuned:
        """Finds the model of a mode: sizes from the weights, heads by trial unless they are known."""
        mode = next((mode for mode in MODES if mode.name == name.partition("_")[0]), None)
        if mode is None:
            raise GoldenError(f"out.{name}.logits is of no mode; its name must begin with one of {', '.join(map(str, MODES))}")
        tensors = self.params | part(self.arrays, f"param_{name}.")
        if not (classes := official_sizes.count_classes(tensors)):
            raise GoldenError(f"out.{name}.logits needs a head: param_{name}.classifier_head.* or param_{name}.mlp_head.* is missing")
        trained = any(key.startswith("grad.") and key.endswith(("pos_embed_a", "pos_embed_v")) for key in self.arrays)
        sizes = official_sizes.infer_sizes(tensors, heads=1, mel_bins=self.given["audio"].shape[-1])
        config = dataclasses.replace(sizes, kind="sync_classifier", learned_positions=trained)

        def made(config: ModelConfig) -> SyncClassifier:
            return build.build_official(lambda: SyncClassifier(config, classes, rngs=build.AnyKey()), tensors)

        def error(config: ModelConfig) -> float:
            def logits(model: SyncClassifier) -> jax.Array:
                return self._logits(model, mode, config)

            return error_of(made(config), logits, (), self.arrays[f"out.{name}.logits"])

        config = best(config, "heads", heads or head_counts(config.shape.width), error)
        return Tuned(name, mode, config, made(config))

    def _logits(self, model: SyncClassifier, mode: Mode, config: ModelConfig) -> jax.Array:
        """Computes the logits of clips or, where no block runs over the pairs, of each pair as if it were a clip."""
        inputs = self.given
        if not config.pair_depth:
            inputs = {modality: values.reshape(-1, 1, *values.shape[2:]) for modality, values in inputs.items()}
        return model(inputs, mode)

    def output_rows(self) -> Iterator[Row]:
        """Compares logits and losses of every mode; raises GoldenError for what the models don't have."""
        ours: dict[str, Any] = {}
        for tuned in self.tuned:
            logits = nnx.jit(lambda model, tuned=tuned: self._logits(model, tuned.mode, tuned.config))(tuned.model)
            found = losses(logits, self.labels) if tuned.config.pair_depth else {"logits": logits}
            ours |= {f"{tuned.name}.{quantity}": value for quantity, value in found.items()}
        for name, reference in part(self.arrays, "out.").items():
            if name not in ours:
                raise GoldenError(f"out.{name} is no quantity of the {self.title}, or its inputs are missing; take it out or record them")
            yield compare(f"out.{name}", ours[name], reference, OUTPUT_TOLERANCE)

    def training_rows(self) -> Iterator[Row]:
        """Compares the gradients of binary cross-entropy in the modes for which the file has them."""
        for name, mode, config, model in self.tuned:
            if has(self.arrays, prefix := f"grad.{name}."):
                graph, weights, rest = nnx.split(model, optim.trainable(config), ...)

                def loss(weights: Any, graph: Any = graph, rest: Any = rest, mode: Mode = mode, config: ModelConfig = config) -> jax.Array:
                    return losses(self._logits(nnx.merge(graph, weights, rest), mode, config), self.labels)["bce"]

                yield from gradient_rows(prefix, flatten(jax.jit(jax.grad(loss))(weights)), part(self.arrays, prefix))

    def rows(self) -> list[Row]:
        """Compares everything that the file holds."""
        return [*self.output_rows(), *self.training_rows()]

    def notes(self) -> list[str]:
        """Describes what was found in the file or by trial."""
        modes = ", ".join(f"{name} (pair_pool={config.pair_pool}, pair_depth={config.pair_depth})" for name, _, config, _ in self.tuned)
        return [f"{self.title}: {self.config.shape}, joint_depth={self.config.joint_depth}, registers={self.config.registers}", modes]
