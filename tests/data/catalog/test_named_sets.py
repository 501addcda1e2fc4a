"""Tests that a data set is listed by its name and options, and that an error names the option that is missing or makes no sense."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from avmae_jax.data.catalog.media_folder import media_files
from avmae_jax.data.catalog.named_sets import DATASETS, Choice, list_clips
from avmae_jax.errors import DatasetError

LINES = {
    "audioset": "{0}, 30, 40, m0\n{1}, 10, 20, m1\n",
    "vggsound": "{0},30,harp,train\n{1},10,dog,test\n",
    "vgginstruments": "{0}_000030,harp\n{1}_000010,dog\n",
    "music21": '{{"videos": {{"harp": ["{0}"], "dog": ["{1}"]}}}}',
}
VIDEOS = ("abcdefghijk", "zbcdefghijk")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns a folder of media, whose parent has a list of each data set and its labels."""
    for name in ("media/harp/abcdefghijk.mp4", "media/dog/deep/zbcdefghijk.flac", "media/dog/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, lines in LINES.items():
        (tmp_path / name).write_text(lines.format(*VIDEOS))
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n0,m0,harp\n1,m1,dog\n")
    return tmp_path / "media"


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_data_set_is_listed_by_its_name(root: Path, dataset: Any) -> None:
    lists = () if dataset == "av_folder" else (str(root.parent / dataset),)
    labels_csv = str(root.parent / "labels.csv") if dataset in ("audioset", "vggsound") else ""
    pattern = "^(dog|z)" if dataset in ("av_folder", "music21") else ""
    listing = list_clips(Choice(dataset, lists, labels_csv=labels_csv, test_pattern=pattern), root)
    entries = {Path(entry.path).stem: listing.label_names[entry.labels[0]] for part in listing.splits.values() for entry in part}
    assert entries == dict(zip(VIDEOS, ("harp", "dog"), strict=True))
    by_list = dataset in ("audioset", "vgginstruments")  # whose only list here is of training clips
    assert len(listing.splits["test"]) == (0 if by_list else 1)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"train_list": ()}, "--train_list"),
        ({"labels_csv": ""}, "--labels_csv"),
        ({"train_list": ("a", "b")}, "vggsound.*2"),
        ({"dataset": "music21", "labels_csv": "", "instruments": True}, "--instruments.*audioset"),
        ({"dataset": "music21", "labels_csv": "", "test_pattern": "(["}, r"--test_pattern.*'\(\['"),
        ({"test_pattern": "x"}, "--test_pattern.*vggsound"),
        ({"labels": "x"}, "--labels.*vggsound"),
        ({"test_list": ("x",)}, "--test_list.*vggsound"),
        ({"dataset": "av_folder"}, "--train_list.*av_folder.*--labels"),
        ({"dataset": "music21", "labels_csv": "", "test_pattern": "x", "test_percent": 5}, "--test_percent.*--test_pattern"),
    ],
)
def test_what_cannot_be_meant_is_named(root: Path, changes: dict[str, Any], option: str) -> None:
    choice = Choice("vggsound", (str(root.parent / "vggsound"),), labels_csv=str(root.parent / "labels.csv"))
    with pytest.raises(DatasetError, match=option):
        list_clips(dataclasses.replace(choice, **changes), root)


def test_media_files_are_listed_once_and_sorted(root: Path) -> None:
    inside = [root / "dog/deep/zbcdefghijk.flac", root / "harp/abcdefghijk.mp4"]
    notes = root / "dog/notes.txt"  # given by its name, it is tried
    assert media_files([notes, root, inside[0], str(root / "harp")]) == [notes, *inside]
    (root.parent / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty.*\.mp4"):
        media_files([root.parent / "empty"])
