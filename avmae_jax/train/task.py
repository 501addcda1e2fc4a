"""Defines the interface between a task, such as pretraining, and the loop in train/loop.py."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import optax

from avmae_jax.config import Config, Modality
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.rows import TrainOptions
from avmae_jax.models.registry import kind_of
from avmae_jax.train import optim
from avmae_jax.train.step import Comparing, Context, Metrics


class Task(ABC):
    """Describes what a model is trained for. A subclass defines the losses; every other method has a default."""

    label_names: Sequence[str] = ()  # of the classes whose targets batches carry; empty: none

    def __init__(self, config: Config):
        self.config = config

    @property
    @abstractmethod
    def loss_weights(self) -> Mapping[str, float]:
        """Returns the weight of each loss in the total."""

    @abstractmethod
    def losses(self, model: Any, batch: Mapping[str, jax.Array], context: Context) -> tuple[Metrics, Metrics]:
        """Computes the losses of a batch on the device by name, not weighted, and further metrics."""

    @property
    def comparing(self) -> Comparing | None:
        """Returns the task if its losses compare all clips of a batch, also of one that is computed in micro-batches; by default None."""
        return None

    def negatives(self, micro_batch: int, groups: int) -> int:
        """Returns the number of pairs among which a contrastive loss chooses; by default 0: there is none.

        Args:
          micro_batch: pairs computed at once.
          groups: number of parts into which the mesh cuts a batch.
        """
        return 0

    def init_extra(self, params: Any) -> Any:
        """Returns the task's own state at the start of a run: the averaged weights under "ema" where train.ema asks for them.

        It is a pytree of jax arrays, and is checkpointed with the run. A task that keeps more, such as a teacher, adds it.

        Args:
          params: nnx.State of the trained parameters.
        """
        return {"ema": params} if self.config.train.ema else {}

    def update_extra(self, extra: Any, params: Any, step: jax.Array) -> Any:
        """Computes the task's own state after a step, inside the jitted step.

        Args:
          extra: the state before the step.
          params: the trained parameters after it.
          step: counted from 0.
        """
        return extra | {"ema": optim.averaged(extra["ema"], params, self.config.train.ema)} if self.config.train.ema else extra

    def begin(self, model: Any, train: ClipSource) -> None:  # noqa: B027 - most tasks need nothing
        """Sets in place what a fresh model must know of the training clips; by default nothing."""

    @property
    def needs(self) -> Modality:
        """Returns the modalities that batches carry."""
        return cast(Modality, self.config.model.modality)  # validated

    @property
    def pairs(self) -> bool:
        """Returns whether batches hold several images of a clip, each with the window of the audio around it."""
        return kind_of(self.config.model).pairs

    def train_options(self, weights: np.ndarray | None) -> TrainOptions:
        """Returns what training batches carry; `weights` are those by which clips are drawn, where the config asks for it."""
        return TrainOptions(
            self.config.augment, len(self.label_names), weights, self.needs, pairs=self.pairs, all_pairs=self.takes_all_pairs
        )

    @property
    def takes_all_pairs(self) -> bool:
        """Returns whether training takes all images of a clip, where batches hold several; by default as many as the config draws."""
        return False

    @property
    def averaged_epochs(self) -> tuple[int, int]:
        """Returns the first and the last epoch, counted from 1, whose weights are averaged; (0, 0): none."""
        return 0, 0

    def draw(self, model: Any, step: int) -> Path | None:
        """Draws a figure of the model's output after a step and returns its PNG, for TensorBoard; by default none."""
        return None

    def trainable(self) -> Any:
        """Returns the nnx filter of the parameters that training changes."""
        return optim.trainable(self.config.model)

    def schedule(self, steps_per_epoch: float, total_steps: int) -> optax.Schedule:
        """Returns the learning rate of each step."""
        return optim.learning_rate(self.config.optim, steps_per_epoch, total_steps)

    def optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the optimizer with that learning rate."""
        return optim.adam(self.config.optim, schedule, layers=optim.Layers.of(self.config.model))

    def evaluate(self, model: Any, mean_losses: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Evaluates the model on the held-out clips; by default with `mean_losses`, the loop's means of the losses."""
        return mean_losses()

    def ended(self, negatives: int) -> None:
        """Draws figures when a run ends or stops; by default none. The contrastive loss compared `negatives` pairs."""
        return

    def summary(self, model: Any) -> dict[str, Any]:
        """Computes further results for summary.json at the end of a run; by default none."""
        return {}

    def intervals(self) -> dict[str, Any]:
        """Computes intervals of the figures that were evaluated last, named as in evals/intervals.py; by default none."""
        return {}

    def better(self, measured: dict[str, float]) -> float | None:
        """Returns the result by which evaluations are compared, higher is better; None if the task keeps no best weights."""
        return None
