"""Computes what must be known of a training set before training on it: mean and deviation of its log-mel, and sampling weights."""

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avmae_jax.data.augment import balanced_weights
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.fbank import WINDOW, log_mel
from avmae_jax.data.store import plan
from avmae_jax.data.store.plan import is_complete
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.data.store.records import weights_file
from avmae_jax.data.text_files import read_json
from avmae_jax.errors import DatasetError, first_line
from avmae_jax.files import OnProgress, write_bytes, write_json

STATISTICS = "statistics.json"  # in the data set's folder
_LARGEST = 20  # no log-mel of audio in [-1, 1] has a mean or deviation beyond it: the least value is -15.9


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
      DatasetError: if the file is damaged, has values that no log-mel has, or is of another data set.
    """
    path = folder / STATISTICS
    if not path.exists():
        return None
    try:
        content = read_json(path)
        found = {name: _number(content[name]) for name in ("audio_mean", "audio_std")}
        if not (abs(found["audio_mean"]) <= _LARGEST and 0 < found["audio_std"] <= _LARGEST):  # NaN is neither
            raise ValueError(f"it has {found}")
        _require_same_set(content, folder)
    except (DatasetError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DatasetError(
            f"{path} can't be used ({first_line(error):.120}); run launch.data_statistics again, or remove the file"
        ) from error
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"it has {value!r}, which is no number")
    return float(value)


def _require_same_set(content: Mapping[str, Any], folder: Path) -> None:
    """Raises ValueError if statistics are of other clips than a finished data set has, or of other channels, as far as both say it."""
    if not is_complete(folder):
        return
    clips, channels = _of_set(folder)
    for count in (content.get("of", clips), max(clips or 0, _number(content.get("clips", 0)))):
        if clips and count != clips:
            raise ValueError(f"it is of {count} training clips, but the data set has {clips}")
    if channels and content.get("channels", channels) != channels:
        raise ValueError(f"it is of channels = {content['channels']}, but the data set has {channels}")


def _of_set(folder: Path) -> tuple[int | None, str | None]:
    """Returns the number of training clips of a finished data set, and its channels; None where its summary doesn't say."""
    summary = plan.read_json(folder / plan.SUMMARY)
    counts, settings = summary.get("clips"), summary.get("plan")
    clips = counts.get("train") if isinstance(counts, dict) else None
    return clips if isinstance(clips, int) else None, settings.get("channels") if isinstance(settings, dict) else None


def write_statistics(folder: Path, limit: int, on_progress: OnProgress) -> dict[str, float]:
    """Stores "audio_mean", "audio_std", "clips" and "seconds" of a prepared data set in its STATISTICS, and returns them.

    With them it stores what tells the data set from others: "of", its number of training clips, and "channels".

    Of the training clips `limit` are read, spread evenly over the set, or all if it is 0.

    Raises:
      DatasetError, CorruptRecordError: if the training split can't be read, or has no audio.
    """
    source = PreparedSource(folder, "train", "audio")
    chosen = range(0, len(source), max(1, len(source) // limit))[:limit] if limit else range(len(source))

    def clips() -> Iterator[Clip]:
        for number, index in enumerate(chosen, start=1):
            yield source[index]
            on_progress(number, 0, len(chosen))

    found = audio_statistics(clips())
    mean, std, seconds = round(found.mean, 4), round(found.std, 4), round(found.seconds, 1)
    content = {"audio_mean": mean, "audio_std": std, "clips": found.clips, "seconds": seconds}
    of, channels = _of_set(folder)
    known = {name: value for name, value in (("of", of), ("channels", channels)) if value is not None}
    write_json(folder / STATISTICS, content | known)
    return content


def write_weights(folder: Path) -> Path | None:
    """Computes and stores the sampling weights of all training clips; returns their file, or None if some clips have no label."""
    index = PreparedSource(folder, "train", "any").index
    labels = [index.labels_of(row).tolist() for row in range(len(index.id))]
    if not all(map(len, labels)):
        return None
    content = io.BytesIO()
    np.save(content, balanced_weights(labels, int(index.labels.max()) + 1))
    write_bytes(folder / weights_file("train"), content.getvalue())
    return folder / weights_file("train")
