"""What a person looks at during a run: reconstructions of held-out clips, and the curves of the loss.

What is shown is composed by pure functions on arrays (`compose`, `smooth`); the rest is layout.

Axis letters: n clips, H rows, W columns, C channels, P patch, L tokens, T spectrogram frames, M mel bins.
"""

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.fbank import SHIFT
from avmae_jax.data.frontend import IMAGENET_MEAN, IMAGENET_STD
from avmae_jax.models.patches import patchify, unpatchify
from avmae_jax.plots.canvas import DPI, WIDTH, axes_at, save, short_name, write

GREY = (0.5, 0.5, 0.5)  # hidden patches
BROKEN = (1.0, 0.0, 1.0)  # values that aren't finite

_STAGES = ("original", "masked", "reconstructed")
_CURVES = {"loss": "total", "mae_audio": "audio reconstruction", "mae_image": "image reconstruction", "nce": "contrastive, nats"}
_SET = ("learning_rate",)
_IMAGE, _GAP, _MARGIN, _HEAD, _TITLE, _ROW = 200, 8, 14, 60, 24, 256  # layout of a reconstruction, in pixels
_SPECTROGRAM_LEFT, _SPECTROGRAM_WIDTH = _MARGIN + 3 * (_IMAGE + _GAP) + 24, 620


class Panels(NamedTuple):
    """What is drawn of a batch of pictures, in their own units."""

    original: np.ndarray  # float32[n, H, W, C]
    hidden: np.ndarray  # bool[n, H, W], True where the encoder didn't see the pixel
    reconstructed: np.ndarray  # float32[n, H, W, C], predictions where hidden, the original elsewhere


def compose(picture: np.ndarray, pred: np.ndarray, hidden: np.ndarray, *, grid: tuple[int, int], patch: int, norm_pix: bool) -> Panels:
    """Puts predictions into the hidden places of pictures.

    Args:
      picture: float[n, H, W, C], what the model was given.
      pred: float[n, L, P * P * C].
      hidden: float[n, L], 1 where hidden.
      grid: (rows, columns) of the patches.
      patch: P.
      norm_pix: the predictions are of patches normalised one by one; each gets the mean and the standard deviation of its original, as in
        the figures of He et al., arXiv 2111.06377.

    Returns:
      Panels.

    Raises:
      ValueError: if the shapes don't fit each other.
    """
    patches = patchify(jnp.asarray(picture, jnp.float32), patch)
    if pred.shape != patches.shape or hidden.shape != patches.shape[:2] or (grid[0] * patch, grid[1] * patch) != picture.shape[1:3]:
        raise ValueError(
            f"predictions {pred.shape}, hidden {hidden.shape} and grid {grid} don't all belong to pictures {picture.shape} cut into "
            f"patches of {patch} ({patches.shape}); take them from one pass of one model"
        )
    values = jnp.asarray(pred, jnp.float32)
    if norm_pix:
        values = values * patches.std(axis=-1, keepdims=True, ddof=1) + patches.mean(axis=-1, keepdims=True)
    where = jnp.broadcast_to(jnp.asarray(hidden, jnp.float32)[..., None] > 0, patches.shape)
    reconstructed, pixels = (unpatchify(rows, grid, patch) for rows in (jnp.where(where, values, patches), where))
    return Panels(np.asarray(picture, np.float32), np.asarray(pixels[..., 0]), np.asarray(reconstructed))


def image_stages(panels: Panels) -> list[np.ndarray]:
    """ImageNet-normalised images as colours: original, masked, reconstructed, each float32[n, H, W, 3] in [0, 1]."""
    return _stages(panels, lambda values: np.clip(values * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN), 0, 1))


def spectrogram_stages(panels: Panels) -> list[np.ndarray]:
    """Spectrograms as colours: original, masked, reconstructed, each float32[n, M, T, 3] in [0, 1]; a clip's three share one scale."""
    low, high = np.percentile(panels.original, (0.5, 99.5), axis=(1, 2, 3), keepdims=True)
    span = np.maximum(high - low, 1e-6)
    return _stages(panels, lambda values: colormaps["magma"](np.clip((values - low) / span, 0, 1)[..., 0])[..., :3])


def _stages(panels: Panels, paint: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Original, masked and reconstructed pictures in colour; what isn't finite gets a colour of its own."""

    def colour(values: np.ndarray) -> np.ndarray:
        finite = np.isfinite(values).all(axis=-1, keepdims=True)
        return np.where(finite, paint(np.where(finite, values, 0)), BROKEN).astype(np.float32)

    original = colour(panels.original)
    masked = np.where(panels.hidden[..., None], GREY, original).astype(np.float32)
    return [original, masked, colour(panels.reconstructed)]


def reconstructions(path: Path, panels: Mapping[str, Panels], titles: Sequence[str], *, norm_pix: bool) -> None:
    """Saves a PNG with a row for each clip: its image and its spectrogram, each as given, as seen, and as filled in by the model.

    Args:
      path: of the PNG; its folder is made if need be.
      panels: of compose, under "image" and "audio", or under one of these: ImageNet-normalised images, spectrogram pictures [n, M, T, 1].
      titles: n names of clips, a handful.
      norm_pix: whether the predictions have got mean and contrast from the original, which the heading tells.

    Raises:
      ValueError: if there aren't as many pictures as titles.
      OSError: if the file can't be written.
    """
    counts = {name: len(panel.original) for name, panel in panels.items()}
    if not titles or set(counts.values()) != {len(titles)}:
        raise ValueError(f"panels for {counts} clips and {len(titles)} titles; give one of each for every clip")
    paint = {"image": image_stages, "audio": spectrogram_stages}
    colours = {name: paint[name](panel) for name, panel in panels.items()}
    figure = Figure(figsize=(WIDTH / DPI, (_HEAD + len(titles) * _ROW) / DPI), dpi=DPI, facecolor="white")
    words = {"image": "image", "audio": "sound"}
    shares = [f"{float(np.mean(panels[name].hidden)):.0%} of the {word}" for name, word in words.items() if name in panels]
    note = ", with each patch's mean and contrast from the original" if norm_pix else ""
    write(figure, _MARGIN, 20, f"Hidden patches (grey: {' and '.join(shares)}) as the model fills them in{note}", size=11)
    for i, stage in enumerate(_STAGES if "image" in panels else ()):
        write(figure, _MARGIN + i * (_IMAGE + _GAP), 48, stage, size=9, color="0.35")
    for clip, title in enumerate(titles):
        top = _HEAD + clip * _ROW
        write(figure, _MARGIN, top + _TITLE / 2, short_name(title, 150), size=9, weight="bold")
        if "image" in panels:
            _draw_images(figure, top + _TITLE, [stage[clip] for stage in colours["image"]])
        if "audio" in panels:
            seconds = panels["audio"].original.shape[2] * SHIFT / SAMPLE_RATE
            _draw_spectrograms(figure, top + _TITLE, [stage[clip] for stage in colours["audio"]], seconds)
    save(figure, path)


def _draw_images(figure: Figure, top: float, stages: list[np.ndarray]) -> None:
    for i, picture in enumerate(stages):
        axes = axes_at(figure, _MARGIN + i * (_IMAGE + _GAP), top, _IMAGE, _IMAGE)
        axes.imshow(picture)
        axes.set_axis_off()


def _draw_spectrograms(figure: Figure, top: float, stages: list[np.ndarray], seconds: float) -> None:
    """One above the other on one time axis, low mel at the bottom, so that the eye can compare them column by column."""
    height = (_IMAGE - 2 * _GAP) / 3
    for i, picture in enumerate(stages):
        place = top + i * (height + _GAP)
        axes = axes_at(figure, _SPECTROGRAM_LEFT, place, _SPECTROGRAM_WIDTH, height)
        axes.imshow(picture, origin="lower", aspect="auto", extent=(0, seconds, 0, len(picture)))
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.xaxis.set_major_formatter("{x:g} s")
        axes.tick_params(labelsize=8, length=3, color="0.5", labelcolor="0.35", bottom=i == 2, labelbottom=i == 2)
        write(figure, _SPECTROGRAM_LEFT + _SPECTROGRAM_WIDTH + _GAP, place + height / 2, _STAGES[i], size=9, color="0.35")
    write(figure, _SPECTROGRAM_LEFT - 10, top + _IMAGE / 2, "mel, low to high", size=8, color="0.35", rotation=90, ha="center")


def loss_curves(path: Path, metrics_jsonl: Path, *, batch_size: int | None = None) -> None:
    """Saves a PNG of the parts of the loss over steps, on the training set (each value faint, and smoothed) and on the held-out set.

    Args:
      path: of the PNG; its folder is made if need be.
      metrics_jsonl: lines of {"step": int, "split": "train" | "eval", "loss", "mae_audio", "mae_image", "nce", ...}. What isn't finite is
        marked in red at its step; a line that a kill cut short is named in the log and left out.
      batch_size: how many pairs the contrastive loss chooses from; draws what guessing would cost, log(batch_size).

    Raises:
      OSError: if a file can't be read or written.
    """
    rows = read_metrics(metrics_jsonl)
    figure = Figure(figsize=(WIDTH / DPI, 7), dpi=DPI, facecolor="white")
    figure.subplots_adjust(left=0.04, right=0.985, bottom=0.07, top=0.95, wspace=0.09, hspace=0.28)
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, _CURVES.items(), strict=True):
        _draw_curve(axes, rows, name, title, batch_size if name == "nce" else None)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, framealpha=0.9, edgecolor="none", loc="upper right")
    save(figure, path)


def curve_svg(rows: list[dict[str, Any]], name: str, title: str, *, batch_size: int | None = None) -> bytes:
    """One number over steps as an SVG, drawn as in loss_curves.

    Args:
      rows: of read_metrics.
      name: of the number.
      title: what it is, in words.
      batch_size: draws what guessing would cost, as in loss_curves.
    """
    figure = Figure(figsize=(4.6, 3.1), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    _draw_curve(axes, rows, name, title, batch_size)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return file.getvalue()


def _draw_curve(axes: Axes, rows: list[dict[str, Any]], name: str, title: str, batch_size: int | None) -> None:
    """On the training set, each value faint, and smoothed; on the held-out set; what isn't finite; what guessing costs."""
    shown, broken = [], []
    for split, draw in (("train", _draw_train if name not in _SET else _draw_set), ("eval", _draw_eval)):
        steps, values = series(rows, split, name)
        finite = np.isfinite(values)
        shown.append(draw(axes, steps[finite], values[finite]))
        broken.append(steps[~finite])
    if len(steps := np.concatenate(broken)):
        axes.plot(steps, 0 * steps + 0.98, "r|", transform=axes.get_xaxis_transform(), label=f"not finite: {len(steps)}")
    if batch_size:
        chance = math.log(batch_size)
        axes.axhline(chance, color="0.4", linestyle="--", linewidth=1, label=f"guessing: log {batch_size} = {chance:.2f}")
        shown.append(np.array([chance]))
    _fit(axes, np.concatenate(shown))
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; lines that aren't a row with a step are named in the log and left out."""
    rows, damaged = parse_metrics(path)
    for number, line in damaged:
        logging.warning("%s: line %d isn't a row of metrics and is not drawn: %.80s", path, number, line)
    return rows


def parse_metrics(path: Path) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """The rows of a metrics.jsonl, and its lines that are none, with their numbers, counted from 1; raises OSError."""
    rows, damaged = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        else:
            damaged.append((number, line))
    return rows, damaged


def series(rows: list[dict[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One number over steps: float64[n], float64[n] with NaN for what is written but no number; rows without the name are left out."""
    found = [(row["step"], row[name]) for row in rows if row.get("split") == split and name in row]
    numbers = [value if isinstance(value, int | float) else math.nan for _, value in found]
    return np.array([step for step, _ in found], np.float64), np.array(numbers, np.float64)


def smooth(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of the values up to `reach` places from each: float[n] -> float[n].

    The window is centred, so that the curve doesn't lag; it is short at the start, where a loss falls fast, and cut at the end.
    """
    return np.array([values[max(0, i - reach) : i + min(i, reach) + 1].mean() for i in range(len(values))])


def _draw_train(axes: Axes, steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the values that must be seen whole: the smoothed ones and nearly all others, lest a stray one flatten the rest."""
    if not len(values):
        return values
    reach = min(250, len(values) // 20)
    mean = smooth(values, reach)
    axes.plot(steps, values, color="C0", alpha=0.25, linewidth=1)
    axes.plot(steps, mean, color="C0", linewidth=1.8, label=f"training, mean of {2 * reach + 1}" if reach else "training")
    return np.concatenate([mean, np.percentile(values, (1, 99))])


def _draw_set(axes: Axes, steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values that were set, not measured, and need no smoothing. Returns those that must be seen whole."""
    if len(values):
        axes.plot(steps, values, color="C0", linewidth=1.8, label="training", drawstyle="steps-post")
    return values


def _draw_eval(axes: Axes, steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the values that must be seen whole."""
    if len(values):
        axes.plot(steps, values, "o-", color="C1", markersize=4, linewidth=1, label="held out")
    return values


def _fit(axes: Axes, shown: np.ndarray) -> None:
    """Limits that hold what is shown, or a word where there is nothing."""
    if not len(shown):
        axes.text(0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", va="center", color="0.5")
        return
    low, high = shown.min(), shown.max()
    room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)
