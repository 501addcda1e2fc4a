"""Lists the clips of a data set by its name: of one's own folder, or of a public list."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from avmae_jax.data.catalog import listings
from avmae_jax.data.catalog.media_folder import Listing
from avmae_jax.errors import DatasetError

Dataset = Literal["av_folder", "audioset", "vggsound", "vgginstruments", "music21"]
DATASETS: tuple[Dataset, ...] = get_args(Dataset)
_OF_ANYTHING = ("audioset", "vggsound")  # data sets with labels of all kinds, whose names are in labels_csv


@dataclasses.dataclass(frozen=True)
class Choice:
    """Says which data set is listed, and how. Errors call the fields as the options of launch.prepare are called."""

    dataset: Dataset = "av_folder"
    train_list: Sequence[str] = ()  # lists of training clips, as published; those of vggsound and music21 contain all splits
    test_list: Sequence[str] = ()  # lists of held-out clips
    labels_csv: str = ""  # of audioset and vggsound, with the columns index,mid,display_name
    instruments: bool = False  # of audioset and vggsound, keep only musical instruments
    test_percent: int = 10  # share of videos held out by a hash of their id, where no list says it
    test_pattern: str = ""  # a regular expression for the ids of held-out videos, instead of test_percent


def list_clips(choice: Choice, root: Path) -> Listing:
    """Lists the clips of a data set whose media lie under `root`.

    Raises:
      DatasetError: if a list is missing or wrong.
    """
    dataset, lists = choice.dataset, {"train": choice.train_list, "test": choice.test_list}
    if choice.instruments and dataset not in _OF_ANYTHING:
        words = "the others have only instruments, or your own classes"
        raise DatasetError(f"--instruments filters the labels of --dataset {' or '.join(_OF_ANYTHING)}; {words}")
    is_test = _matches(choice.test_pattern) if choice.test_pattern else None
    if dataset == "av_folder":
        return listings.av_folder(root, is_test=is_test, test_percent=choice.test_percent)
    if not choice.train_list:
        raise DatasetError(f"--dataset {dataset} needs --train_list, the list of its clips")
    if dataset in _OF_ANYTHING and not choice.labels_csv:
        raise DatasetError(f"--dataset {dataset} needs --labels_csv, with the columns index,mid,display_name")
    if dataset == "vgginstruments":
        return listings.vgginstruments({split: _only(files, split) for split, files in lists.items() if files}, root)
    if dataset == "music21":
        return listings.music21(_only(choice.train_list, dataset), root, is_test=is_test, test_percent=choice.test_percent)
    if dataset == "audioset":
        listing = listings.audioset(lists, choice.labels_csv, root)
    else:
        listing = listings.vggsound(_only(choice.train_list, dataset), choice.labels_csv, root)
    return listings.only_instruments(listing, dataset) if choice.instruments else listing


def _matches(pattern: str) -> Callable[[str], bool]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"--test_pattern is {pattern!r}, which is no regular expression: {error}") from error
    return lambda video: compiled.search(video) is not None


def _only(files: Sequence[str], what: str) -> str:
    if len(files) != 1:
        raise DatasetError(f"{what}: give one list, not {len(files)}")
    return files[0]
