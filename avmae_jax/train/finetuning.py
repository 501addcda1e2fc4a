"""Fine-tuning: the classifier's loss, which of its parameters are trained, and what is measured on held-out clips.

The recipe is that of Gong et al., arXiv 2210.07839, section 4.2: two rates of learning, the higher one for the head, and an encoder that is
tuned with it or stays as it is (linear probe).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from avmae_jax.config import Config, Modality
from avmae_jax.data.batches import Frames
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.frontend import model_inputs
from avmae_jax.evals.scores import evaluate_scores
from avmae_jax.inference.forward import Classify
from avmae_jax.models.classifier import Mode, modality_of
from avmae_jax.models.layers import ALL_STREAMS, MAIN
from avmae_jax.train import optim
from avmae_jax.train.step import Metrics
from avmae_jax.train.task import Task
from avmae_jax.trees import dotted

# Whose norms a mode runs through; one with a missing modality through those of both as well, which a model tuned on both has anyway.
_STREAM = {"multimodal": MAIN, "audioonly": "audio", "videoonly": "image", "missingaudioonly": "audio", "missingvideoonly": "image"}


class FinetuningTask(Task):
    """Classification of clips."""

    def __init__(self, config: Config, test: ClipSource | None, label_names: Sequence[str]):
        """`test` are the held-out clips that are evaluated on; None: none."""
        config.tune.validate()
        super().__init__(config)
        self.label_names, self._test = tuple(label_names), test
        self.mode: Mode = cast(Mode, config.tune.mode)  # validated
        self._weights: dict[Mode, float] = {self.mode: 1.0}  # of the losses
        if self.mode == "multimodal":
            alone: dict[Mode, float] = {"missingaudioonly": config.tune.audio_weight, "missingvideoonly": config.tune.image_weight}
            self._weights |= {mode: weight for mode, weight in alone.items() if weight}
        self._classify = Classify(config, len(label_names))

    @property
    def needs(self) -> Modality:
        """What the mode looks at."""
        return modality_of(self.mode)

    @property
    def averaged_epochs(self) -> tuple[int, int]:
        """See Task."""
        return self.config.tune.average_first, self.config.tune.average_last

    def loss(self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array, groups: int) -> tuple[jax.Array, Metrics]:
        """See Task; the mean over clips, and with binary cross-entropy over classes; for several modes their weighted sum, and each."""
        fbank, image = model_inputs(batch, self.config)
        if self.mode == "multimodal" and self.config.tune.swap_pictures:
            image = swap(image, self.config.tune.swap_pictures, key)
        losses = {mode: self._loss(logits, batch) for mode, logits in model.each(fbank, image, self._weights).items()}
        if len(losses) == 1:
            return losses[self.mode], {"loss": losses[self.mode]}
        total = jnp.stack([self._weights[mode] * loss for mode, loss in losses.items()]).sum()
        return total, {"loss": total, **{f"loss_{mode}": loss for mode, loss in losses.items()}}

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

    def evaluate(self, model: Any, mean_losses: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The loss, "map", how many "classes" that is the mean of, and "accuracy" where each clip has one class; see evals/scores.py.

        Probabilities are averaged over the crops and frames that the config asks for.
        """
        if self._test is None:
            return {}
        tune = self.config.tune
        scores = self._classify(model, self._test, crops=tune.eval_crops, frames=cast(Frames, tune.eval_frames))
        found = evaluate_scores(scores, self.label_names, tune.loss)
        figures = {"loss": found.loss, "map": found.map, "classes": float(len(self.label_names) - len(found.no_positive))}
        return figures if found.accuracy is None else figures | {"accuracy": found.accuracy}

    def better(self, measured: dict[str, float]) -> float | None:
        """Accuracy where softmax is trained and each clip has one class, else mean average precision."""
        return measured.get("accuracy", measured["map"]) if self.config.tune.loss == "ce" else measured["map"]

    def _loss(self, logits: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        cross_entropy = optax.sigmoid_binary_cross_entropy if self.config.tune.loss == "bce" else optax.softmax_cross_entropy
        return cross_entropy(logits, batch["targets"]).mean()

    def _unused(self, name: str) -> bool:
        """Whether a parameter is one that no mode runs through: norms of other streams, the tower of the other modality."""
        streams = {_STREAM[mode] for mode in self._weights}
        if name.startswith(("encoder.blocks.", "encoder.norm.")):
            return any(f".{other}." in name for other in ALL_STREAMS if other not in streams)
        return MAIN not in streams and any(name.startswith(f"encoder.{other}.") for other in ALL_STREAMS if other not in streams)


def swap(images: jax.Array, share: float, key: jax.Array) -> jax.Array:
    """Gives a share of a batch's clips the picture of the clip before it.

    A photograph that has been learned by heart is always right in training, and a new one seldom. A classifier of both that has
    met wrong pictures trusts none of them blindly. Labels stay with the sounds, for the loss of the picture alone as well.

    Args:
      images: float[B, H, W, 3].
      share: the probability of each clip, in [0, 1].
      key: of the step.
    """
    return jnp.where(jax.random.bernoulli(key, share, (len(images), 1, 1, 1)), jnp.roll(images, 1, axis=0), images)
