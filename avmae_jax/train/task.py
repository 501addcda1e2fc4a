"""What a model is trained for, as the loop in train.py sees it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import optax

from avmae_jax.config import Config, Modality
from avmae_jax.train import optim
from avmae_jax.train.step import Metrics


class Task(ABC):
    """Pretraining, or classification in fine-tuning."""

    label_names: Sequence[str] = ()  # of the classes whose targets batches carry; empty: none

    def __init__(self, config: Config):
        self.config = config

    @abstractmethod
    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array, groups: int) -> tuple[jax.Array, Metrics]:
        """The loss of a batch on the device and its parts, with "loss" among them; the batch lies in `groups` parts on the devices."""

    @property
    def needs(self) -> Modality:
        """What batches carry."""
        return cast(Modality, self.config.model.modality)  # validated

    @property
    def averaged_epochs(self) -> tuple[int, int]:
        """The first and the last epoch, counted from 1, whose weights are averaged; (0, 0): none."""
        return 0, 0

    def draw(self, model: Any, step: int) -> None:
        """Pictures of what the model does after a step: none, unless a task has some."""
        return

    def trainable(self) -> Any:
        """The nnx filter of the parameters that training changes."""
        return optim.trainable(self.config.model)

    def optimizer(self, steps_per_epoch: float) -> optax.GradientTransformation:
        """What changes them."""
        return optim.adam(self.config.optim, steps_per_epoch)

    def evaluate(self, model: Any, mean_losses: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What is measured on the held-out clips: the means that the loop takes of their losses, unless a task looks at other things."""
        return mean_losses()

    def better(self, measured: dict[str, float]) -> float | None:
        """Of two evaluations the one with the higher number is the better one; None: the task keeps no best weights."""
        return None
