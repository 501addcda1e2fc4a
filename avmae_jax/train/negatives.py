"""Says where the negatives of a run's contrastive loss come from, and how many pairs it chooses among."""

from collections.abc import Mapping
from typing import Any

from absl import logging

from avmae_jax.config import Config
from avmae_jax.config_history import negatives_of
from avmae_jax.models.registry import kind_of
from avmae_jax.train.task import Task


def settle_negatives(config: Config, checkpoint: Mapping[str, Any] | None) -> None:
    """Sets loss.negatives of a run that takes them from one micro-batch and is resumed with the default, and logs it.

    Earlier versions had no other way for a batch in micro-batches, and called it "global".

    Args:
      config: of the run; this field of it is set.
      checkpoint: meta of the run's newest checkpoint; None: a new run.
    """
    if checkpoint is not None and config.loss.negatives == "global" and negatives_of(checkpoint) == "micro_batch":
        config.loss.negatives = "micro_batch"
        logging.info("loss.negatives is micro_batch, as in the run that is resumed; negatives of the whole batch need a new train.workdir")


def choices(clips: int, config: Config) -> int:
    """Returns the number of pairs among which the contrastive loss chooses, where so many clips are compared with each other."""
    pairs = config.data.pairs_per_clip if kind_of(config.model).pairs else 1
    return clips * pairs if config.loss.clip_negatives else 1 + (clips - 1) * pairs


def describe_negatives(task: Task, micro_batch: int, groups: int) -> str:
    """Returns how a log line about a split batch goes on; "" for a task without a contrastive loss."""
    if not (negatives := task.negatives(micro_batch, groups)):
        return ""
    return f"; the contrastive loss chooses among {negatives} pairs" + (", in two passes" if task.comparing else "")
