"""Draws which patches of an image and of a spectrogram a model's answer comes from, over the image and the spectrogram in grey.

Axis letters: H W image, T spectrogram frames, M mel bins, S samples.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.fbank import SHIFT, log_mel, num_frames
from avmae_jax.plots.canvas import SMALL, TITLE, Box, axes_at, blank, fitting, save, time_axis, write
from avmae_jax.plots.clips import own_scale, show_image, show_spectrogram
from avmae_jax.plots.palette import LIGHT, SIGNED
from avmae_jax.plots.spectrogram_axes import HERTZ_WIDTH, LEVELS_WIDTH, frequency_axis, levels_beside, show_padding

_MARGIN, _GAP, _HEAD, _SIDE, _AXIS, _BAR = 14, 12, 66, 290, 26, 68  # in pixels
_SPECTROGRAM = HERTZ_WIDTH + 464 + LEVELS_WIDTH  # of it the middle part is coloured
_STRONGEST = 0.85  # opacity of the strongest colour


def draw_heatmap(
    path: Path, heat: Mapping[str, np.ndarray], constant: float | None, arrays: Mapping[str, Any], *, start: float, title: str
) -> None:
    """Saves a PNG of what a model was given, and of the same with the heat map over it.

    Args:
      path: of the PNG; its folder is created if missing.
      heat: numbers of the patches: "audio" -> float32[mel rows, time columns], low mel first; "image" -> float32[rows, columns].
      constant: the part of the logit that no patch has a share in; None: the heat is of cosines, not of shares.
      arrays: what the model was given: "waveform" int16[S] with "samples", how many of these belong to the medium; "image" uint8[H, W, 3].
      start: seconds into the medium at which they begin.
      title: one line.

    Raises:
      OSError: if the file can't be written.
    """
    wide = 2 * (_SIDE + _GAP) * ("image" in heat) + _SPECTROGRAM * ("audio" in heat) - (_GAP if "audio" not in heat else 0)
    figure = blank(wide + 2 * _MARGIN, _HEAD + _SIDE + _AXIS + _BAR)
    write(figure, _MARGIN, 20, fitting(title, wide, TITLE, "bold"), size=TITLE, weight="bold")
    window = f"from {start:g} s on" if "audio" in heat else f"the window from {start:g} s on" if start else ""
    write(figure, _MARGIN, 44, "; ".join(filter(None, [window, _sums(heat, constant)])), color=LIGHT.soft)
    limits = colour_limits(heat, constant)
    left = _MARGIN
    if "image" in heat:
        image = arrays["image"].astype(np.float32) / 255
        grey = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)
        for stage in (image, painted(grey, heat["image"], *limits["image"])):
            show_image(figure, Box(left, _HEAD, _SIDE, _SIDE), stage)
            left += _SIDE + _GAP
    if "audio" in heat:
        samples = int(arrays["samples"])
        grey, scale = _grey_spectrogram(arrays["waveform"], samples, heat["audio"].shape)
        end = start + max(0, num_frames(samples)) * SHIFT / SAMPLE_RATE
        _draw_spectrograms(figure, left, [grey, painted(grey, heat["audio"], *limits["audio"])], (start, end))
        place = Box(left + HERTZ_WIDTH, _HEAD, _SPECTROGRAM - HERTZ_WIDTH - LEVELS_WIDTH, _SIDE)
        levels_beside(figure, place, scale, colours="gray")
    _draw_bars(figure, limits, constant, wide)
    save(figure, path)


def colour_limits(heat: Mapping[str, np.ndarray], constant: float | None) -> dict[str, tuple[float, float]]:
    """Returns the ends of the scales: shares have one scale for all patches, around 0; cosines one for each modality."""
    if constant is None:
        return {name: (float(values.min()), float(values.max())) for name, values in heat.items()}
    largest = max(float(np.abs(values).max()) for values in heat.values())
    return dict.fromkeys(heat, (-largest, largest))


def painted(grey: np.ndarray, heat: np.ndarray, low: float, high: float) -> np.ndarray:
    """Paints a heat map over a grey image: blue where it is `low`, red where it is `high`, nothing half-way between them.

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
    return colormaps[SIGNED](np.clip(values, 0, 1))[..., :3]


def _sums(heat: Mapping[str, np.ndarray], constant: float | None) -> str:
    if constant is None:
        return "cosine of each patch with the whole of the other modality"
    parts = [f"{name} {values.sum():+.2f}" for name, values in heat.items()]
    return f"logit {sum(values.sum() for values in heat.values()) + constant:.2f} = {', '.join(parts)}, rest {constant:+.2f}"


def _draw_spectrograms(figure: Figure, left: float, stages: list[np.ndarray], audio: tuple[float, float]) -> None:
    """Draws the spectrogram, and below it the same with its heat map; `audio` is when its audio begins and ends, in seconds."""
    height = (_SIDE - _GAP) / 2
    start, end = audio[0], audio[0] + stages[0].shape[1] * SHIFT / SAMPLE_RATE
    for number, stage in enumerate(stages):
        place = Box(left + HERTZ_WIDTH, _HEAD + number * (height + _GAP), _SPECTROGRAM - HERTZ_WIDTH - LEVELS_WIDTH, height)
        axes = axes_at(figure, place)
        show_spectrogram(axes, stage, (start, end))
        if audio[1] < end - SHIFT / SAMPLE_RATE / 2:
            show_padding(axes, audio[1], end, is_filled=number == 0)  # the heat of padding stays visible
        frequency_axis(axes, len(stage))
        time_axis(axes, has_labels=number == 1)


def _grey_spectrogram(waveform: np.ndarray, samples: int, grid: tuple[int, ...]) -> tuple[np.ndarray, tuple[float, float]]:
    """Computes a spectrogram of as many mel bins as the grid's patches have, and the log-mel of black and of white.

    Returns:
      float32[M, T, 3], black after `samples`; and both ends of its scale.
    """
    frames = num_frames(len(waveform))
    mel_bins = grid[0] * (frames // grid[1])  # patches are square
    values = log_mel(waveform[:samples].astype(np.float32) / 32_768, mel_bins)[:frames]
    low, high = own_scale(values)
    grey = np.clip((values - low) / (high - low), 0, 1)
    grey = np.repeat(np.pad(grey, ((0, frames - len(grey)), (0, 0))).T[..., None], 3, axis=-1).astype(np.float32)
    return grey, (low, high)


def _draw_bars(figure: Figure, limits: Mapping[str, tuple[float, float]], constant: float | None, wide: int) -> None:
    """Draws the scales of the colours with their ends."""
    middle = _HEAD + _SIDE + _AXIS + _BAR / 2
    titles = (
        {name: f"patches of the {name}: cosine" for name in ("image", "audio")}
        if constant is None
        else {next(iter(limits)): "share of a patch in the logit: red is for the class, blue against it"}
    )
    room = wide / max(2, len(titles))
    style: dict[str, Any] = {"size": SMALL, "color": LIGHT.soft}
    for number, (name, title) in enumerate(titles.items()):
        left = _MARGIN + number * room
        (low, high), form = limits[name], "+.2f" if constant is None else "+.4f"
        write(figure, left, middle - 13, title, **style)
        write(figure, left, middle + 6, f"{low:{form}}", **style)
        show_image(figure, Box(left + 58, middle, room - 136, 12), _colours(np.linspace(0, 1, 256))[None])
        write(figure, left + room - 70, middle + 6, f"{high:{form}}", **style)
