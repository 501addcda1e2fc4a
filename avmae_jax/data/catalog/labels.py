"""Reads label files: CSV with the columns index,mid,display_name, as AudioSet publishes them."""

import csv
from collections.abc import Mapping
from pathlib import Path

from avmae_jax.errors import DatasetError


def read_labels(path: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """Reads a label CSV.

    Returns:
      The index of each mid, and the display names by index.

    Raises:
      DatasetError: if columns are missing, or the indices aren't 0, 1, ... each once.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: the labels can't be read ({error})") from error
    if not {"index", "mid", "display_name"} <= set(reader.fieldnames or ()):
        raise DatasetError(f"{path}: its first line must name the columns index,mid,display_name, not {reader.fieldnames}")
    rows.sort(key=lambda row: int(row["index"]) if row["index"].isdecimal() else -1)
    mids = {row["mid"]: number for number, row in enumerate(rows)}
    for number, row in enumerate(rows):
        if row["index"] != str(number) or mids[row["mid"]] != number:
            raise DatasetError(
                f"{path}: the label {row['mid']!r} with index {row['index']!r} breaks the rule: indices 0, 1, ..., each mid once"
            )
    return mids, tuple(row["display_name"] for row in rows)


def label_indices(text: str, mids: Mapping[str, int], where: str) -> tuple[int, ...]:
    """Returns the indices of comma-separated mids, each once.

    Raises:
      DatasetError: beginning with `where`, if the label CSV lacks one.
    """
    names = dict.fromkeys(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in mids]
    if unknown:
        raise DatasetError(f"{where} has {unknown[0]!r}, which the label CSV doesn't list; give the CSV that belongs to it")
    return tuple(mids[name] for name in names)
