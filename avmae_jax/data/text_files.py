"""Reads text, JSON and CSV files that people or other programs wrote; whatever is wrong with one is a DatasetError of one line.

A byte-order mark, Windows line ends and spaces around the fields of a CSV are accepted. Spreadsheets damage lists: an id that begins with
"-" becomes "#NAME?", one that looks like a number becomes 1.2E+10. `damage` recognises such fields.
"""

import codecs
import csv
import json
import re
import reprlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avmae_jax.errors import DatasetError, first_line

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SPREADSHEET_ERROR = re.compile(r"#(\S{1,30}[?!]|N/[A-Z]|NV)")  # #NAME?, #REF!, #DIV/0!, #N/A, and what they are in other languages
_FORMULA = re.compile(r"[=+@'].*")
_SCIENTIFIC = re.compile(r"-?[0-9]+([.,][0-9]+)?E[+-]?[0-9]{1,3}")
_YOUTUBE_ID = 11  # letters of an id

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100
shown = _REPR.repr  # a value of a JSON file, shortened for a message


def read_text(path: str | Path) -> str:
    """Reads a text file in UTF-8, with or without a byte-order mark; line ends of Windows become plain ones.

    Raises:
      DatasetError: naming the file, if it can't be read, is no regular file, or is no UTF-8.
    """
    path = Path(path).expanduser()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DatasetError(f"{path} is a folder or a special file; give a regular file")
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise DatasetError(f"{path} can't be read ({getattr(error, 'strerror', None) or error})") from error
    if content.startswith(_UTF_16) or b"\0" in content[:4096]:
        raise DatasetError(f"{path} can't be read: it is UTF-16 or no text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} can't be read: byte {error.start} is no UTF-8; save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
      DatasetError: naming the file, if it can't be read or is no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DatasetError(f"{path} can't be read: its JSON is nested too deep") from error
    except ValueError as error:  # also a number of more than 4300 digits
        raise DatasetError(f"{path} can't be read as JSON ({error})") from error


def read_rows(path: str | Path, *, comments: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows of a CSV file, each with the number of its last line; empty lines are left out.

    Args:
      path: the file.
      comments: also leave out comments: lines that begin with "#", unless what begins so is the error of a spreadsheet in the first of
        several fields.

    Raises:
      DatasetError: naming file and line, if the file can't be read or a line is no CSV.
    """
    lines = ("" if comments and _is_comment(line) else line for line in read_text(path).split("\n"))
    reader = csv.reader(lines, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if any(fields) and not (comments and _is_comment(",".join(fields))):
                yield reader.line_num, fields
    except csv.Error as error:
        raise DatasetError(f"{path}: line {reader.line_num} can't be read as CSV ({first_line(error)})") from error


def damage(name: str) -> str:
    """Returns how a spreadsheet damaged an id, as the end of a sentence about it; "" if it looks whole."""
    if _SPREADSHEET_ERROR.fullmatch(name):
        return "is what a spreadsheet leaves of a text that it took for a formula"
    if _FORMULA.fullmatch(name):
        return f"begins with {name[0]!r}, which a spreadsheet puts before a text that it takes for a formula"
    if _SCIENTIFIC.fullmatch(name) and len(name) != _YOUTUBE_ID:
        return "is what a spreadsheet makes of an id that it takes for a number"
    return ""


def _is_comment(line: str) -> bool:
    field, comma, _ = line.partition(",")
    return line.startswith("#") and not (comma and _SPREADSHEET_ERROR.fullmatch(field.strip()))
