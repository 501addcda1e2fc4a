"""Fine-tuning: the classifier's loss, which of its parameters are trained, and what is measured on held-out clips.

The recipe is that of Gong et al., arXiv 2210.07839, section 4.2: two rates of learning, the higher one for the head, and an encoder that is
tuned with it or stays as it is (linear probe).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from avmae_jax import metrics, optim
from avmae_jax.config import Config
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.frontend import model_inputs
from avmae_jax.data.pipeline import eval_batches
from avmae_jax.models.classifier import CAVMAEClassifier, Mode
from avmae_jax.models.layers import ALL_STREAMS, MAIN
from avmae_jax.step import Metrics
from avmae_jax.task import Task
from avmae_jax.trees import dotted

_STREAM = {"multimodal": MAIN, "audioonly": "audio", "videoonly": "image"}  # whose norms a mode runs through
_EVAL_BATCH = 32


class FinetuningTask(Task):
    """Classification of clips."""

    def __init__(self, config: Config, test: ClipSource | None, classes: int):
        """`test` are the held-out clips that `measure` looks at; None: none."""
        config.tune.validate()
        super().__init__(config)
        self.classes, self._test = classes, test
        self.mode: Mode = cast(Mode, config.tune.mode)  # validated
        self._logits = nnx.jit(self.logits)  # kept, so that it is compiled once

    def logits(self, model: CAVMAEClassifier, batch: Mapping[str, jax.Array]) -> jax.Array:
        """float32[B, C]."""
        fbank, image = model_inputs(batch, self.config)
        return model(fbank, image, mode=self.mode)

    def loss(self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array, groups: int) -> tuple[jax.Array, Metrics]:
        """See Task; the mean over clips, and with binary cross-entropy over classes."""
        logits, targets = self.logits(model, batch), batch["targets"]
        if self.config.tune.loss == "bce":
            loss = optax.sigmoid_binary_cross_entropy(logits, targets).mean()
        else:
            loss = optax.softmax_cross_entropy(logits, targets).mean()
        return loss, {"loss": loss}

    def trainable(self) -> Any:
        """The head, and unless it is frozen the encoder with its positions: those of its parameters that the mode runs through.

        The others would get a gradient of zero, to which the optimizer adds L2, which Adam turns into steps as long as any.
        """

        def used(path: Sequence[Any], variable: Any) -> bool:
            name = dotted(path)
            if not isinstance(variable, nnx.Param) or (self.config.tune.freeze_base and not name.startswith("head.")):
                return False
            return not self._unused(name)

        return used

    def optimizer(self, steps_per_epoch: float) -> optax.GradientTransformation:
        """As in pretraining, with a higher rate for the head."""
        return optim.adam(self.config.optim, steps_per_epoch, head_ratio=self.config.tune.head_lr_ratio)

    def measure(self, model: Any) -> dict[str, float]:
        """Mean average precision over classes that have a positive, and accuracy where each clip has one class."""
        if self._test is None:
            return {}
        scores, targets = self.predict(model, self._test)
        return summarise(scores, targets)

    def predict(self, model: Any, source: ClipSource) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and targets of clips: float32[N, C] twice; the means over the crops and frames that the config asks for."""
        tune = self.config.tune
        frames = cast(Literal["middle", "all"], tune.eval_frames)
        views = {"crops": tune.eval_crops, "frames": frames, "classes": self.classes}
        ids, scores, targets = [], [], []
        for batch in eval_batches(source, self.config.model, self.config.data, _EVAL_BATCH, **views):
            ids.append(batch.pop("id"))
            targets.append(batch.pop("targets"))
            padded = {name: jnp.asarray(np.resize(value, (_EVAL_BATCH, *value.shape[1:]))) for name, value in batch.items()}
            scores.append(np.asarray(self.probabilities(self._logits(model, padded)))[: len(ids[-1])])
        names, rows = np.concatenate(ids), np.concatenate(scores)
        first = np.flatnonzero(np.append(True, names[1:] != names[:-1]))  # the rows of a clip stand next to each other
        counts = np.diff(first, append=len(names))
        return np.add.reduceat(rows, first) / counts[:, None], np.concatenate(targets)[first]

    def probabilities(self, logits: jax.Array) -> jax.Array:
        """Of each class by itself with binary cross-entropy, of one among all with the other: float32[B, C] -> float32[B, C]."""
        return jax.nn.sigmoid(logits) if self.config.tune.loss == "bce" else jax.nn.softmax(logits)

    def _unused(self, name: str) -> bool:
        """Whether a parameter is one that the mode doesn't run through: norms of other streams, the tower of the other modality."""
        stream = _STREAM[self.mode]
        if name.startswith(("encoder.blocks.", "encoder.norm.")):
            return any(f".{other}." in name for other in ALL_STREAMS if other != stream)
        return stream != MAIN and any(name.startswith(f"encoder.{other}.") for other in ALL_STREAMS if other != stream)


def summarise(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """{"map", "classes"} and, where each clip has exactly one class, {"accuracy"}; of scores and targets float[N, C]."""
    found = {"map": metrics.mean_average_precision(scores, targets), "classes": float((targets > 0).any(axis=0).sum())}
    if ((targets > 0).sum(axis=1) == 1).all():
        found["accuracy"] = float((scores.argmax(axis=1) == targets.argmax(axis=1)).mean())
    return found
