"""Tests that a user's CSV labels the files of a folder, and that rows without a file and files without a row are counted and named."""

import errno
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avmae_jax.data.catalog.listings import av_folder
from avmae_jax.errors import DatasetError

FILES = ("a.mp4", "deep/er/b.mp4", "deep/c.wav", "d.mp4")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / "media" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "media" / name).touch()
    return tmp_path / "media"


def labelled(root: Path, text: str) -> Any:
    file = root.parent / "my.csv"
    file.write_bytes(text.encode())
    return av_folder(root, labels=file, test_percent=0)


@pytest.mark.parametrize("header", ["", "file,label\r\n", "\ufefffile,label\r\n", "\ufeff"])
def test_a_file_has_the_labels_of_its_row_in_whatever_folder_it_is(root: Path, header: str) -> None:
    rows = "deep/er/b.mp4, oboe ; harp;\r\n\r\n ./a.mp4 ,harp\r\nlost.mp4,zither\r\ndeep\\c.wav,harp\r\n"
    listing = labelled(root, header + rows)
    assert listing.label_names == ("harp", "oboe", "zither")
    assert {entry.id: entry.labels for entry in listing.splits["train"]} == {"a.mp4": (0,), "deep/c.wav": (0,), "deep/er/b.mp4": (1, 0)}
    assert [(failure.file, failure.stage) for failure in listing.missing] == [("lost.mp4", "missing"), ("d.mp4", "list")]
    assert len(listing.missing) == len(listing.missing_labels)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a.mp4,harp\nd.mp4,harp\na.mp4,oboe\n", "line 3: 'a.mp4' has a row already, line 1"),
        ("a.mp4,harp\n./a.mp4,harp\n", "line 2: 'a.mp4'"),
        ("a.mp4,harp\nd.mp4,\n", "line 2 has no label"),
        ("a.mp4,harp\nd.mp4, ; \n", "line 2 has no label"),
        (",harp\n", "line 1 has no file"),
        ("a.mp4;harp\n", "line 1 has 1 fields"),
        ("a.mp4,harp,oboe\n", "line 1 has 3 fields"),
        ("", "it has no rows"),
        ("file,label\n", "it has no rows"),
        ("../media/x.mp4,harp\n", "none of its files"),
        ("/etc/passwd,harp\n", "none of its files"),
    ],
)
def test_a_mistake_in_the_labels_is_named(root: Path, text: str, problem: str) -> None:
    with pytest.raises(DatasetError, match=rf"my\.csv: {problem}"):
        labelled(root, text)


def test_names_that_begin_with_a_number_sign_or_have_accents_taken_apart_are_found(root: Path) -> None:
    (root / "#1.mp4").touch()
    (root / unicodedata.normalize("NFD", "ä.mp4")).touch()
    listing = labelled(root, "#1.mp4,harp\nä.mp4,harp\n")
    assert [entry.id for entry in listing.splits["train"]] == ["#1.mp4", unicodedata.normalize("NFD", "ä.mp4")]


def test_absolute_paths_under_the_folder_are_found(root: Path) -> None:
    assert [entry.id for entry in labelled(root, f"{root}/a.mp4,harp\n").splits["train"]] == ["a.mp4"]


def test_a_folder_that_can_not_be_read_is_named_and_stops_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("er"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (failure,) = av_folder(root / "deep").missing
    assert (failure.file, failure.stage) == ("er", "open")
    assert "Permission denied" in failure.reason


def names(root: Path) -> Iterator[str]:
    for entries in av_folder(root).splits.values():
        yield from (entry.id for entry in entries)


def test_controls_and_overrides_of_the_reading_direction_in_names_become_escapes(tmp_path: Path) -> None:
    for name in ("\x1b[31mred.mp4", "\u202e4pm.mp4", "two\nlines.mp4"):
        (tmp_path / name).touch()
    assert sorted(names(tmp_path)) == ["\\u202e4pm.mp4", "\\x1b[31mred.mp4", "two\\nlines.mp4"]
