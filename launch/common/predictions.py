"""Makes records of what launch.predict found, and writes them as JSON and CSV."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from avmae_jax.errors import ClipError
from avmae_jax.evals.ranking import rank_partners
from avmae_jax.files import as_text, printable, replacing
from avmae_jax.inference.predict import Prediction

_DIGITS = 6  # decimals of a number


def records_of(files: Sequence[Path], results: Sequence[Prediction | Exception], top: int) -> list[dict[str, Any]]:
    """Returns the record of each file, ready for the table, JSON and CSV, with the `top` classes of each second.

    The match of a file with audio and images is ranked among those of all such files, if there are several.
    """
    both = {number: found.directions for number, found in enumerate(results) if isinstance(found, Prediction) and found.directions}
    ranks: dict[int, int] = {}
    if len(both) > 1:
        audio, images = (np.stack(vectors) for vectors in zip(*both.values(), strict=True))
        ranks = dict(zip(both, rank_partners(audio, images).ranks.tolist(), strict=True))
    records = []
    for number, (file, found) in enumerate(zip(files, results, strict=True)):
        if isinstance(found, Exception):
            reason, stage = (found.reason, found.stage) if isinstance(found, ClipError) else (str(found), "model")
            content = {"error": reason, "stage": stage}
        else:
            content = _contents(found, top, ranks.get(number), len(both))
        records.append({"file": as_text(str(file)), **content})
    return records


def write_json(path: str, about: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Writes {**about, "failed": count, "files": records}, if there is a path; raises OSError."""
    failed = sum("error" in entry for entry in records)
    with written(path) as file:
        if file:
            json.dump({**about, "failed": failed, "files": records}, file, indent=1, allow_nan=False)
            file.write("\n")


def write_csv(path: str, records: Sequence[Mapping[str, Any]], top: int, *, timeline: bool, raw: bool = False) -> None:
    """Writes a row for each file, each followed by those of its seconds with `timeline`, if there is a path; raises OSError.

    A text that a spreadsheet would take for a formula, and run, gets a "'" in front, and control characters are escaped, unless `raw`.
    """
    plain = dict if raw else harmless
    numbers = range(1, top + 1)
    columns = [
        "file",
        *(["second"] if timeline else []),
        *(["answer"] if top else []),
        *(f"{what}_{number}" for number in numbers for what in ("class", "probability")),
    ]
    columns += ["seen", "mode", "windows", "match", "match_rank", "match_among", "error"]
    with written(path) as file:
        if file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for entry in records:
                writer.writerow(plain({**entry, **_cells(entry.get("classes", ()))}))
                for row in entry.get("timeline", ()):
                    writer.writerow(plain({"file": entry["file"], "second": row["second"], **_cells(row["classes"])}))


def _contents(found: Prediction, top: int, rank: int | None, among: int) -> dict[str, Any]:
    entry = {
        "answer": found.answer or None,
        "named": list(found.named),
        "classes": [{"class": name, "probability": round(value, _DIGITS)} for name, value in found.top],
        "seen": found.seen,
        "mode": str(found.mode) if found.mode else None,
        "windows": found.windows,
        "strongest_window": found.start,
        "match": None if found.match is None else round(found.match, _DIGITS),
        "match_rank": rank,
        "match_among": among if rank else None,
    }
    if found.timeline is None:
        return entry
    seconds = [(second, _top(row, found.label_names, top)) for second, row in enumerate(found.timeline)]
    return entry | {"timeline": [{"second": second, "classes": classes} for second, classes in seconds]}


def _top(row: np.ndarray, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    order = np.argsort(-row, kind="stable")[:top]
    return [{"class": names[label], "probability": round(float(row[label]), _DIGITS)} for label in order]


def harmless(row: Mapping[str, Any]) -> dict[str, Any]:
    """Changes the texts that a spreadsheet would take for a formula, and escapes control characters."""
    return {name: _harmless_text(value) if isinstance(value, str) else value for name, value in row.items()}


def _harmless_text(text: str) -> str:
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(("=", "+", "-", "@")) else shown


def _cells(classes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{what}_{number}": row[what] for number, row in enumerate(classes, start=1) for what in ("class", "probability")}


@contextmanager
def written(path: str) -> Iterator[TextIO | None]:
    """Opens a file that gets its name once it is complete; standard output for "-", None for ""."""
    if path in ("", "-"):
        yield sys.stdout if path else None
        return
    with replacing(Path(path).expanduser()) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file
