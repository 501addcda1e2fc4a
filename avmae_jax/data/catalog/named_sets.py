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
_USED_BY: dict[str, tuple[Dataset, ...]] = {  # field -> the data sets that it means something for
    "labels": ("av_folder",),
    "train_list": ("audioset", "vggsound", "vgginstruments", "music21"),
    "test_list": ("audioset", "vgginstruments", "music21"),
    "labels_csv": ("audioset", "vggsound"),
    "instruments": ("audioset", "vggsound"),
    "test_percent": ("av_folder", "music21"),
    "test_pattern": ("av_folder", "music21"),
}
_OF_ANYTHING = ("audioset", "vggsound")  # data sets with labels of all kinds, whose names are in labels_csv


@dataclasses.dataclass(frozen=True)
class Choice:
    """Says which data set is listed, and how. Errors call the fields as the options of launch.prepare are called."""

    dataset: Dataset = "av_folder"
    train_list: Sequence[str] = ()  # lists of training clips, as published; those of vggsound and music21 contain all splits
    test_list: Sequence[str] = ()  # lists of held-out clips
    labels: str = ""  # of av_folder, CSV with rows file,label[;label...] that label the files
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
    _require_used(choice)
    is_test = _matches(choice.test_pattern) if choice.test_pattern else None
    if dataset == "av_folder":
        return _divided(choice, listings.av_folder(root, labels=choice.labels, is_test=is_test, test_percent=choice.test_percent))
    if not choice.train_list:
        raise DatasetError(f"--dataset {dataset} needs --train_list, the list of its clips")
    if dataset in _OF_ANYTHING and not choice.labels_csv:
        raise DatasetError(f"--dataset {dataset} needs --labels_csv, with the columns index,mid,display_name")
    if dataset == "vgginstruments":
        return listings.vgginstruments({split: _only(files, split) for split, files in lists.items() if files}, root)
    if dataset == "music21":
        both = {split: _only(files, split) for split, files in lists.items() if files}
        lists_of = both if choice.test_list else both["train"]
        return _divided(choice, listings.music21(lists_of, root, is_test=is_test, test_percent=choice.test_percent))
    if dataset == "audioset":
        listing = listings.audioset(lists, choice.labels_csv, root)
    else:
        listing = listings.vggsound(_only(choice.train_list, dataset), choice.labels_csv, root)
    return listings.only_instruments(listing, dataset) if choice.instruments else listing


def _require_used(choice: Choice) -> None:
    """Raises DatasetError for a field that was given and would do nothing."""
    given = [name for name in _USED_BY if (getattr(choice, name) or None) != (getattr(Choice, name) or None)]
    for name in given:
        used_by = _USED_BY[name]
        if choice.dataset not in used_by:
            own = choice.dataset == "av_folder" and name != "instruments"
            remedy = "; for a folder of your own give --labels, a CSV with rows file,label[;label...]" if own else ""
            raise DatasetError(f"--{name} does nothing with --dataset {choice.dataset}, but with {' or '.join(used_by)}{remedy}")
    if choice.dataset == "music21" and choice.test_list and {"test_percent", "test_pattern"} & {*given}:
        raise DatasetError("--test_percent and --test_pattern do nothing where --test_list says which videos are held out")
    if {"test_percent", "test_pattern"} <= {*given}:
        raise DatasetError("--test_percent does nothing with --test_pattern, which chooses the videos that are held out; give one of them")


def _divided(choice: Choice, listing: Listing) -> Listing:
    """Returns the listing; raises DatasetError if a pattern puts all clips that were found on one side."""
    found = [entry for entries in listing.splits.values() for entry in entries]
    for split, which in (("test", "none"), ("train", "all")):
        if choice.test_pattern and found and not listing.splits[split]:
            example = f"such as {found[0].video!r}"
            raise DatasetError(f"--test_pattern is {choice.test_pattern!r}, which matches {which} of {len(found)} ids, {example}; mend it")
    return listing


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
