"""Applies a model to clips in batches of one size, and averages the rows of each clip.

Axis letters: N clips, C classes, D width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.data.batches import Batch, EvalOptions, Frames, eval_batches
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.frontend import model_inputs
from avmae_jax.models.modes import Mode

BATCH = 32  # rows computed at once by default


class Forward:
    """Compiles a function of a model and a batch once, for batches of one size."""

    def __init__(self, function: Callable[[Any, Mapping[str, jax.Array]], Any], batch_size: int = BATCH):
        """Keeps `function`, which returns arrays with a row for each row of the batch."""
        self._compiled, self._size = nnx.jit(function), batch_size

    def __call__(self, model: Any, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Any]]:
        """Yields each batch with the function's arrays on the host; a batch of fewer rows than `batch_size` is padded meanwhile."""
        for batch in batches:
            rows = len(batch["id"])
            given = {name: value for name, value in batch.items() if name not in ("id", "targets")}
            padded = {name: jnp.asarray(np.resize(value, (self._size, *value.shape[1:]))) for name, value in given.items()}
            yield batch, jax.tree.map(lambda values, rows=rows: np.asarray(values)[:rows], self._compiled(model, padded))


class Scores(NamedTuple):
    """Holds a classifier's probabilities for clips."""

    ids: list[str]
    probabilities: np.ndarray  # float32[N, C]
    targets: np.ndarray  # float32[N, C], 1 where the clip has the class


class Classify:
    """Applies a classifier in one of its modes to labelled clips."""

    def __init__(self, config: Config, classes: int, mode: Mode, batch_size: int = BATCH):
        """Compiles nothing yet; of `config` the fields that weights/notes.py stores are used."""
        self.config, self.classes, self.mode, self.batch_size = config, classes, mode, batch_size
        self._forward = Forward(lambda model, batch: probabilities(config, model(model_inputs(batch, config), self.mode)), batch_size)

    def __call__(self, model: Any, source: ClipSource, *, crops: int = 1, frames: Frames = "middle") -> Scores:
        """Computes the probabilities of each clip, averaged over its crops and frames.

        Args:
          model: the classifier.
          source: labelled clips.
          crops: pieces of audio that is too long: its centre, or several, evenly spaced.
          frames: the "middle" frame, the "first" one, or "all".

        Raises:
          ValueError: if there are no clips, or one lacks what the mode takes.
        """
        views = EvalOptions(crops=crops, frames=frames, classes=self.classes, needs=self.mode.given)
        ids, sums, counts, targets = [], [], [], []
        for batch, found in self._forward(model, eval_batches(source, self.config.model, self.config.data, self.batch_size, views)):
            names = batch["id"]
            first = np.flatnonzero(np.append(True, names[1:] != names[:-1]))  # the rows of a clip stand next to each other
            parts, rows = np.add.reduceat(found, first), np.diff(first, append=len(names))
            for name, part, count, target in zip(names[first].tolist(), parts, rows.tolist(), batch["targets"][first], strict=True):
                if ids and name == ids[-1]:  # continues a clip of the batch before
                    sums[-1] += part
                    counts[-1] += count
                else:
                    ids.append(name)
                    sums.append(part)
                    counts.append(count)
                    targets.append(target)
        if not ids:
            raise ValueError("there is no clip to classify")
        return Scores(ids, np.stack(sums) / np.array(counts, np.float32)[:, None], np.stack(targets))


def probabilities(config: Config, logits: jax.Array) -> jax.Array:
    """Computes probabilities, float32[B, C]: of each class by itself after tuning with "bce", of one class among all after "ce"."""
    return jax.nn.sigmoid(logits) if config.tune.loss == "bce" else jax.nn.softmax(logits)
