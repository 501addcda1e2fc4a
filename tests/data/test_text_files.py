"""Tests that text which people and spreadsheets write is read, or refused in one line."""

import os
from pathlib import Path

import pytest

from avmae_jax.data.text_files import damage, read_json, read_rows, read_text
from avmae_jax.errors import DatasetError


def test_byte_order_marks_line_ends_of_windows_and_spaces_are_welcome(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes('\ufeff"a", b \r\n\r\n# a "comment\r\n "ä, ö",\r\n#NAME?, 3\r\n'.encode())
    assert list(read_rows(file)) == [(1, ["a", "b"]), (4, ["ä, ö", ""]), (5, ["#NAME?", "3"])]
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a,b".encode("utf-16"), "UTF-16"),
        ("a,b".encode("utf-16-le"), "UTF-16"),
        (b"a\xff", "byte 1"),
        (b'x\n"a', "line 2"),
        (b"x\n" + b"a" * 140_000, r"line 2 .*131072"),
    ],
)
def test_a_file_that_is_no_csv_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.csv.*{problem}"):
        list(read_rows(tmp_path / "a.csv"))


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "{", ""])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DatasetError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_special_files_folders_and_names_that_no_file_has_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", ".", "/dev/zero", "nowhere", "loop", "a\0b", "x" * 300):
        with pytest.raises(DatasetError):
            read_text(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["#NAME?", "#REF!", "#DIV/0!", "#N/A", "#NOM?", "#WERT!", "=-0BIyqJj9ZU", "'-0BIyqJj9ZU", "1.23E+10", "5E-05"]
)
def test_what_a_spreadsheet_leaves_of_an_id_is_recognised(name: str) -> None:
    assert damage(name)


@pytest.mark.parametrize("name", ["-0BIyqJj9ZU", "--4gqARaEJE", "123456789E5", "12345678E90", "00123456789", "_E5"])
def test_an_id_that_only_looks_odd_is_none(name: str) -> None:
    assert not damage(name)
