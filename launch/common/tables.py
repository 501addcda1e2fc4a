"""Writes the predictions of launch.predict: as records, on the screen, as JSON, as CSV."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.table import Table

from avmae_jax.errors import ClipError
from avmae_jax.files import printable, replacing
from avmae_jax.inference.predict import Prediction

from .screen import escape

_TALL = 20  # files; with more of them the classes of each are on one line
_DIGITS = 6  # decimals of a number in JSON and CSV


def record(file: str, found: Prediction | Exception, top: int, place: tuple[int, int] | None) -> dict[str, Any]:
    """Returns the record of one file, ready for JSON.

    Args:
      file: its name.
      found: its prediction, or the error that prevented one.
      top: classes listed for each second.
      place: the rank of the file's image for its audio, and the number of images compared; None if there is nothing to compare.
    """
    if isinstance(found, Exception):
        reason = found.reason if isinstance(found, ClipError) else str(found)
        return {"file": file, "error": reason, "stage": found.stage if isinstance(found, ClipError) else "model"}
    entry = {
        "file": file,
        "classes": [{"class": name, "probability": round(value, _DIGITS)} for name, value in found.top],
        "seen": found.seen,
        "mode": str(found.mode) if found.mode else None,
        "windows": found.windows,
        "strongest_window": found.start,
        "match": None if found.match is None else round(found.match, _DIGITS),
        "match_rank": place[0] if place else None,
        "match_among": place[1] if place else None,
    }
    if found.timeline is None:
        return entry
    seconds = [(second, _top(row, found.label_names, top)) for second, row in enumerate(found.timeline)]
    return entry | {"timeline": [{"second": second, "classes": classes} for second, classes in seconds]}


def write_json(path: str, about: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Writes {**about, "failed": count, "files": records}, if there is a path; raises OSError."""
    failed = sum("error" in entry for entry in records)
    with _written(path) as file:
        if file:
            json.dump({**about, "failed": failed, "files": records}, file, indent=1, allow_nan=False)
            file.write("\n")


def write_csv(path: str, records: Sequence[Mapping[str, Any]], top: int, *, timeline: bool, raw: bool = False) -> None:
    """Writes a row for each file, each followed by those of its seconds with `timeline`, if there is a path; raises OSError.

    A text that a spreadsheet would take for a formula, and run, gets a "'" in front, and control characters are escaped, unless `raw`.
    """
    plain = dict if raw else _harmless
    numbers = range(1, top + 1)
    columns = ["file", *(["second"] if timeline else []), *(f"{what}_{number}" for number in numbers for what in ("class", "probability"))]
    columns += ["seen", "mode", "windows", "match", "match_rank", "match_among", "error"]
    with _written(path) as file:
        if file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for entry in records:
                writer.writerow(plain({**entry, **_cells(entry.get("classes", ()))}))
                for row in entry.get("timeline", ()):
                    writer.writerow(plain({"file": entry["file"], "second": row["second"], **_cells(row["classes"])}))


def show(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table of the predictions, a table of each timeline, and the files that failed with their reasons."""
    good, bad = [entry for entry in records if "error" not in entry], [entry for entry in records if "error" in entry]
    if good:
        console.print(_table(good))
    for entry in good:
        if "timeline" in entry:
            console.print(_timeline(entry))
    for entry in bad:
        console.print(escape(f"failed [{entry['stage']}] {entry['file']}: {entry['error']}"), highlight=False, soft_wrap=True)
    if bad:
        console.print(f"{len(bad)} of {len(records)} files failed")


def _table(records: Sequence[Mapping[str, Any]]) -> Table:
    matches, ranked = (any(entry[name] is not None for entry in records) for name in ("match", "match_rank"))
    table = Table(
        "file", "seen", *(["classes"] if records[0]["classes"] else []), *(["match"] * matches), *(["rank of its image"] * ranked)
    )
    for entry in records:
        classes = [f"{row['probability']:6.1%}  {row['class']}" for row in entry["classes"]]
        cells = ["\n".join(classes) if len(records) <= _TALL else ", ".join(map(str.strip, classes))] if classes else []
        cells += ["-" if entry["match"] is None else f"{entry['match']:.3f}"] * matches
        cells += ["-" if entry["match_rank"] is None else f"{entry['match_rank']} of {entry['match_among']}"] * ranked
        table.add_row(escape(entry["file"]), entry["seen"], *map(escape, cells))
    return table


def _timeline(entry: Mapping[str, Any]) -> Table:
    table = Table("second", "class", "probability", title=escape(entry["file"]))
    for row in entry["timeline"]:
        best = row["classes"][0]
        table.add_row(str(row["second"]), escape(best["class"]), f"{best['probability']:.1%}")
    return table


def _top(row: np.ndarray, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    order = np.argsort(-row, kind="stable")[:top]
    return [{"class": names[label], "probability": round(float(row[label]), _DIGITS)} for label in order]


def _harmless(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _harmless_text(value) if isinstance(value, str) else value for name, value in row.items()}


def _harmless_text(text: str) -> str:
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(("=", "+", "-", "@")) else shown


def _cells(classes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{what}_{number}": row[what] for number, row in enumerate(classes, start=1) for what in ("class", "probability")}


@contextmanager
def _written(path: str) -> Iterator[TextIO | None]:
    """Opens a file that gets its name once it is complete; standard output for "-", None for ""."""
    if path in ("", "-"):
        yield sys.stdout if path else None
        return
    with replacing(Path(path).expanduser()) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file
