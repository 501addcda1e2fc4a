"""Converts between epochs and steps; an epoch is one pass over the training clips and needn't be a whole number of steps."""

import dataclasses

from avmae_jax.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Counts the epochs of a run."""

    steps: float  # optimizer steps in one epoch

    def total_steps(self, train: TrainConfig) -> int:
        """Returns the number of steps of a run: train.steps, or else train.epochs rounded to whole steps, at least one."""
        return train.steps or max(1, round(train.epochs * self.steps))

    def within(self, step: int) -> int:
        """Returns the number of epochs that have ended after so many steps."""
        return int((step + 0.5) / self.steps)

    def ended_at(self, step: int) -> int:
        """Returns the epoch that ends with a step, counted from 1; 0 if none does.

        An epoch ends at the step nearest to its end. Of several epochs that are shorter than a step, the last one counts.
        """
        epoch = self.within(step) + 1  # or one less
        while epoch and round(epoch * self.steps) > step:
            epoch -= 1
        return epoch if round(epoch * self.steps) == step else 0

    def due(self, step: int, every: int) -> bool:
        """Returns True where something is due that is done every so many steps, or at the end of each epoch if `every` is 0."""
        return step % every == 0 if every else bool(self.ended_at(step))
