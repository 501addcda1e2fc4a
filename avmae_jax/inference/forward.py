"""Applies a model to clips in batches of one size, and averages the rows of each clip.

Axis letters: N clips, C classes, D width.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.config import Applied, Frames
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.frontend import model_inputs
from avmae_jax.inference import kept_traces
from avmae_jax.models.modes import Mode
from avmae_jax.models.registry import kind_of

if TYPE_CHECKING:
    from avmae_jax.data.batches import Batch

BATCH = 32  # rows computed at once by default


class Forward:
    """Compiles a function of a model and a batch once, for batches of one size."""

    def __init__(self, function: kept_traces.Function, batch_size: int = BATCH, identity: str = ""):
        """Keeps `function`, which returns arrays with a row for each row of the batch; `identity` is that of kept_traces.compiled."""
        self._function, self._size, self._identity = function, batch_size, identity
        self._compiled: kept_traces.Function | None = None

    def __call__(self, model: Any, batches: "Iterable[Batch]") -> "Iterator[tuple[Batch, Any]]":
        """Yields each batch with the function's arrays on the host; a batch of fewer rows than `batch_size` is padded meanwhile."""
        for batch in batches:
            rows = len(batch["id"])
            given = {name: value for name, value in batch.items() if name not in ("id", "targets")}
            padded = {name: jnp.asarray(np.resize(value, (self._size, *value.shape[1:]))) for name, value in given.items()}
            self._compiled = self._compiled or kept_traces.compiled(self._function, model, padded, self._identity)
            yield batch, jax.tree.map(lambda values, rows=rows: np.asarray(values)[:rows], self._compiled(model, padded))


class Logits(NamedTuple):
    """Holds a classifier's logits for the rows of clips: their crops and frames, which stand next to each other."""

    ids: list[str]
    rows: np.ndarray  # float32[R, C]
    counts: np.ndarray  # int[N], rows of each clip
    targets: np.ndarray  # float32[N, C], 1 where the clip has the class

    def keep(self, clips: np.ndarray) -> "Logits":
        """Keeps some of the clips, by their numbers in rising order, int[K]."""
        kept = np.isin(np.repeat(np.arange(len(self.ids)), self.counts), clips)
        return Logits([self.ids[clip] for clip in clips], self.rows[kept], self.counts[clips], self.targets[clips])


class Scores(NamedTuple):
    """Holds a classifier's probabilities for clips."""

    ids: list[str]
    probabilities: np.ndarray  # float32[N, C]
    targets: np.ndarray  # float32[N, C], 1 where the clip has the class


class Classify:
    """Applies a classifier in one of its modes to labelled clips."""

    def __init__(self, config: Applied, classes: int, mode: Mode, batch_size: int = BATCH):
        """Compiles nothing yet; of `config` the fields that weights/notes.py stores are used."""
        self.config, self.classes, self.mode, self.batch_size = config, classes, mode, batch_size
        self._forward = Forward(lambda model, batch: model(model_inputs(batch, config), self.mode), batch_size)

    def __call__(self, model: Any, source: ClipSource, *, crops: int = 1, frames: Frames = "middle") -> Scores:
        """Computes the probabilities of each clip, not calibrated; arguments and errors are those of `logits`."""
        return scores_of(self.config, self.logits(model, source, crops=crops, frames=frames))

    def logits(
        self, model: Any, source: ClipSource, *, crops: int = 1, frames: Frames = "middle", only: Sequence[int] | None = None
    ) -> Logits:
        """Computes the logits of each clip's crops and frames.

        Args:
          model: the classifier.
          source: labelled clips.
          crops: pieces of audio that is too long: its centre, or several, evenly spaced.
          frames: the "middle" frame, the "first" one, or "all", each in a row; a model of pairs takes all in one row, whatever it is.
          only: numbers of the clips that are classified; None: all.

        Raises:
          ValueError: if there are no clips, or one lacks what the mode takes.
        """
        from avmae_jax.data.batches import EvalOptions, eval_batches  # grain: media files are classified without it

        given, pairs = self.mode.given, kind_of(self.config.model).pairs
        views = EvalOptions(crops=crops, frames=frames, classes=self.classes, needs=given, only=only, pairs=pairs)
        ids, rows, counts, targets = [], [], [], []
        for batch, found in self._forward(model, eval_batches(source, self.config.model, self.config.data, self.batch_size, views)):
            rows.append(found)
            for name, target in zip(batch["id"].tolist(), batch["targets"], strict=True):
                if ids and name == ids[-1]:  # the rows of a clip stand next to each other
                    counts[-1] += 1
                else:
                    ids.append(name)
                    counts.append(1)
                    targets.append(target)
        if not ids:
            raise ValueError("there is no clip to classify")
        return Logits(ids, np.concatenate(rows), np.array(counts), np.stack(targets))


def scores_of(config: Applied, found: Logits, temperature: float = 1.0) -> Scores:
    """Computes the probabilities of each clip, averaged over its rows."""
    rows = np.asarray(probabilities(config, jnp.asarray(found.rows), temperature))
    sums = np.add.reduceat(rows, np.cumsum(found.counts) - found.counts)
    return Scores(found.ids, sums / found.counts.astype(np.float32)[:, None], found.targets)


def probabilities(config: Applied, logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Computes probabilities, float32[B, C]: of each class by itself after tuning with "bce", of one class among all after "ce".

    Args:
      config: of which tune.loss is used.
      logits: float32[B, C].
      temperature: of the calibration, which divides the logits.
    """
    return jax.nn.sigmoid(logits / temperature) if config.tune.loss == "bce" else jax.nn.softmax(logits / temperature)
