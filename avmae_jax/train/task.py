"""Describes what a model is trained for, as the loop in train/loop.py sees it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import optax

from avmae_jax.config import Config, Modality
from avmae_jax.train import optim
from avmae_jax.train.step import Context, Metrics


class Task(ABC):
    """Pretraining, or classification in fine-tuning."""

    label_names: Sequence[str] = ()  # of the classes whose targets batches carry; empty: none

    def __init__(self, config: Config):
        self.config = config

    @property
    @abstractmethod
    def loss_weights(self) -> Mapping[str, float]:
        """The weight of each loss in the total."""

    @abstractmethod
    def losses(self, model: Any, batch: Mapping[str, jax.Array], context: Context) -> tuple[Metrics, Metrics]:
        """Computes the losses of a batch on the device by name, not weighted, and further metrics."""

    def init_extra(self, params: Any) -> Any:
        """Makes the task's own state, which is checkpointed with the run: averaged weights or a teacher, for example. {}: it has none."""
        return {}

    def update_extra(self, extra: Any, params: Any, step: jax.Array) -> Any:
        """Computes the task's own state after a step, inside the jitted step; `step` counts from 0."""
        return extra

    @property
    def needs(self) -> Modality:
        """What batches carry."""
        return cast(Modality, self.config.model.modality)  # validated

    @property
    def averaged_epochs(self) -> tuple[int, int]:
        """The first and the last epoch, counted from 1, whose weights are averaged; (0, 0): none."""
        return 0, 0

    def draw(self, model: Any, step: int) -> None:
        """Draws pictures of what the model does after a step: none, unless a task has some."""
        return

    def trainable(self) -> Any:
        """Returns the nnx filter of the parameters that training changes."""
        return optim.trainable(self.config.model)

    def schedule(self, steps_per_epoch: float) -> optax.Schedule:
        """Returns the learning rate of each step."""
        return optim.learning_rate(self.config.optim, steps_per_epoch)

    def optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the optimizer with that learning rate."""
        return optim.adam(self.config.optim, schedule)

    def evaluate(self, model: Any, mean_losses: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Measures the model on the held-out clips; by default `mean_losses`, the loop's means of the losses."""
        return mean_losses()

    def ended(self, negatives: int) -> None:
        """Draws what is drawn when a session ends; the contrastive loss chose among `negatives` pairs."""
        return

    def summary(self, model: Any) -> dict[str, Any]:
        """Measures what summary.json holds beside the held-out measurements, at the end of a run."""
        return {}

    def better(self, measured: dict[str, float]) -> float | None:
        """Returns the number that is higher for the better of two evaluations; None: the task keeps no best weights."""
        return None
