"""Which parts of a sound and of a picture a model's answer comes from, drawn over them.

Of a classifier: the head is a LayerNorm and a linear layer on the mean of L tokens. With the LayerNorm's own mean m and standard deviation
s of that mean held fixed, it is linear in the tokens x_i, so that

    logit of a class = sum over i of w . (x_i - m) / (s L)  +  constant,      w = scale of the norm * column of the linear layer

holds exactly; a summand is the token's share. Tokens have looked at each other before, so a share says where the evidence is kept, which
need not be where it was found.

Of a pretraining model: the cosine of each token of a picture with the pooled sound, and of each token of a sound with the pooled picture,
the two vectors that the contrastive loss brings together.

Axis letters: B batch, L tokens, D width, T spectrogram frames, M mel bins, H W image.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib import colormaps
from matplotlib.figure import Figure

from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.fbank import SHIFT, log_mel, num_frames
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import ClipError
from avmae_jax.inference.predict import Prediction
from avmae_jax.inference.windows import Medium, Row, rows_of
from avmae_jax.models.classifier import Head
from avmae_jax.models.encoder import Encoder
from avmae_jax.models.modes import Mode
from avmae_jax.models.pooling import unit_length
from avmae_jax.models.tokens import Tokens, join, split
from avmae_jax.plots.canvas import DPI, axes_at, save, short_name, write
from avmae_jax.weights.trained import Trained

_MARGIN, _GAP, _HEAD, _SIDE, _SOUND, _AXIS, _BAR = 14, 12, 64, 300, 640, 26, 64  # layout in pixels
_STRONGEST = 0.85  # opacity of the strongest colour


class Explanation(NamedTuple):
    """Numbers of the patches of one window."""

    heat: dict[str, np.ndarray]  # "audio" -> float32[mel rows, time columns], low mel first; "image" -> float32[rows, columns]
    constant: float | None  # of a classifier: what no token has a share in; None: `heat` is of cosines
    row: Row  # what was looked at


def shares(head: Head, tokens: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The share of each token in the logit of a class.

    Args:
      head: of a classifier.
      tokens: float32[B, L, D], whose mean the head is given.
      labels: int32[B], the class.

    Returns:
      float32[B, L] and float32[B]: the shares, and the constant that makes their sum the logit.
    """
    norm: Any = head.norm
    linear: Any = head.linear
    columns = linear.kernel[...].T[labels]  # [B, D]
    pooled = tokens.mean(axis=1)
    mean, deviation = pooled.mean(axis=-1), jnp.sqrt(pooled.var(axis=-1) + norm.epsilon)
    parts = jnp.einsum("bld,bd->bl", tokens - mean[:, None, None], columns * norm.scale[...])
    return parts / (deviation[:, None] * tokens.shape[1]), columns @ norm.bias[...] + linear.bias[...][labels]


def similarities(encoder: Encoder, tokens: Tokens) -> dict[str, jax.Array]:
    """Computes the cosine of each token with the vector of the other modality: float32[B, L] of "audio" and of "image".

    Args:
      encoder: of the model.
      tokens: of Encoder.separate, of both modalities.
    """
    pooled = encoder.vectors(tokens, ("audio", "image"))
    streams = {modality: join(encoder.joint(tokens, modality)) for modality in ("audio", "image")}
    other = {"audio": pooled["image"], "image": pooled["audio"]}
    return {modality: jnp.einsum("bld,bd->bl", unit_length(values), other[modality]) for modality, values in streams.items()}


class Explainer:
    """A model, compiled once for each mode."""

    def __init__(self, trained: Trained):
        """Raises ValueError if the model computes no vectors of patches that could be explained."""
        if not trained.spec.vectors:
            raise ValueError(f"{trained.path} is a {trained.spec.title}, which can't be explained; give a CAV-MAE or its classifier")
        self._trained = trained
        self._compiled = nnx.jit(self._outputs, static_argnames="mode")

    def __call__(self, medium: Medium, prediction: Prediction, frames: Literal["first", "middle"] = "middle") -> Explanation:
        """What the first class of a prediction comes from, or else its match, in the window that speaks most for it.

        Args:
          medium: what was predicted.
          prediction: by the same model.
          frames: which frame it saw.

        Raises:
          ValueError: if there is neither class nor match.
          ClipError: if the medium can't be read any more.
        """
        if not prediction.top and prediction.match is None:
            raise ValueError(f"{medium.name}: there is no class and no match that could be explained")
        model = self._trained.config.model
        rows = rows_of(medium, 0, model, frames=frames, timeline=False)
        row = next((row for row in rows if row.start >= prediction.start), None)
        if row is None:
            raise ClipError(medium.name, "length", "has become shorter since it was predicted")
        batch = {name: jnp.asarray(value)[None] for name, value in row.arrays.items()}
        label = jnp.asarray([int(np.argmax(prediction.probabilities))] if prediction.top else [0], jnp.int32)
        heat, constant = self._compiled(self._trained.module, batch, label, mode=prediction.mode)
        grids = {name: np.asarray(values)[0].reshape(model.grid(name)) for name, values in heat.items()}
        return Explanation(grids, float(constant[0]) if prediction.top else None, row)

    def _outputs(self, module: Any, batch: Any, label: jax.Array, *, mode: Mode | None) -> tuple[dict[str, jax.Array], jax.Array]:
        inputs = model_inputs(batch, self._trained.config)
        if not mode:
            return similarities(module.encoder, module.separate(inputs)), jnp.zeros(1)
        final = module.final(module.separate({modality: inputs[modality] for modality in mode.inputs}), mode)
        found, constant = shares(module.head, join(final), label)
        heat = split(found[..., None], final)
        return {name.split(".")[0]: values[..., 0] for name, values in heat.items()}, constant


def draw(path: Path, explanation: Explanation, prediction: Prediction, name: str) -> None:
    """Saves a PNG: what was looked at, and the same with the heat map over it.

    Args:
      path: of the PNG; its folder is made if need be.
      explanation: what is drawn.
      prediction: what it explains.
      name: of the medium.

    Raises:
      OSError: if the file can't be written.
    """
    heat, constant, row = explanation
    wide = 2 * (_SIDE + _GAP) * ("image" in heat) + _SOUND * ("audio" in heat) - (_GAP if "audio" not in heat else 0)
    figure = Figure(figsize=((wide + 2 * _MARGIN) / DPI, (_HEAD + _SIDE + _AXIS + _BAR) / DPI), dpi=DPI, facecolor="white")
    letters = wide // 9
    subject = (
        f"{prediction.top[0][0]} {prediction.top[0][1]:.1%}" if prediction.top else f"match of sound and picture {prediction.match:.2f}"
    )
    write(figure, _MARGIN, 20, short_name(f"{subject}: {name}", letters), size=11, weight="bold")
    shown = f"from {row.start:g} s on" if "audio" in heat else f"the window from {row.start:g} s on" if row.start else ""
    write(figure, _MARGIN, 44, "; ".join(filter(None, [shown, _sums(heat, constant)])), size=9, color="0.35")
    limits = _limits(heat, constant)
    left = _MARGIN
    if "image" in heat:
        picture = row.arrays["image"].astype(np.float32) / 255
        grey = np.repeat(picture.mean(axis=-1, keepdims=True), 3, axis=-1)
        for stage in (picture, painted(grey, heat["image"], *limits["image"])):
            axes = axes_at(figure, left, _HEAD, _SIDE, _SIDE)
            axes.imshow(stage)
            axes.set_axis_off()
            left += _SIDE + _GAP
    if "audio" in heat:
        _draw_sound(figure, left, explanation, limits["audio"])
    _draw_bars(figure, limits, constant, wide)
    save(figure, path)


def painted(grey: np.ndarray, heat: np.ndarray, low: float, high: float) -> np.ndarray:
    """A heat map over a picture in grey: blue where it is `low`, red where it is `high`, nothing half-way between them.

    Args:
      grey: float32[H, W, 3] in [0, 1].
      heat: float32[rows, columns], which divide H and W.
      low: the lower end of the scale.
      high: the upper end.

    Returns:
      float32[H, W, 3].
    """
    height, width = (side // count for side, count in zip(grey.shape, heat.shape, strict=False))
    large = np.kron((heat - low) / max(high - low, 1e-12), np.ones((height, width)))[..., None]
    opacity = _STRONGEST * np.clip(np.abs(2 * large - 1), 0, 1)
    return (grey * (1 - opacity) + _colours(large[..., 0]) * opacity).astype(np.float32)


def _colours(values: np.ndarray) -> np.ndarray:
    return colormaps["bwr"](np.clip(values, 0, 1))[..., :3]


def _limits(heat: Mapping[str, np.ndarray], constant: float | None) -> dict[str, tuple[float, float]]:
    """The ends of the scales: shares have one for all patches, around 0; cosines their own for each modality."""
    if constant is None:
        return {name: (float(values.min()), float(values.max())) for name, values in heat.items()}
    largest = max(float(np.abs(values).max()) for values in heat.values())
    return dict.fromkeys(heat, (-largest, largest))


def _sums(heat: Mapping[str, np.ndarray], constant: float | None) -> str:
    if constant is None:
        return "cosine of each patch with the whole of the other modality"
    words = {"audio": "sound", "image": "picture"}
    parts = [f"{words[name]} {values.sum():+.2f}" for name, values in heat.items()]
    return f"logit {sum(values.sum() for values in heat.values()) + constant:.2f} = {', '.join(parts)}, rest {constant:+.2f}"


def _draw_sound(figure: Figure, left: float, explanation: Explanation, limits: tuple[float, float]) -> None:
    """The spectrogram, and under it the same with its heat map; low mel at the bottom."""
    arrays, heat = explanation.row.arrays, explanation.heat["audio"]
    frames = num_frames(len(arrays["waveform"]))
    picture = _grey_spectrogram(arrays, heat, frames)
    height, seconds = (_SIDE - _GAP) / 2, frames * SHIFT / SAMPLE_RATE
    start = explanation.row.start
    for number, stage in enumerate((picture, painted(picture, heat, *limits))):
        axes = axes_at(figure, left, _HEAD + number * (height + _GAP), _SOUND - _GAP, height)
        axes.imshow(stage, origin="lower", aspect="auto", extent=(start, start + seconds, 0, 1))
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.xaxis.set_major_formatter("{x:g} s")
        axes.tick_params(labelsize=8, length=3, color="0.5", labelcolor="0.35", bottom=number == 1, labelbottom=number == 1)


def _grey_spectrogram(arrays: Mapping[str, Any], heat: np.ndarray, frames: int) -> np.ndarray:
    """float32[M, T, 3]; what comes after the sound's end is as dark as silence."""
    heard = arrays["waveform"][: int(arrays["samples"])].astype(np.float32) / 32_768
    values = log_mel(heard, heat.shape[0] * (frames // heat.shape[1]))[:frames]
    low, high = np.percentile(values, (0.5, 99.5))
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return np.repeat(np.pad(grey, ((0, frames - len(grey)), (0, 0))).T[..., None], 3, axis=-1).astype(np.float32)


def _draw_bars(figure: Figure, limits: Mapping[str, tuple[float, float]], constant: float | None, wide: int) -> None:
    """The scales of the colours, in words."""
    middle = _HEAD + _SIDE + _AXIS + _BAR / 2
    words = {"audio": "patches of the sound", "image": "patches of the picture"}
    titles = (
        {name: f"{words[name]}: cosine" for name in ("image", "audio")}
        if constant is None
        else {next(iter(limits)): "share of a patch in the logit"}
    )
    room = wide / max(2, len(titles))
    for number, (name, title) in enumerate(titles.items()):
        left = _MARGIN + number * room
        (low, high), form = limits[name], "+.2f" if constant is None else "+.4f"
        write(figure, left, middle - 12, title, size=8, color="0.35")
        write(figure, left, middle + 6, f"{low:{form}}", size=8, color="0.35")
        axes = axes_at(figure, left + 50, middle, room - 120, 12)
        axes.imshow(_colours(np.linspace(0, 1, 256))[None], aspect="auto")
        axes.set_axis_off()
        write(figure, left + room - 62, middle + 6, f"{high:{form}}", size=8, color="0.35")
