"""What a model is trained for, as the loop in train.py sees it."""

from abc import ABC, abstractmethod
from typing import Any

import jax
import optax

from avmae_jax import optim
from avmae_jax.config import Config
from avmae_jax.step import Metrics


class Task(ABC):
    """Pretraining, or classification in fine-tuning."""

    classes = 0  # C of the targets that batches carry; 0: none

    def __init__(self, config: Config):
        self.config = config

    @abstractmethod
    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array, groups: int) -> tuple[jax.Array, Metrics]:
        """The loss of a batch on the device and its parts, with "loss" among them; the batch lies in `groups` parts on the devices."""

    def draw(self, model: Any, step: int) -> None:
        """Pictures of what the model does after a step: none, unless a task has some."""
        return

    def trainable(self) -> Any:
        """The nnx filter of the parameters that training changes."""
        return optim.trainable(self.config.model)

    def optimizer(self, steps_per_epoch: float) -> optax.GradientTransformation:
        """What changes them."""
        return optim.adam(self.config.optim, steps_per_epoch)

    def measure(self, model: Any) -> dict[str, float]:
        """What can't be averaged over batches, on the held-out clips: nothing, unless a task has something."""
        return {}
