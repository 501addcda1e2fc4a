"""Opens the training and the held-out clips of a data set that is named by its folder or by a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from absl import logging

from avmae_jax.config import DataConfig, Modality
from avmae_jax.errors import EmptySplitError

from . import model_flags

if TYPE_CHECKING:
    from avmae_jax.data.clip import ClipSource

BUILTIN = "the built-in set"


def config_of(path: str) -> DataConfig:
    """Returns how to open a prepared folder, or the data of a run; raises DatasetError if the run's config can't be read."""
    if (Path(path).expanduser() / "config.json").is_file():
        return model_flags.run_config(path).data
    return DataConfig(source="prepared", path=path)


def name_of(data: DataConfig) -> str:
    """Names a data set as the results of the programs do."""
    return BUILTIN if data.source == "builtin" else data.eval_path if data.source == "manifest" else data.path


def open_splits(data: DataConfig, given: str = "") -> tuple[Modality, ClipSource, ClipSource]:
    """Opens both splits, reduced to the clips that have what is given.

    Args:
      data: of config_of.
      given: "both", "audio" or "image"; "": the first of these that some clips of both splits have.

    Returns:
      What the clips have, the training clips and the held-out ones.

    Raises:
      DatasetError: if one can't be opened, or has no such clips.
    """
    from avmae_jax.data.sources import open_source

    wanted: list[Modality] = [choice for choice in get_args(Modality) if given in ("", choice)]
    for number, choice in enumerate(wanted, start=1):
        try:
            return choice, open_source(data, "train", choice), open_source(data, "test", choice)
        except EmptySplitError as error:
            if number == len(wanted):
                raise
            logging.info("%s", error)
    raise ValueError(f"--given is {given!r}; choose {' or '.join(get_args(Modality))}")


def baseline_file(data: DataConfig, run: str) -> Path:
    """Returns the place of baseline.json: in the folder of prepared clips, or in the run whose data has no folder of its own."""
    from avmae_jax.evals.baselines.baseline import BASELINE

    return (Path(data.path) if data.source == "prepared" else Path(run)).expanduser() / BASELINE
