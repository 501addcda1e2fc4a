"""Reads label files: CSV with the columns index,mid,display_name, as AudioSet publishes them."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path

from avmae_jax.data.text_files import read_rows, shown
from avmae_jax.errors import DatasetError

_COLUMNS = ("index", "mid", "display_name")


def read_labels(path: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """Reads a label CSV.

    Returns:
      The index of each mid, and the display names by index.

    Raises:
      DatasetError: if columns or fields are missing, or the indices aren't 0, 1, ... each once.
    """
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    if not {*_COLUMNS} <= {*header}:
        raise DatasetError(f"{path}: its first line must name the columns {','.join(_COLUMNS)}, not {shown(','.join(header))}")
    places = [header.index(column) for column in _COLUMNS]
    found: dict[str, tuple[str, str]] = {}
    mids: set[str] = set()
    for line, row in rows:
        if len(row) < len(header) or any(row[len(header) :]):
            raise DatasetError(f"{path}: line {line} has {len(row)} fields, but its first line {len(header)}; quote a name with a comma")
        index, mid, name = (row[place] for place in places)
        if not mid or not name:
            raise DatasetError(f"{path}: line {line}: the label with index {shown(index)} has no {'display_name' if mid else 'mid'}")
        if index in found or mid in mids:
            raise DatasetError(
                f"{path}: line {line}: the label {shown(mid)} with index {shown(index)} is there twice; each index and mid is there once"
            )
        found[index] = mid, name
        mids.add(mid)
    if not found:
        raise DatasetError(f"{path}: it lists no labels")
    order = [str(number) for number in range(len(found))]
    if wrong := sorted({*found} - {*order}):
        raise DatasetError(f"{path}: the label {shown(found[wrong[0]][0])} with index {shown(wrong[0])} breaks the rule: indices 0, 1, ...")
    return {found[index][0]: number for number, index in enumerate(order)}, tuple(found[index][1] for index in order)


def label_indices(text: str, mids: Mapping[str, int], where: str) -> tuple[int, ...]:
    """Returns the indices of comma-separated mids, each once; spaces and empty fields between the commas don't count.

    Raises:
      DatasetError: beginning with `where`, if the label CSV lacks one.
    """
    names = [name for name in dict.fromkeys(name.strip() for name in text.split(",")) if name]
    unknown = [name for name in names if name not in mids]
    if unknown:
        raise DatasetError(f"{where} has {shown(unknown[0])}, which the label CSV doesn't list; give the CSV that belongs to it")
    return tuple(mids[name] for name in names)


def alike_names(names: Sequence[str]) -> list[str]:
    """Describes each group of classes whose names differ in case alone, or in spaces around them."""
    spelt: dict[str, list[str]] = collections.defaultdict(list)
    for name in dict.fromkeys(names):
        spelt[name.strip().casefold()].append(name)
    return [f"{' and '.join(map(repr, same))} differ in case alone and count as {len(same)}" for same in spelt.values() if len(same) > 1]
