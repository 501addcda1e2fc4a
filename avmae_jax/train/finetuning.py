"""Defines the fine-tuning task: the classifier's losses, which of its parameters are trained, and its evaluation.

The recipe is that of Gong et al., arXiv 2210.07839, section 4.2: two learning rates, the higher one for the head, and an encoder that is
tuned with it or stays as it is (linear probe).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from avmae_jax.config import Config, Frames, Modality
from avmae_jax.data.batches import EvalOptions, eval_batches
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.frontend import model_inputs
from avmae_jax.evals.intervals import intervals
from avmae_jax.evals.scores import evaluate_scores
from avmae_jax.inference.forward import BATCH, Classify, Forward, Logits, Scores, scores_of
from avmae_jax.models.late import Constant
from avmae_jax.models.layers import ALL_STREAMS, MAIN
from avmae_jax.models.modes import Mode, find_mode
from avmae_jax.models.registry import kind_of, tuned_mode
from avmae_jax.models.rows import RowKey, draw
from avmae_jax.train import hosts, optim
from avmae_jax.train.snapshots import AVERAGED
from avmae_jax.train.step import Context, Metrics
from avmae_jax.train.task import Task
from avmae_jax.trees import dotted
from avmae_jax.weights import io

_MEASURED = 512  # clips that say how large statistics are


class FinetuningTask(Task):
    """Trains a classifier of clips."""

    def __init__(self, config: Config, test: ClipSource | None, label_names: Sequence[str], workdir: Path):
        """Compiles nothing yet.

        Args:
          config: of the run.
          test: held-out clips; None: the run isn't evaluated.
          label_names: of the classes.
          workdir: the run's folder, in which averaged weights are found.

        Raises:
          ValueError: if fields of config.tune can't work.
        """
        config.tune.validate()
        super().__init__(config)
        self.label_names, self._test = tuple(label_names), test
        self._workdir = workdir
        modes, self.mode = kind_of(config.model).modes, tuned_mode(config)
        self._weights: dict[Mode, float] = {self.mode: 1.0}
        if self.mode.given == "both":
            self._weights = {self.mode: config.tune.both_weight} if config.tune.both_weight else {}
            alone = {"audio": config.tune.audio_weight, "image": config.tune.image_weight}
            self._weights |= {find_mode(given, modes, self.mode): weight for given, weight in alone.items() if weight}
        self._classify = Classify(config, len(label_names), self.mode)
        self._scores: Scores | None = None  # of the last evaluation

    @property
    def needs(self) -> Modality:
        """Returns the modalities that the mode takes."""
        return self.mode.given

    @property
    def takes_all_pairs(self) -> bool:
        """Returns True: a classifier is trained on the pairs that it is applied to."""
        return True

    @property
    def averaged_epochs(self) -> tuple[int, int]:
        """Returns the epochs that the config names."""
        return self.config.tune.average_first, self.config.tune.average_last

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Returns the weight of the loss of each mode that is trained."""
        return {self._loss_name(mode): weight for mode, weight in self._weights.items()}

    def losses(self, model: Any, batch: Mapping[str, jax.Array], context: Context) -> tuple[Metrics, Metrics]:
        """Computes the loss of each mode that is trained: the mean over clips, and with binary cross-entropy over classes."""
        inputs = model_inputs(batch, self.config, context.own_rows)
        if self.mode.given == "both" and self.config.tune.swap_pictures:
            inputs["image"] = swap(inputs["image"], self.config.tune.swap_pictures, context.key)
        cross_entropy = optax.sigmoid_binary_cross_entropy if self.config.tune.loss == "bce" else optax.softmax_cross_entropy
        logits = model.each(inputs, self._weights, context.drop_key)
        return {self._loss_name(mode): cross_entropy(own, batch["targets"]).mean() for mode, own in logits.items()}, {}

    def trainable(self) -> Any:
        """Returns the filter of the head and, unless it is frozen, the encoder with its positions, as far as a trained mode uses them.

        Unused parameters have zero gradient, but L2 would still move them: Adam rescales even that tiny gradient to a full-size step.
        """

        def used(path: Sequence[Any], variable: Any) -> bool:
            name = dotted(path)
            frozen = isinstance(variable, Constant) or (self.config.tune.freeze_base and not name.startswith("head."))
            return isinstance(variable, nnx.Param) and not frozen and not self._unused(name)

        return used

    def begin(self, model: Any, train: ClipSource) -> None:
        """Centres and divides the statistics that a head is given by those of training clips, of all where they are a few hundred."""
        if (measure := kind_of(self.config.model).measure) is None:
            return
        forward = Forward(lambda _, batch: measure(model_inputs(batch, self.config)))
        views = EvalOptions(limit=_MEASURED, needs=self.mode.given, pairs=self.pairs)
        found = [values for _, values in forward(model, eval_batches(train, self.config.model, self.config.data, BATCH, views))]
        model.standardise({modality: np.concatenate([values[modality] for values in found]) for modality in found[0]})

    def optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the optimizer of pretraining, with a rate of its own for the head."""
        return optim.adam(self.config.optim, schedule, head_ratio=self.config.tune.head_lr_ratio, layers=optim.Layers.of(self.config.model))

    def evaluate(self, model: Any, mean_losses: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Computes the loss, "map", "classes" (the number of classes averaged in it), and "accuracy" where each clip has one class.

        The loss is that of the tuned mode, and is called as in training: "loss" is there the sum, where several modes are trained.
        Probabilities are averaged over the crops and frames that the config names.
        """
        if self._test is None:
            return {}
        tune = self.config.tune
        self._scores = scores = self._classified(hosts.local(model), self._test)
        found = evaluate_scores(scores, self.label_names, tune.loss)
        figures = {
            self._loss_name(self.mode): found.loss,
            "map": found.map,
            "classes": float(len(self.label_names) - len(found.no_positive)),
        }
        return figures if found.accuracy is None else figures | {"accuracy": found.accuracy}

    def summary(self, model: Any) -> dict[str, Any]:
        """Evaluates the "averaged" weights, if there are any."""
        folder = self._workdir / AVERAGED
        if self._test is None or not hosts.of_first(folder.is_dir()):
            return {}
        return {"averaged": self.evaluate(io.made(io.read_uncalibrated(folder)), dict)}

    def intervals(self) -> dict[str, Any]:
        """Computes "map_interval" and "accuracy_interval" of the last evaluation."""
        return {} if self._scores is None else intervals(self._scores)

    def better(self, measured: dict[str, float]) -> float | None:
        """Returns the accuracy where softmax is trained and each clip has one class, else the mean average precision."""
        return measured.get("accuracy", measured["map"]) if self.config.tune.loss == "ce" else measured["map"]

    def _classified(self, model: Any, test: ClipSource) -> Scores:
        """Computes the probabilities of all held-out clips; every process computes those of its share."""
        own, tune, rows = hosts.share(len(test)), self.config.tune, {}
        if own:
            found = self._classify.logits(model, test, crops=tune.eval_crops, frames=cast(Frames, tune.eval_frames), only=own)
            rows = found._replace(ids=np.array(found.ids))._asdict()  # pyright: ignore[reportArgumentType]
        rows = hosts.gather_rows(rows)
        return scores_of(self.config, Logits(rows["ids"].tolist(), rows["rows"], rows["counts"], rows["targets"]))

    def _loss_name(self, mode: Mode) -> str:
        return f"loss_{mode}" if len(self._weights) > 1 else "loss"

    def _unused(self, name: str) -> bool:
        """Returns True for a parameter that no trained mode uses: norms of other streams, the tower of the other modality."""
        if kind_of(self.config.model).unused(self.config.model, name):
            return True
        streams = {stream for mode in self._weights for stream in mode.streams}
        if name.startswith(("encoder.blocks.", "encoder.norm.")):
            return any(f".{other}." in name for other in ALL_STREAMS if other not in streams)
        towers = {modality for mode in self._weights for modality in mode.inputs}
        others = [other for other in ALL_STREAMS if other not in (MAIN, *towers)]
        return any(name.startswith((f"encoder.{other}.", f"head.{other}.")) for other in others)


def swap(images: jax.Array, share: float, key: RowKey) -> jax.Array:
    """Gives a share of a batch's clips the image of the clip before it.

    A memorised image is always right in training, and a new one seldom is. A classifier that is sometimes given a wrong image learns not to
    rely on it. Labels stay with the audio, for the loss of the image alone too.

    Args:
      images: float[B, ..., H, W, 3].
      share: the probability of each clip, in [0, 1].
      key: of the step.
    """
    chosen = draw(lambda key, shape: jax.random.bernoulli(key, share, shape), key, (len(images), *(1,) * (images.ndim - 1)))
    return jnp.where(chosen, jnp.roll(images, 1, axis=0), images)
