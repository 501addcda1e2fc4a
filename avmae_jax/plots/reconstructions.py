"""Draws reconstructions of clips: as given, as seen by the encoder, and as filled in by the model.

Axis letters: n clips, H rows, W columns, C channels, T spectrogram frames, M mel bins.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.fbank import SHIFT
from avmae_jax.data.frontend import IMAGENET_MEAN, IMAGENET_STD
from avmae_jax.inference.panels import Panels
from avmae_jax.plots import palette
from avmae_jax.plots.canvas import TITLE, WIDTH, Box, axes_at, blank, fitting, save, time_axis, write
from avmae_jax.plots.clips import own_scale, show_image, show_spectrogram
from avmae_jax.plots.palette import LIGHT, SPECTROGRAM
from avmae_jax.plots.spectrogram_axes import HERTZ_WIDTH, LEVELS_WIDTH, frequency_axis, levels_beside, show_padding

GREY = to_rgb(palette.HIDDEN)  # hidden patches
BROKEN = to_rgb(palette.BROKEN)  # values that aren't finite

_STAGES = ("original", "masked", "reconstructed")
_IMAGE, _GAP, _MARGIN, _HEAD, _TITLE, _ROW = 190, 8, 14, 62, 26, 250  # in pixels
_WORD = 100  # pixels of the longest stage's name
_SPECTROGRAM_LEFT = _MARGIN + 3 * (_IMAGE + _GAP) + HERTZ_WIDTH
_SPECTROGRAM_WIDTH = WIDTH - _MARGIN - LEVELS_WIDTH - _WORD - _SPECTROGRAM_LEFT


def image_stages(panels: Panels) -> list[np.ndarray]:
    """Turns ImageNet-normalised images into colours: original, masked, reconstructed, each float32[n, H, W, 3] in [0, 1]."""
    return _stages(panels, lambda values: np.clip(values * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN), 0, 1))


def spectrogram_stages(panels: Panels) -> list[np.ndarray]:
    """Turns spectrograms into colours: original, masked, reconstructed, each float32[n, M, T, 3] in [0, 1].

    The three stages of a clip share one scale, that of its original.
    """
    scales = np.array([_normalised_scale(panels, clip) for clip in range(len(panels.original))])
    low, high = scales.T[..., None, None, None]
    return _stages(panels, lambda values: colormaps[SPECTROGRAM](np.clip((values - low) / (high - low), 0, 1)[..., 0])[..., :3])


def spectrogram_scale(panels: Panels, clip: int) -> tuple[float, float]:
    """Returns the log-mel that the darkest and the brightest colour of a clip stand for."""
    mean, std = panels.scale(clip)
    low, high = _normalised_scale(panels, clip)
    return low * std + mean, high * std + mean


def _normalised_scale(panels: Panels, clip: int) -> tuple[float, float]:
    """Returns the ends of the colour scale in the units of the panels; padding has no share in them."""
    return own_scale(panels.original[clip, :, : panels.held(clip) or None])


def _stages(panels: Panels, paint: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Paints the three stages; values that aren't finite get a colour of their own."""

    def colour(values: np.ndarray) -> np.ndarray:
        finite = np.isfinite(values).all(axis=-1, keepdims=True)
        return np.where(finite, paint(np.where(finite, values, 0)), BROKEN).astype(np.float32)

    original = colour(panels.original)
    masked = np.where(panels.hidden[..., None], GREY, original).astype(np.float32)
    return [original, masked, colour(panels.reconstructed)]


def reconstructions(path: Path, panels: Mapping[str, Panels], titles: Sequence[str], *, norm_pix: bool) -> None:
    """Saves a PNG with a row for each clip: its image and its spectrogram, each as given, as seen, and as filled in by the model.

    Args:
      path: of the PNG; its folder is created if missing.
      panels: under "image" and "audio", or under one of these: ImageNet-normalised images, spectrograms [n, M, T, 1].
      titles: n names of clips, a handful.
      norm_pix: whether the predictions got their mean and contrast from the original, which the heading then says.

    Raises:
      ValueError: if the panels and the titles are not of the same number of clips.
      OSError: if the file can't be written.
    """
    counts = {name: len(panel.original) for name, panel in panels.items()}
    if not titles or set(counts.values()) != {len(titles)}:
        raise ValueError(f"panels for {counts} clips and {len(titles)} titles; give one of each for every clip")
    paint = {"image": image_stages, "audio": spectrogram_stages}
    colours = {name: paint[name](panel) for name, panel in panels.items()}
    figure = blank(WIDTH, _HEAD + len(titles) * _ROW)
    shares = [f"{float(np.mean(panels[name].hidden)):.0%} of the {name}" for name in paint if name in panels]
    note = ", with each patch's mean and contrast from the original" if norm_pix else ""
    write(figure, _MARGIN, 20, f"Hidden patches (grey: {' and '.join(shares)}) as the model fills them in{note}", size=TITLE)
    for i, stage in enumerate(_STAGES if "image" in panels else ()):
        write(figure, _MARGIN + i * (_IMAGE + _GAP), 50, stage, color=LIGHT.soft)
    if "audio" in panels and any(panels["audio"].held(clip) < panels["audio"].original.shape[2] for clip in range(len(titles))):
        write(figure, _SPECTROGRAM_LEFT, 50, "hatched: padding, which belongs to no clip", color=LIGHT.soft)
    for clip, title in enumerate(titles):
        top = _HEAD + clip * _ROW
        write(figure, _MARGIN, top + _TITLE / 2, fitting(title, WIDTH - 2 * _MARGIN, weight="bold"), weight="bold")
        if "image" in panels:
            for i, stage in enumerate(colours["image"]):
                show_image(figure, Box(_MARGIN + i * (_IMAGE + _GAP), top + _TITLE, _IMAGE, _IMAGE), stage[clip])
        if "audio" in panels:
            _draw_spectrograms(figure, top + _TITLE, panels["audio"], clip, [stage[clip] for stage in colours["audio"]])
    save(figure, path)


def _draw_spectrograms(figure: Figure, top: float, panels: Panels, clip: int, stages: list[np.ndarray]) -> None:
    """Draws the stages one above the other on one time axis, so that the eye can compare them column by column."""
    height = (_IMAGE - 2 * _GAP) / 3
    _, mel_bins, frames, _ = panels.original.shape
    second = SAMPLE_RATE / SHIFT
    for i, stage in enumerate(stages):
        place = top + i * (height + _GAP)
        axes = axes_at(figure, Box(_SPECTROGRAM_LEFT, place, _SPECTROGRAM_WIDTH, height))
        show_spectrogram(axes, stage, (0, frames / second))
        if panels.held(clip) < frames:
            show_padding(axes, panels.held(clip) / second, frames / second)
        frequency_axis(axes, mel_bins)
        time_axis(axes, has_labels=i == 2)
        write(figure, _SPECTROGRAM_LEFT + _SPECTROGRAM_WIDTH + _GAP, place + height / 2, _STAGES[i], color=LIGHT.soft)
    beside = Box(_SPECTROGRAM_LEFT, top, _SPECTROGRAM_WIDTH + _WORD, _IMAGE)
    levels_beside(figure, beside, spectrogram_scale(panels, clip))
