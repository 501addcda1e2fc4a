"""Decides with which mean and deviation of the log-mel a run trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from avmae_jax.config import AUDIO_MEAN, AUDIO_STD, Config, DataConfig
from avmae_jax.data.statistics import STATISTICS, read_statistics

_FIELDS = {"audio_mean": AUDIO_MEAN, "audio_std": AUDIO_STD}
_TOLERATED = 0.5  # nepers by which a config's values may differ from the data set's


def settle_normalisation(config: Config, checkpoint: Mapping[str, Any] | None) -> None:
    """Sets data.audio_mean and audio_std where the config leaves them open, and compares them with the data set where it doesn't.

    A value is that of the run that is resumed, or else that of the data set's statistics.json, or else the original's.

    Args:
      config: of the run; its two fields are set.
      checkpoint: meta of the run's newest checkpoint; None: a new run.

    Raises:
      DatasetError: if statistics.json can't be read.
    """
    measured = None if config.model.modality == "image" else _of_data(config.data)
    saved = (checkpoint or {}).get("config", {}).get("data", {})
    for name, default in _FIELDS.items():
        given, there = getattr(config.data, name), measured and measured[name]
        if given is not None:
            if there is not None and abs(given - there) > _TOLERATED:
                logging.warning("data.%s is %g, but the data set's %s has %g; leave it open to use that", name, given, STATISTICS, there)
            continue
        chosen, source = (there, f"of the data set's {STATISTICS}") if there is not None else (default, "the original's")
        if isinstance(saved.get(name), int | float):
            chosen, source = saved[name], "of the run that is resumed"
        setattr(config.data, name, chosen)
        logging.info("data.%s is %g, %s", name, chosen, source)


def _of_data(data: DataConfig) -> dict[str, float] | None:
    return read_statistics(Path(data.path).expanduser()) if data.source == "prepared" else None
