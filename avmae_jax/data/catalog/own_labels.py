"""Labels the files of a folder by a CSV file of one's own, where the folders don't say the class or a file has several.

A row is `file,label[;label...]`, with `file` the path under the folder of media; a first line that names the columns may stand above. Only
files that lie under the folder are ever looked up, so that no text of the CSV becomes a path.
"""

import posixpath
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from avmae_jax.data.store.job import Failure
from avmae_jax.data.text_files import read_rows, shown
from avmae_jax.errors import DatasetError
from avmae_jax.files import printable

_HEADER = ("file", "filename", "path")


def own_labels(
    csv_file: str | Path, root: Path, files: Collection[str]
) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]], list[Failure]]:
    """Reads the labels of files.

    Args:
      csv_file: the CSV file.
      root: the folder of media.
      files: the ids of the media files under root.

    Returns:
      The names of all labels that the CSV has, sorted; the labels of each file that has a row; rows whose file is missing and files
      without a row.

    Raises:
      DatasetError: naming file and line, if a row has no label, a file has two rows, or no row names a file of the folder.
    """
    same = {unicodedata.normalize("NFC", name): name for name in files}  # macOS takes the accents of names apart
    lines: dict[str, int] = {}
    labels: dict[str, list[str]] = {}
    lost: list[Failure] = []
    for line, file, names in _rows(csv_file):
        found = next((name for name in _spellings(file, root) if name in files), None) or same.get(unicodedata.normalize("NFC", file))
        name = found or file
        if name in lines:
            raise DatasetError(f"{csv_file}: line {line}: {shown(name)} has a row already, line {lines[name]}; remove one")
        lines[name], labels[name] = line, names
        if found is None:
            lost.append(Failure(printable(name), "missing", f"({csv_file}: line {line}) is no media file under {root}"))
    if not lines:
        raise DatasetError(f"{csv_file}: it has no rows file,label[;label...]")
    if len(lost) == len(lines):
        raise DatasetError(
            f"{csv_file}: none of its files is a media file under {root}; {shown(lost[0].file)}, say, but {min(files)!r} is there"
        )
    label_names = tuple(sorted({name for names in labels.values() for name in names}))
    number_of = {name: number for number, name in enumerate(label_names)}
    unlabelled = [Failure(name, "list", f"has no row in {csv_file}") for name in sorted(files) if name not in lines]
    labels_of = {name: tuple(number_of[label] for label in labels[name]) for name in files if name in lines}
    return label_names, labels_of, lost + unlabelled


def _rows(csv_file: str | Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yields line, file, and labels of each row."""
    for number, (line, row) in enumerate(read_rows(csv_file, comments=False)):
        if number == 0 and row[0].lower() in _HEADER and len(row) == 2:
            continue
        if len(row) < 2 or any(row[2:]):
            raise DatasetError(f"{csv_file}: line {line} has {len(row)} fields; it must be file,label[;label...]")
        names = [name for name in dict.fromkeys(name.strip() for name in row[1].split(";")) if name]
        if not row[0] or not names:
            raise DatasetError(f"{csv_file}: line {line} has no {'label' if row[0] else 'file'}; it must be file,label[;label...]")
        yield line, row[0], names


def _spellings(file: str, root: Path) -> Iterator[str]:
    """Yields what a file that is written so may be called under root: as it is, without ./, with Windows' slashes, or an absolute path."""
    for spelling in (file, file.replace("\\", "/")):
        yield spelling
        path = posixpath.normpath(spelling)
        yield path
        yield path.removeprefix(f"{root.as_posix()}/")
