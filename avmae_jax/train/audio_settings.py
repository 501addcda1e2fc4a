"""Decides what the config leaves open about the data: mean and deviation of the log-mel, the channels, and the frames of pairs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from avmae_jax.config import AUDIO_MEAN, AUDIO_STD, Config, DataConfig
from avmae_jax.data.batches import frames_a_clip
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.statistics import STATISTICS, read_statistics
from avmae_jax.data.store.plan import is_complete, read_plan
from avmae_jax.errors import DatasetError
from avmae_jax.models.registry import kind_of

_DEFAULTS = {"audio_mean": AUDIO_MEAN, "audio_std": AUDIO_STD, "channels": "first"}
_TOLERATED = 0.5  # nepers by which a config's mean and deviation may differ from the data set's


def settle_audio(config: Config, checkpoint: Mapping[str, Any] | None) -> None:
    """Sets data.audio_mean, audio_std and channels where the config leaves them open, and compares them with the data set where it doesn't.

    A value is that of the run that is resumed, or else that of the data set, or else the original's.

    Args:
      config: of the run; these fields of it are set.
      checkpoint: meta of the run's newest checkpoint; None: a new run.

    Raises:
      DatasetError: if the data set's notes can't be read, or its audio was made of other channels than the config says.
    """
    known = {} if config.model.modality == "image" else _of_data(config.data)
    saved = (checkpoint or {}).get("config", {}).get("data", {})
    for name, default in _DEFAULTS.items():
        given, there = getattr(config.data, name), known.get(name)
        if given is not None:
            _compare(name, given, there, config.init_from)
            continue
        chosen, source = (default, "the original's") if there is None else (there, "of the data set")
        if isinstance(saved.get(name), type(default)):
            chosen, source = saved[name], "of the run that is resumed"
        setattr(config.data, name, chosen)
        logging.info("data.%s is %s, %s", name, chosen, source)


def settle_frames(config: Config, train: ClipSource, checkpoint: Mapping[str, Any] | None) -> None:
    """Sets data.frames of a model of pairs where the config leaves it open, so that it is noted beside the weights.

    It is as many as each training clip has. A run that was begun without noting it goes on so.

    Args:
      config: of the run.
      train: its training clips.
      checkpoint: meta of the run's newest checkpoint; None: a new run.

    Raises:
      DatasetError: if the clips have fewer than the config says.
    """
    if not kind_of(config.model).pairs:
        return
    saved = (checkpoint or {}).get("config", {}).get("data", {})
    frames = frames_a_clip(train, config.data)
    if config.data.frames or (isinstance(saved.get("frames"), int) and not saved["frames"]):
        return
    config.data.frames = frames
    logging.info("data.frames is %d, those of the training clips", frames)


def _compare(name: str, given: Any, there: Any, init_from: str) -> None:
    """Warns of a mean or deviation that isn't the data set's, and refuses other channels: the stored audio can't be changed any more."""
    if there is None or given == there:
        return
    if name == "channels":
        raise DatasetError(
            f"data.channels is {given}, but the data set was prepared with --channels={there}; leave it open, or prepare again"
        )
    if abs(given - there) > _TOLERATED:
        kept = f"; keep {given:g} if the weights of init_from were trained with it" if init_from else ""
        words = "data.%s is %g, but the data set's %s has %g, which --config.data.%s=%g takes%s"
        logging.warning(words, name, given, STATISTICS, there, name, there, kept)


def _of_data(data: DataConfig) -> dict[str, Any]:
    """Returns what a prepared data set says of its audio."""
    if data.source != "prepared":
        return {}
    folder = Path(data.path).expanduser()
    plan = read_plan(folder) if is_complete(folder) else {}
    channels = {True: "mean", False: "first"}.get(plan.get("mix_channels", False))  # as data sets of version 0.1 say it
    return {"channels": plan.get("channels", channels), **(read_statistics(folder) or {})}
