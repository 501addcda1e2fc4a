"""Summarises a prepared data set and draws some of its clips.

    python -m launch.inspect_data DATASET

Prints the number of clips by kind, the classes, lengths and loudness, and which files failed and why; draws a contact sheet of some clips.
Only these clips are read: the numbers come from the index. --verify reads every shard and compares its checksum.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from absl import app, flags

from avmae_jax.errors import CorruptRecordError, DatasetError

from .common import cli, runtime, unused

_NAMED = 20  # silent clips


def inspect(folder: Path, out: Path) -> bool:
    """Prints and draws everything, and returns whether no shard is damaged.

    Raises:
      DatasetError, CorruptRecordError: if the data set or one of the drawn clips can't be read.
    """
    from avmae_jax.data.statistics import STATISTICS
    from avmae_jax.data.store.plan import read_summary
    from avmae_jax.data.store.reader import damaged_shards, open_splits
    from avmae_jax.data.text_files import read_json
    from avmae_jax.plots.contact_sheet import overview

    from .common import tables

    args, console = flags.FLAGS, runtime.console()
    sources = open_splits(folder)
    indexes = {split: source.index for split, source in sources.items()}
    split, first = next(iter(sources.items()))
    summary = read_summary(folder)
    written, failed = sum(summary.written.values()), len(summary.failures)
    console.print(f"{folder}: {written + failed} files in = {written} written + {failed} failed", markup=False)
    console.print(tables.clip_counts(indexes))
    if silent := [name for index in indexes.values() for name in index.silent]:
        more = f" and {len(silent) - _NAMED} more" if len(silent) > _NAMED else ""
        console.print(f"{len(silent)} silent clips: {', '.join(silent[:_NAMED])}{more}", markup=False)
    if first.label_names:
        console.print(tables.class_counts(indexes, first.label_names, args.classes))
    if failed:
        console.print(tables.failure_counts(summary.failures))
    if (folder / STATISTICS).exists():
        console.print("log-mel:", read_json(folder / STATISTICS))
    if count := min(args.clips, len(first)):
        overview(out, first, count, heading=f"{folder.name}, {count} of {len(first)} {split} clips")
        console.print(f"contact sheet: {out}", markup=False)
    if not args.verify:
        return True
    with runtime.progress_bar("verifying") as on_progress:
        damaged = damaged_shards(folder, on_progress)
    for shard in damaged:
        console.print(f"{shard} is damaged: its checksum isn't the one it was written with; prepare the data set again", markup=False)
    return not damaged


def main(argv: list[str]) -> None:
    """Inspects one data set."""
    if len(argv) != 2:
        raise app.UsageError("give one data set, the folder that launch.prepare wrote")
    unused.require_used("inspect_data", argv)
    runtime.start()
    args, folder = flags.FLAGS, Path(argv[1]).expanduser()
    out = Path(args.out) if args.out else Path(f"{os.path.normpath(folder)}_contact_sheet.png")
    try:
        well = inspect(folder, out)
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
