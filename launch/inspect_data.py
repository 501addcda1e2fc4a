"""Summarises a prepared data set and draws some of its clips.

    python -m launch.inspect_data DATASET

Prints the number of clips by kind, the classes, lengths and loudness, and which files failed and why; draws a contact sheet of some clips.
Only these clips are read: the numbers come from the index. --verify reads every shard and compares its checksum.
"""

from __future__ import annotations

import collections
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from avmae_jax.errors import CorruptRecordError, DatasetError

from .common import cli, runtime
from .common.screen import escape

if TYPE_CHECKING:
    from avmae_jax.data.store.jobs import Failure
    from avmae_jax.data.store.reader import PreparedSource
    from avmae_jax.data.store.records import Index

_BAR = 30  # letters of the longest bar
_FULL_SCALE = -3.0  # dB; a full sine has it: a clip that is louder was most likely cut off
_EXAMPLES = 2  # failures named for each reason


def counts_table(indexes: dict[str, Index]) -> Table:
    """Counts the clips of each split by what they have, hours, and quantiles of length and loudness."""
    from avmae_jax.data.store.records import SILENCE

    table = Table(
        "split",
        "clips",
        "videos",
        "audio alone",
        "images alone",
        "hours",
        "seconds (min, median, max)",
        "dB (5, 50, 95 %)",
        "silent",
        "at full scale",
    )
    for split, index in indexes.items():
        heard, loudness = index.seconds > 0, index.loudness[index.seconds > 0]
        lengths = _quantiles(index.seconds[heard], (0, 0.5, 1), "{:.2f}")
        shares = [len(np.unique(index.video)), (index.frames == 0).sum(), (~heard).sum()]
        loud = [_quantiles(loudness, (0.05, 0.5, 0.95), "{:.1f}"), (loudness <= SILENCE).sum(), (loudness > _FULL_SCALE).sum()]
        table.add_row(split, str(len(index.id)), *map(str, shares), f"{index.seconds.sum() / 3600:.2f}", lengths, *map(str, loud))
    return table


def class_table(indexes: dict[str, Index], label_names: list[str], shown: int) -> Table:
    """Tabulates how many clips each class has: the most frequent ones, and how many more there are."""
    counts = {split: index.class_counts(len(label_names)) for split, index in indexes.items()}
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")
    empty, unlabelled = int((total == 0).sum()), sum(int((np.diff(index.label_ends, prepend=0) == 0).sum()) for index in indexes.values())
    title = f"{len(label_names)} classes, {empty} without a clip; {unlabelled} clips without a label"
    table = Table("class", *counts, "", title=title)
    for label in order[:shown]:
        bar = "#" * round(_BAR * int(total[label]) / max(1, int(total.max())))
        table.add_row(escape(label_names[label]), *(str(count[label]) for count in counts.values()), bar)
    if len(order) > shown:
        table.add_row(f"... and {len(order) - shown} more", *(str(count[order[shown:]].sum()) for count in counts.values()), "")
    return table


def failure_table(failures: Sequence[Failure]) -> Table:
    """Tabulates the failures by stage, with examples."""
    by_stage: dict[str, list[Failure]] = collections.defaultdict(list)
    for failure in failures:
        by_stage[failure.stage].append(failure)
    table = Table("failed at", "files", "for example", title=f"{len(failures)} files gave no clip")
    for stage, found in sorted(by_stage.items(), key=lambda item: -len(item[1])):
        table.add_row(stage, str(len(found)), escape("\n".join(f"{failure.file} {failure.reason}" for failure in found[:_EXAMPLES])))
    return table


def damaged_shards(folder: Path, checksums: Any) -> list[str]:
    """Returns the names of the shards whose bytes aren't those that were written; raises DatasetError if it isn't known which were."""
    if not isinstance(checksums, dict) or not all((folder / name).parent == folder for name in checksums):
        raise DatasetError(f"{folder}: metadata.json is damaged, it has no checksums; prepare the data set again")
    damaged = []
    with runtime.progress_bar("verifying") as on_progress:
        for number, (name, expected) in enumerate(checksums.items(), start=1):
            if _checksum(folder / name) != expected:
                damaged.append(name)
            on_progress(number, len(damaged), len(checksums))
    return damaged


def _checksum(file: Path) -> str | None:
    """Returns the SHA-256 of a file; None if it can't be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None


def _quantiles(values: np.ndarray, at: Sequence[float], form: str) -> str:
    return ", ".join(form.format(value) for value in np.quantile(values, at)) if len(values) else "-"


def _draw(path: Path, source: PreparedSource, clips: int, heading: str) -> None:
    """Draws a contact sheet of clips spread over a split, which may be sorted by class."""
    from avmae_jax.plots.contact_sheet import contact_sheet

    count = min(clips, len(source))
    contact_sheet(path, [source[index * len(source) // count] for index in range(count)], source.label_names, heading=heading)


def inspect(folder: Path, console: Console, *, classes: int, clips: int, out: Path, verify: bool) -> bool:
    """Prints and draws everything, and returns whether no shard is damaged.

    Raises:
      DatasetError, CorruptRecordError: if the data set or one of the drawn clips can't be read.
    """
    from avmae_jax.data.statistics import STATISTICS
    from avmae_jax.data.store.plan import read_summary
    from avmae_jax.data.store.reader import PreparedSource, dataset_info, label_names_of
    from avmae_jax.data.text_files import read_json

    info = dataset_info(folder)
    splits = [split for split, found in info.splits.items() if found.num_examples]
    sources = {split: PreparedSource(folder, split, "any") for split in splits}  # pyright: ignore[reportArgumentType]
    if not sources:
        raise DatasetError(f"{folder} has no clips; the reasons are in its failures.jsonl")
    indexes = {split: source.index for split, source in sources.items()}
    summary = read_summary(folder)
    written = sum(summary.written.values())
    console.print(
        f"{folder}: {written + len(summary.failures)} files in = {written} written + {len(summary.failures)} failed", markup=False
    )
    console.print(counts_table(indexes))
    if names := list(label_names_of(folder, info)):
        console.print(class_table(indexes, names, classes))
    if summary.failures:
        console.print(failure_table(summary.failures))
    if (folder / STATISTICS).exists():
        console.print("log-mel:", read_json(folder / STATISTICS))
    if clips:
        split = splits[0]
        _draw(out, sources[split], clips, f"{folder.name}, {min(clips, len(sources[split]))} of {len(sources[split])} {split} clips")
        console.print(f"contact sheet: {out}", markup=False)
    damaged = damaged_shards(folder, (info.metadata or {}).get("sha256")) if verify else []
    for name in damaged:
        console.print(
            f"{folder / name} is damaged: its checksum isn't the one it was written with; prepare the data set again", markup=False
        )
    return not damaged


def main(argv: list[str]) -> None:
    """Inspects one data set."""
    if len(argv) != 2:
        raise app.UsageError("give one data set, the folder that launch.prepare wrote")
    runtime.start()
    args, folder = flags.FLAGS, Path(argv[1]).expanduser()
    out = Path(args.out) if args.out else Path(f"{os.path.normpath(folder)}_contact_sheet.png")
    width = None if sys.stdout.isatty() else 160
    try:
        well = inspect(folder, Console(width=width), classes=args.classes, clips=args.clips, out=out, verify=args.verify)
    except (DatasetError, CorruptRecordError) as error:
        sys.exit(str(error))
    sys.exit(0 if well else 1)


def define_flags() -> None:
    """Defines the options of this program."""
    flags.DEFINE_string("out", "", "PNG of the contact sheet; empty: DATASET_contact_sheet.png, beside the data set")
    flags.DEFINE_integer("clips", 24, "clips on the contact sheet; 0: none", lower_bound=0)
    flags.DEFINE_integer("classes", 40, "classes listed, the most frequent first", lower_bound=1)
    flags.DEFINE_bool("verify", False, "read every shard and compare its checksum; the exit status is 1 if one is damaged")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
