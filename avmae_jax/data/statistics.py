"""Computes what must be known of a training set before training on it: mean and deviation of its log-mel."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.fbank import WINDOW, log_mel
from avmae_jax.errors import DatasetError

STATISTICS = "statistics.json"  # in the data set's folder


class AudioStatistics(NamedTuple):
    """Holds mean and deviation of all log-mel values of the clips."""

    mean: float
    std: float
    clips: int  # with audio
    seconds: float  # of audio


def audio_statistics(clips: Iterable[Clip], mel_bins: int = 128) -> AudioStatistics:
    """Computes the statistics in one pass over the clips, in the memory of one of them.

    Only frames with audio count: padding is the model's, whose clips may have another length. The values are exact to rounding, whatever
    their number: sums of each clip are taken about a first clip's mean, in float64.

    Raises:
      ValueError: if no clip has audio.
    """
    shift, count, total, squares, number, samples = math.nan, 0, 0.0, 0.0, 0, 0
    for clip in clips:
        if len(clip.waveform) < WINDOW:
            continue
        values = log_mel(clip.waveform.astype(np.float32) / 32_768, mel_bins).astype(np.float64)
        shift = float(values.mean()) if math.isnan(shift) else shift
        count += values.size
        total += float((values - shift).sum())
        squares += float(np.square(values - shift).sum())
        number, samples = number + 1, samples + len(clip.waveform)
    if not number:
        raise ValueError("no clip has audio; there is nothing to take the mean of")
    mean = total / count
    return AudioStatistics(shift + mean, math.sqrt(squares / count - mean * mean), number, samples / SAMPLE_RATE)


def read_statistics(folder: Path) -> dict[str, float] | None:
    """Reads "audio_mean" and "audio_std" from a data set's statistics.json; None if launch.data_statistics hasn't written it.

    Raises:
      DatasetError: if the file is damaged.
    """
    path = folder / STATISTICS
    try:
        content = json.loads(path.read_bytes())
        found = {name: float(content[name]) for name in ("audio_mean", "audio_std")}
        if not all(map(math.isfinite, found.values())) or found["audio_std"] <= 0:
            raise ValueError(f"it has {found}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path} can't be used ({reason:.120}); run launch.data_statistics again, or remove the file") from error
    return found
