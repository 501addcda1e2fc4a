"""Finds out how many clips and classes a run has, as far as a plan needs them."""

from avmae_jax.config import Config
from avmae_jax.data.instruments import INSTRUMENTS
from avmae_jax.data.sources import open_source
from avmae_jax.errors import ConfigError, DatasetError
from avmae_jax.models.registry import kind_of
from avmae_jax.train.run import needs_of

_NOT_READ = "not-read"  # stands for files that a plan doesn't need


def assume_clips(config: Config, clips: int) -> None:
    """Sets what a config leaves open of its files, so that it can be checked without them; with 0 clips the data set must be there."""
    config.requires, data = (), config.data
    if clips and data.source == "builtin":
        data.builtin_train = max(clips, config.train.batch_size)  # count_clips has the words for too few
    elif clips:
        data.path = data.path or _NOT_READ
        data.labels_csv = data.labels_csv or (_NOT_READ if data.source == "manifest" else "")


def count_clips(config: Config, clips: int = 0, classes: int = 0) -> tuple[int, list[str]]:
    """Returns the number of training clips and, for a classifier, names of its classes; opens the data set where one of them is 0.

    Raises:
      ConfigError: if there are fewer clips than a batch has.
      DatasetError: if the data set can't be opened.
    """
    classifies = kind_of(config.model).task == "classification"
    names = [f"class {number}" for number in range(classes)] if classifies else []
    if not clips or (classifies and not classes):
        found, found_names = _opened(config, classifies)
        clips, names = clips or found, names or (found_names if classifies else [])
    if clips < config.train.batch_size:
        raise ConfigError(f"train.batch_size is {config.train.batch_size}, but there are only {clips} clips; change one of them")
    return clips, names


def _opened(config: Config, classifies: bool) -> tuple[int, list[str]]:
    data = config.data
    if data.source == "builtin" and not data.labelled_per_class:
        return data.builtin_train, list(INSTRUMENTS)
    try:
        source = open_source(data, "train", needs_of(config))
    except DatasetError as error:
        raise DatasetError(f"{error}; or give --clips=N{' --classes=N' if classifies else ''}") from error
    return len(source), list(source.label_names)
