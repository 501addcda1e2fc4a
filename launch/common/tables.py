"""What launch.predict says of files: as records, on the screen, as JSON, as CSV."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from avmae_jax.errors import ClipError
from avmae_jax.files import replacing
from avmae_jax.inference.predict import Prediction

_TALL = 20  # files; of more the classes of each stand on one line
_DIGITS = 6  # of a number written


def record(file: str, found: Prediction | Exception, top: int, place: tuple[int, int] | None) -> dict[str, Any]:
    """What is told of one file, ready for JSON.

    Args:
      file: its name.
      found: its prediction, or why there is none.
      top: classes told of each second.
      place: the rank of its picture for its sound, and among how many; None where there is nothing to compare.
    """
    if isinstance(found, Exception):
        reason = found.reason if isinstance(found, ClipError) else str(found)
        return {"file": file, "error": reason, "stage": found.stage if isinstance(found, ClipError) else "model"}
    told = {
        "file": file,
        "classes": [{"class": name, "probability": round(value, _DIGITS)} for name, value in found.top],
        "seen": found.seen,
        "mode": found.mode,
        "windows": found.windows,
        "strongest_window": found.start,
        "match": None if found.match is None else round(found.match, _DIGITS),
        "match_rank": place[0] if place else None,
        "match_among": place[1] if place else None,
    }
    if found.timeline is None:
        return told
    seconds = [(second, _top(row, found.label_names, top)) for second, row in enumerate(found.timeline)]
    return told | {"timeline": [{"second": second, "classes": classes} for second, classes in seconds]}


def write_json(path: str, about: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Writes {**about, "failed": how many, "files": records}; nothing without a path; raises OSError."""
    failed = sum("error" in told for told in records)
    with _written(path) as file:
        if file:
            json.dump({**about, "failed": failed, "files": records}, file, indent=1, allow_nan=False)
            file.write("\n")


def write_csv(path: str, records: Sequence[Mapping[str, Any]], top: int, *, timeline: bool) -> None:
    """Writes a row for each file, and under it one for each second if there is a timeline; nothing without a path; raises OSError."""
    numbers = range(1, top + 1)
    columns = ["file", *(["second"] if timeline else []), *(f"{what}_{number}" for number in numbers for what in ("class", "probability"))]
    columns += ["seen", "mode", "windows", "match", "match_rank", "match_among", "error"]
    with _written(path) as file:
        if file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for told in records:
                writer.writerow({**told, **_cells(told.get("classes", ()))})
                for row in told.get("timeline", ()):
                    writer.writerow({"file": told["file"], "second": row["second"], **_cells(row["classes"])})


def show(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    """Prints the predictions as a table, timelines as one for each file, and the files that failed with their reasons."""
    good, bad = [told for told in records if "error" not in told], [told for told in records if "error" in told]
    if good:
        console.print(_table(good))
    for told in good:
        if "timeline" in told:
            console.print(_timeline(told))
    for told in bad:
        console.print(f"failed [{told['stage']}] {told['file']}: {told['error']}", markup=False, highlight=False, soft_wrap=True)
    if bad:
        console.print(f"{len(bad)} of {len(records)} files failed")


def _table(records: Sequence[Mapping[str, Any]]) -> Table:
    matches, ranked = (any(told[name] is not None for told in records) for name in ("match", "match_rank"))
    table = Table(
        "file", "seen", *(["classes"] if records[0]["classes"] else []), *(["match"] * matches), *(["rank of its picture"] * ranked)
    )
    for told in records:
        classes = [f"{row['probability']:6.1%}  {row['class']}" for row in told["classes"]]
        cells = ["\n".join(classes) if len(records) <= _TALL else ", ".join(map(str.strip, classes))] if classes else []
        cells += ["-" if told["match"] is None else f"{told['match']:.3f}"] * matches
        cells += ["-" if told["match_rank"] is None else f"{told['match_rank']} of {told['match_among']}"] * ranked
        table.add_row(escape(told["file"]), told["seen"], *map(escape, cells))
    return table


def _timeline(told: Mapping[str, Any]) -> Table:
    table = Table("second", "class", "probability", title=escape(told["file"]))
    for row in told["timeline"]:
        best = row["classes"][0]
        table.add_row(str(row["second"]), escape(best["class"]), f"{best['probability']:.1%}")
    return table


def _top(row: np.ndarray, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    order = np.argsort(-row, kind="stable")[:top]
    return [{"class": names[label], "probability": round(float(row[label]), _DIGITS)} for label in order]


def _cells(classes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{what}_{number}": row[what] for number, row in enumerate(classes, start=1) for what in ("class", "probability")}


@contextmanager
def _written(path: str) -> Iterator[TextIO | None]:
    """A file that has its name once it is whole, the standard output for "-", nothing for ""."""
    if path in ("", "-"):
        yield sys.stdout if path else None
        return
    with replacing(Path(path).expanduser()) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file
