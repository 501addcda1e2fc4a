"""Prepares media files as a data set for training.

    python -m launch.prepare --videos DIR --out DIR
    python -m launch.prepare --dataset audioset --train_list balanced_train_segments.csv --test_list eval_segments.csv \
        --labels_csv class_labels_indices.csv --videos DIR --out DIR

Without --dataset, DIR/<class>/<any>.mp4, nested deeper too, gives labelled clips; a flat folder gives clips without labels. A clip's id is
its path under DIR. One video in ten is held out for testing, chosen by a hash of its id, so that the choice stays when files are added, and
at least one of each class that has two; --test_pattern chooses by name instead, and --test_percent=0 holds none out. Files ID_START or
ID_START_END, where ID is a YouTube id with small and capital letters, are pieces of one video, which that hash doesn't divide; names whose
starts only count (1, 2, 3) are not. With --labels my.csv, rows file,label[;label...] label the files instead of the folders. With
--dataset, the lists name the clips, and DIR is the folder of the downloaded files; missing files are counted and listed.

Each file gives its first --clip_seconds, or with --clip_stride a clip every so many seconds. After a run was killed, the same command
continues it. Files that give no clip are left out, counted, and listed with the reason in OUT/failures.jsonl; the exit status is 0 as long
as at least one clip was written, else 1.

With --generated=N, the training part also gets N generated clips of each class that the built-in set has too, such as flute and guitar.

With --beam_runner, the machines of a cluster make the clips through Apache Beam. The result is the same, byte by byte.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from avmae_jax.errors import AvmaeError
from avmae_jax.files import printable

from .common import cli, unused
from .common.runtime import progress_bar

if TYPE_CHECKING:
    from avmae_jax.data.catalog.named_sets import Choice
    from avmae_jax.data.catalog.recipe import Recipe
    from avmae_jax.data.store.plan import Summary

_NAMED, _FAILURES_SHOWN = 5, 20  # ignored files in the line that counts them; failures on the screen


def options_of(kind: type[Recipe | Choice]) -> dict[str, Any]:
    """Returns the values of those options that are the fields of a dataclass."""
    return {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(kind)}


def main(argv: list[str]) -> None:
    """Prepares --videos into --out."""
    from avmae_jax.data.catalog.generated import add_generated
    from avmae_jax.data.catalog.labels import alike_names
    from avmae_jax.data.catalog.named_sets import Choice, list_clips
    from avmae_jax.data.catalog.recipe import Recipe, spec_of
    from avmae_jax.data.store.beam import beam_engine
    from avmae_jax.data.store.writer import write_dataset

    cli.no_arguments(argv)
    unused.require_used("prepare", argv)
    args = flags.FLAGS
    root, out = Path(args.videos).resolve(), Path(args.out)
    if not root.is_dir():
        sys.exit(f"--videos {args.videos}: there is no such folder")
    if out.resolve().is_relative_to(root):
        sys.exit(f"--out {args.out} lies inside --videos {args.videos}; give a folder elsewhere")
    recipe = Recipe(**options_of(Recipe))
    try:
        engine = beam_engine(args.beam_runner, [f"--{option}" for option in args.beam_options]) if args.beam_runner else None
        listing = list_clips(Choice(**options_of(Choice)), root)
        for words in alike_names(listing.label_names):
            logging.warning("%s; write them alike if they are one class", words)
        spec, left_out = spec_of(listing, root, recipe, args.shard_size)
        if args.generated:
            spec = add_generated(spec, args.generated, recipe)
        with progress_bar("preparing") as on_progress:
            summary = write_dataset(out, spec, workers=args.workers, engine=engine, on_progress=on_progress)
    except AvmaeError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the finished shards are kept in {args.out}, and the same command continues") from None
    ignored = {
        "that are no media": listing.ignored,
        "that are media, but of no clip that is used": listing.unused,
        "that have only audio or only images, which --allow_missing accepts": left_out,
    }
    _report(out, summary, ignored, recipe.clip_seconds)
    sys.exit(0 if any(summary.clips.values()) else 1)


def _report(out: Path, summary: Summary, ignored: Mapping[str, Sequence[str]], clip_seconds: float) -> None:
    """Prints what was written, and what wasn't; `ignored` is why -> files."""
    from avmae_jax.data.store.plan import FAILURES

    by_stage = collections.Counter(failure.stage for failure in summary.failures)
    rare_first = sorted(summary.failures, key=lambda failure: by_stage[failure.stage])  # or thousands of missing files hide the others
    for failure in rare_first[:_FAILURES_SHOWN]:
        print(printable(f"failed [{failure.stage}] {failure.file} {failure.reason}"))
    if len(summary.failures) > _FAILURES_SHOWN:
        stages = ", ".join(f"{count} [{stage}]" for stage, count in by_stage.most_common())
        print(f"... and {len(summary.failures) - _FAILURES_SHOWN} more in {out / FAILURES}; of all, {stages}")
    for why, files in ignored.items():
        if files:
            print(printable(f"ignored {len(files)} files {why}: {', '.join(files[:_NAMED])}{', ...' if len(files) > _NAMED else ''}"))
    notes = summary.notes
    if notes.other_channel:
        print(f"{notes.other_channel} files have a silent first audio channel, and another one was taken")
    if notes.longer:
        rest = f"{notes.longer} files go on behind --clip_seconds, by up to {notes.beyond:.0f} s"
        print(f"{rest}; --clip_stride={clip_seconds:g} takes that too")
    clips = ", ".join(f"{count} {split}" for split, count in summary.clips.items())
    files = sum(summary.written.values()) + len(summary.failures)
    print(
        f"{out}: {sum(summary.clips.values())} clips written ({clips}) from {sum(summary.written.values())} of {files} files, "
        f"{len(summary.failures)} failed; see {out / FAILURES}"
    )


def define_flags() -> None:
    """Defines the options of this program."""
    from avmae_jax.data.catalog.named_sets import DATASETS
    from avmae_jax.data.catalog.recipe import Recipe

    recipe = Recipe()
    flags.DEFINE_string("videos", None, "folder of media files; required", required=True)
    flags.DEFINE_string("out", None, "new folder for the data set; required", required=True)
    flags.DEFINE_enum("dataset", "av_folder", DATASETS, "what names the clips: the folder itself, or a public list")
    flags.DEFINE_list("train_list", [], "list of training clips, as published; those of vggsound and music21 contain all splits")
    flags.DEFINE_list("test_list", [], "list of held-out clips")
    flags.DEFINE_string("labels", "", "CSV with rows file,label[;label...] that label the files of a folder, also with several labels each")
    flags.DEFINE_string("labels_csv", "", "audioset, vggsound: CSV with the columns index,mid,display_name")
    flags.DEFINE_bool("instruments", False, "audioset, vggsound: keep only musical instruments")
    flags.DEFINE_float("clip_seconds", recipe.clip_seconds, "length of a clip", lower_bound=0.1)
    flags.DEFINE_float("clip_stride", recipe.clip_stride, "seconds from clip to clip of a file; 0: only its first clip", lower_bound=0)
    flags.DEFINE_integer("frames", recipe.frames, "stored frames of a clip, spread evenly over it", lower_bound=1)
    flags.DEFINE_integer("frame_size", recipe.frame_size, "side of the stored frames in pixels", lower_bound=16)
    flags.DEFINE_enum(
        "channels", recipe.channels, ["first", "mean"], "the first audio channel (if it is silent, the next), or the mean of all"
    )
    flags.DEFINE_bool("allow_missing", recipe.allow_missing, "also accept audio without images and images without audio")
    flags.DEFINE_float("max_mismatch", recipe.max_mismatch, "seconds by which the ends of audio and video may differ", lower_bound=0)
    words = "choose frames by their time, or count them as the original does; both agree where the frame rate is constant"
    flags.DEFINE_enum("frame_rule", recipe.frame_rule, ["time", "count"], words)
    flags.DEFINE_integer("max_pixels", recipe.max_pixels, "larger images are refused before they are decoded", lower_bound=1)
    flags.DEFINE_integer("workers", len(os.sched_getaffinity(0)), "processes that decode; 0: only this one", lower_bound=0)
    words = "DirectRunner, FlinkRunner, ...: make the clips with Apache Beam, on machines that have both folders at the same paths"
    flags.DEFINE_string("beam_runner", "", words)
    flags.DEFINE_list(
        "beam_options", [], "options of that runner, without dashes: direct_num_workers=4,direct_running_mode=multi_processing"
    )
    flags.DEFINE_integer(
        "test_percent",
        10,
        "share of videos held out, by a hash of the id; at least one of each class that has two",
        lower_bound=0,
        upper_bound=100,
    )
    flags.DEFINE_string("test_pattern", "", "hold out the videos whose id matches this regular expression, instead of --test_percent")
    words = "training clips to generate for each class that the built-in set has too, beside those of the files"
    flags.DEFINE_integer("generated", 0, words, lower_bound=0)
    flags.DEFINE_integer("shard_size", 0, "files a shard, which are redone when a run is killed; 0: 256, or 8 with --clip_stride")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
