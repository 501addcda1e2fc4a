"""Measures on the built-in set whether the heat map of the audio lies on the instrument that is played.

Axis letters: F frames of a clip, P rows and columns of patches, H W image.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from avmae_jax.config import DataConfig
from avmae_jax.data.instruments import INSTRUMENTS, instrument_outlines, make_clip
from avmae_jax.inference.match_over_time import MomentEmbedder
from avmae_jax.inference.moments import Sizes, moments_of_clip

_LENGTH = 1.5  # of a clip, in windows, at least: images need audio around them


class Heated(NamedTuple):
    """Holds the heat maps of a clip's frames and where its instrument is."""

    own: np.ndarray  # float32[F, P, P], by the clip's audio
    other: np.ndarray  # float32[F, P, P], by the audio of a clip of another class
    instrument: np.ndarray  # float64[F, P, P], share of each patch that is the instrument
    signs: np.ndarray  # float64[F, P, P], share that is another sign of the audio: weather, metronome, level meter


def heated_clips(embed: MomentEmbedder, data: DataConfig, count: int) -> Iterator[Heated]:
    """Yields the heat maps of held-out clips, which are as the model's built-in set has them, or longer if its window is.

    Args:
      embed: with heat.
      data: of the run that trained the model, on the built-in set.
      count: clips.
    """
    config = embed.trained.config
    size = config.model.image_size
    seconds = max(data.builtin_seconds, _LENGTH * Sizes.of(config).window_seconds)
    common: dict[str, Any] = {"seed": data.builtin_seed, "seconds": seconds, "image_size": size, "frames": data.builtin_frames}
    before = make_clip("test", len(INSTRUMENTS) - 1, **common)
    for number in range(count):
        clip = make_clip("test", number, **common)
        own, other = (embed(moments_of_clip(each, config)).heat for each in (clip, clip._replace(waveform=before.waveform)))
        rows, columns = config.model.grid("image")
        outlines = instrument_outlines("test", number, **common)
        shares = [each.reshape(len(each), rows, size // rows, columns, size // columns).mean(axis=(2, 4)) for each in outlines]
        if own is None or other is None:
            raise ValueError("the embedder computes no heat; make it with heat=True")
        yield Heated(own, other, *(each[: len(own)] for each in shares))
        before = clip


def pointing(clips: Iterable[Heated]) -> dict[str, Any]:
    """Measures heat maps.

    Returns:
      "pointing": the probability that a point drawn from the hottest patch is on the instrument; "iou": intersection over union of the
      instrument and the hottest patches, as many as have its area. Each a mapping with "heat", "other_audio", by another clip's audio,
      "chance", by patches drawn at random, "centre", by the patch nearest to the centre, where players stand, and "best", what a map of
      patches can reach. "signs": the same as "pointing" for the other signs of the audio. "clips" and "frames" are counted.
    """
    rows, clip_count = list[dict[str, tuple[float, ...]]](), 0
    rng = np.random.default_rng(0)
    for clip in clips:
        clip_count += 1
        middle = _towards_centre(clip.own.shape[1:])
        for own, other, instrument, signs in zip(*clip, strict=True):
            maps: dict[str, np.ndarray] = {"heat": own, "other_audio": other, "chance": rng.random(own.shape), "centre": middle}
            scores: dict[str, tuple[float, ...]] = {
                name: (*_scores(heat, instrument), _scores(heat, signs)[0]) for name, heat in maps.items()
            }
            scores["best"] = (*_scores(instrument, instrument), _scores(signs, signs)[0])
            rows.append(scores)
    if not rows:
        raise ValueError("there is no clip")
    means = {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}
    measures = ("pointing", "iou", "signs")
    found = {measure: {name: float(values[place]) for name, values in means.items()} for place, measure in enumerate(measures)}
    return {"clips": clip_count, "frames": len(rows), **found}


def _towards_centre(shape: tuple[int, ...]) -> np.ndarray:
    """Computes a map that is the hotter the nearer to the centre: float64[P, P]."""
    rows, columns = (np.arange(count) - (count - 1) / 2 for count in shape)
    return -np.hypot(rows[:, None], columns[None])


def _scores(heat: np.ndarray, share: np.ndarray) -> tuple[float, float]:
    """Computes the share of the hottest patch that is the instrument, and the IoU of the hottest patches with it."""
    order, flat = np.argsort(-heat, axis=None, kind="stable"), share.reshape(-1)
    taken = max(1, round(float(flat.sum())))
    inside = float(flat[order[:taken]].sum())
    return float(flat[order[0]]), inside / (taken + float(flat.sum()) - inside)
