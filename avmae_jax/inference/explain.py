"""Computes which patches of the audio and of the image a model's answer comes from; plots/heatmap.py draws them.

Of a classifier: the head is a LayerNorm and a linear layer on a sum over L tokens, of which token i adds p_i: x_i / L where the mean is
pooled (Head.summands). With the LayerNorm's own mean m and standard deviation s of that sum held fixed, it is linear in them, so that

    logit of a class = sum over i of w . (p_i - m / L) / s  +  constant,      w = scale of the norm * column of the linear layer

holds exactly; a summand is the token's share. Attention has mixed the tokens before, so a share shows where the evidence is stored, which
need not be where it was found.

Of a pretraining model: the cosine of each image token with the pooled audio, and of each audio token with the pooled image, the two vectors
that the contrastive loss compares.

Axis letters: B batch, L tokens, D width, T spectrogram frames, M mel bins, H W image.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from avmae_jax.config import Fill
from avmae_jax.data.decode.form import Span
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import ClipError
from avmae_jax.inference.predict import Prediction, Predictor
from avmae_jax.inference.windows import FILL, Medium, Row, rows_of
from avmae_jax.models.classifier import Head
from avmae_jax.models.encoder import Encoder
from avmae_jax.models.modes import Mode
from avmae_jax.models.pooling import unit_length
from avmae_jax.models.tokens import PATCHES, Tokens, join, name_of, split
from avmae_jax.weights.trained import Trained


class Explanation(NamedTuple):
    """Holds a number for each patch of one window."""

    heat: dict[str, np.ndarray]  # "audio" -> float32[mel rows, time columns], low mel first; "image" -> float32[rows, columns]
    constant: float | None  # of a classifier: the part of the logit that belongs to no patch; None: `heat` holds cosines
    row: Row  # the window


def shares(head: Head, tokens: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes the share of each token in the logit of a class.

    Args:
      head: of a classifier.
      tokens: float32[B, L, D], which the head pools.
      labels: int32[B], the class.

    Returns:
      float32[B, L] and float32[B]: the shares, and the constant that makes their sum the logit.
    """
    norm: Any = head.norm
    linear: Any = head.linear
    columns = linear.kernel[...].T[labels]  # [B, P]
    summands = head.summands(tokens)
    pooled = summands.sum(axis=1)
    mean, deviation = pooled.mean(axis=-1), jnp.sqrt(pooled.var(axis=-1) + norm.epsilon)
    parts = jnp.einsum("bld,bd->bl", summands - mean[:, None, None] / tokens.shape[1], columns * norm.scale[...][None])
    return parts / deviation[:, None], columns @ norm.bias[...] + linear.bias[...][labels]


def similarities(encoder: Encoder, tokens: Tokens) -> dict[str, jax.Array]:
    """Computes the cosine of each patch's token with the vector of the other modality: float32[B, L] of "audio" and of "image".

    Args:
      encoder: of the model.
      tokens: of Encoder.separate, of both modalities.
    """
    pooled = encoder.vectors(tokens, ("audio", "image"))
    streams = {modality: encoder.joint(tokens, modality)[name_of(modality, PATCHES)] for modality in ("audio", "image")}
    other = {"audio": pooled["image"], "image": pooled["audio"]}
    return {modality: jnp.einsum("bld,bd->bl", unit_length(values), other[modality]) for modality, values in streams.items()}


class Explainer:
    """Explains predictions of one model, which is compiled once for each mode."""

    def __init__(self, trained: Trained, spans: Span = "longer"):
        """Keeps the model, and which of a file's audio and images its predictions' windows span.

        Raises:
          ValueError: if it is a kind of model that can't be explained.
        """
        if instead := trained.spec.lacks.get("explained"):
            raise ValueError(f"{trained.path} is a {trained.spec.title}, which can't be explained; {instead}")
        self._trained = trained
        self._spans: Span = spans
        self._compiled = nnx.jit(self._outputs, static_argnames="mode")

    def __call__(
        self, medium: Medium, prediction: Prediction, frames: Literal["first", "middle"] = "middle", fill: Fill = FILL
    ) -> Explanation:
        """Explains the first class of a prediction, or else its match, in the window that contributes most to it.

        Args:
          medium: of the prediction.
          prediction: by the same model.
          frames: the frame that it was computed from.
          fill: how audio that is too short was filled up for it.

        Raises:
          ValueError: if the prediction has neither class nor match.
          ClipError: if the medium can't be read any more.
        """
        if not prediction.top and prediction.match is None:
            raise ValueError(f"{medium.name}: there is no class and no match that could be explained")
        rows = rows_of(medium, 0, self._trained.config, frames=frames, fill=fill, spans=self._spans)
        row = next((row for row in rows if row.start >= prediction.start), None)
        if row is None:
            raise ClipError(medium.name, "length", "has become shorter since it was predicted")
        return self.of_row(row, int(np.argmax(prediction.probabilities)) if prediction.top else None, prediction.mode)

    def of_row(self, row: Row, label: int | None, mode: Mode | None) -> Explanation:
        """Explains one window.

        Args:
          row: the window.
          label: the class, or None for the match of audio and image.
          mode: how the classifier was applied to it; None: the model has no classes.
        """
        model = self._trained.config.model
        batch = {name: jnp.asarray(value)[None] for name, value in row.arrays.items()}
        heat, constant = self._compiled(self._trained.module, batch, jnp.asarray([label or 0], jnp.int32), mode=mode)
        grids = {name: np.asarray(values)[0].reshape(model.grid(name)) for name, values in heat.items()}
        return Explanation(grids, None if label is None else float(constant[0]), row)

    def _outputs(self, module: Any, batch: Any, label: jax.Array, *, mode: Mode | None) -> tuple[dict[str, jax.Array], jax.Array]:
        inputs = model_inputs(batch, self._trained.config)
        if not mode:
            return similarities(module.encoder, module.separate(inputs)), jnp.zeros(1)
        tokens = module.separate({modality: inputs[modality] for modality in mode.inputs})
        heat: Tokens = {}
        for head, final, factor in module.parts(tokens, mode):
            found, _ = shares(head, join(final), label)
            heat |= split(factor * found[..., None], final)
        logit = module.logits(tokens, mode)[jnp.arange(len(label)), label]
        constant = logit - sum(values.sum(axis=(1, 2)) for values in heat.values())
        return {name.split(".")[0]: values[..., 0] for name, values in heat.items()}, constant


def explainer_of(predictor: Predictor) -> Explainer:
    """Returns an explainer of the model that computes a predictor's first class, or else its match; raises ValueError as Explainer does."""
    return Explainer(predictor.trained if predictor.trained.classes else predictor.matcher, predictor.spans)


def subject(prediction: Prediction) -> str:
    """Names what an explanation of a prediction is of: its first class, or else its match."""
    return f"{prediction.top[0][0]} {prediction.top[0][1]:.1%}" if prediction.top else f"match of audio and image {prediction.match:.2f}"
