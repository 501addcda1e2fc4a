"""Makes records and tables of what launch.predict --match_timeline and launch.sync_check found, and writes the former as CSV."""

import csv
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from avmae_jax.inference.file_match import FileMatch

from .predictions import harmless, written
from .screen import escape

_DIGITS = 4
_COLUMNS = ("second", "match", "moment_rank", "clip_rank")
ABOUT = {
    "match": "cosine of audio and image; greater is better, and what it is worth differs from clip to clip",
    "moment_rank": "share of moments elsewhere in the file that match worse; .5 is chance",
    "clip_rank": "share of other clips that match worse; .5 is chance",
    "offset": "seconds by which audio and image are apart; positive: the audio comes later than the image; null: can't tell",
    "certainty": "estimated probability that the likeliest offset is right to half a second",
}


def record_of(found: FileMatch) -> dict[str, Any]:
    """Returns the record of a file, for the table, JSON and CSV."""
    timeline, offset = found.timeline, found.offset
    rows = [
        {"second": int(second)} | {name: _number(getattr(timeline, name)[place]) for name in _COLUMNS[1:]}
        for place, second in enumerate(timeline.seconds)
    ]
    return {
        "offset": _number(offset.seconds),
        "certainty": _number(offset.certainty),
        "likeliest_offset": _number(offset.likeliest),
        "calibrated": found.calibrated,
        "words": offset.words(),
        "match_timeline": rows,
    }


def write_csv(path: str, records: Sequence[Mapping[str, Any]], *, raw: bool = False) -> None:
    """Writes a row for each file, each followed by those of its seconds, if there is a path; raises OSError."""
    plain = dict if raw else harmless
    columns = ["file", "second", "offset", "certainty", "likeliest_offset", *_COLUMNS[1:], "error"]
    with written(path) as file:
        if file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for entry in records:
                writer.writerow(plain(entry))
                for row in entry.get("match_timeline", ()):
                    writer.writerow(plain({"file": entry["file"], **row}))


def match_table(entry: Mapping[str, Any]) -> Table:
    """Returns the table of one file."""
    ranked = any(row["clip_rank"] is not None for row in entry["match_timeline"])
    columns = _COLUMNS if ranked else _COLUMNS[:-1]
    titles = {"second": "second", "match": "cosine", "moment_rank": "above other moments", "clip_rank": "above other clips"}
    table = Table(*(titles[name] for name in columns), title=f"{escape(entry['file'])}: {entry['words']}")
    for row in entry["match_timeline"]:
        shares = [_share(row[name]) for name in columns[2:]]
        table.add_row(str(row["second"]), f"{row['match']:.3f}", *shares)
    return table


def check_table(result: Mapping[str, Any]) -> Table:
    """Returns the table of launch.sync_check."""
    table = Table("measure", "value", "chance", title=escape(result["model"]))
    offset = result["offset"]
    table.add_row("offset right to half a second", f"{offset['near']:.1%} ± {offset['near_error']:.1%}", f"{offset['chance']:.1%}")
    table.add_row("  gets an answer", f"{offset['answered']:.1%}", "")
    table.add_row("  right of these", _share(offset["right"]), "")
    table.add_row("  can't tell, of clips without an answer", f"{offset['refused']:.1%}", "")
    place = result["place"]
    titles = {
        "pointing": "hottest patch on the instrument",
        "iou": "IoU of the heat with the instrument",
        "signs": "hottest patch on weather, metronome or meter",
    }
    for name, words in titles.items():
        found = place[name]
        table.add_row(words, f"{found['heat']:.3f}", f"{found['chance']:.3f}")
        table.add_row("  by the audio of another clip", f"{found['other_audio']:.3f}", "")
        table.add_row("  by the patches at the centre", f"{found['centre']:.3f}", "")
        table.add_row("  at best, with such patches", f"{found['best']:.3f}", "")
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), _DIGITS)
