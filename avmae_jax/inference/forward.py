"""Applying a model to clips: fixed batches on the device, rows of a clip averaged, a name for each result.

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

BATCH = 32  # rows computed at once, unless told otherwise


class Forward:
    """A function of a model and a batch, compiled once for batches of one size."""

    def __init__(self, function: Callable[[Any, Mapping[str, jax.Array]], Any], batch_size: int = BATCH):
        """`function` gives arrays of a row for each row of the batch."""
        self._compiled, self._size = nnx.jit(function), batch_size

    def __call__(self, model: Any, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Any]]:
        """Each batch of `batch_size` rows or fewer with the function's arrays of it, on the host; a short one is filled up meanwhile."""
        for batch in batches:
            rows = len(batch["id"])
            given = {name: value for name, value in batch.items() if name not in ("id", "targets")}
            padded = {name: jnp.asarray(np.resize(value, (self._size, *value.shape[1:]))) for name, value in given.items()}
            yield batch, jax.tree.map(lambda values, rows=rows: np.asarray(values)[:rows], self._compiled(model, padded))


class Scores(NamedTuple):
    """What a classifier says of clips."""

    ids: list[str]
    probabilities: np.ndarray  # float32[N, C]
    targets: np.ndarray  # float32[N, C], 1 where the clip has the class


class Classify:
    """A classifier in one of its modes, on sources of labelled clips."""

    def __init__(self, config: Config, classes: int, mode: Mode, batch_size: int = BATCH):
        """`config` holds of the model, the data and the tuning what weights/notes.py stores."""
        self.config, self.classes, self.mode, self.batch_size = config, classes, mode, batch_size
        self._forward = Forward(lambda model, batch: probabilities(config, model(model_inputs(batch, config), self.mode)), batch_size)

    def __call__(self, model: Any, source: ClipSource, *, crops: int = 1, frames: Frames = "middle") -> Scores:
        """The means over crops of the sound and frames; see eval_batches, which has the arguments."""
        views = EvalOptions(crops=crops, frames=frames, classes=self.classes, needs=self.mode.given)
        ids, sums, counts, targets = [], [], [], []
        for batch, found in self._forward(model, eval_batches(source, self.config.model, self.config.data, self.batch_size, views)):
            names = batch["id"]
            first = np.flatnonzero(np.append(True, names[1:] != names[:-1]))  # the rows of a clip stand next to each other
            parts, rows = np.add.reduceat(found, first), np.diff(first, append=len(names))
            for name, part, count, target in zip(names[first].tolist(), parts, rows.tolist(), batch["targets"][first], strict=True):
                if ids and name == ids[-1]:  # a clip that began in the batch before
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
    """Of each class by itself with binary cross-entropy, of one among all with the other: float32[B, C] -> float32[B, C]."""
    return jax.nn.sigmoid(logits) if config.tune.loss == "bce" else jax.nn.softmax(logits)
