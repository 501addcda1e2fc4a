"""Finds images by audio and audio by images, within a data set or for files of your own.

    python -m launch.retrieve MODEL [--data DATASET] [--per_class 5]
    python -m launch.retrieve MODEL --query clip.mp4 --index DATASET

The first command searches the image of every clip by its audio among those of all clips, and the audio by the image. It prints R@1, R@5,
R@10, median rank, ties and chance, and writes MODEL/retrieval/retrieval.json and gallery.png, which shows some searches, or into --out.
A second call replaces both. CAV-MAE compares the middle frame of each clip and all of its audio, CAV-MAE Sync all frames, each with the
audio around it. --frames=one or all compares both alike: with all frames of CAV-MAE, the similarity of two clips is the mean over the
frames of one, each compared with all the audio of the other.

The second lists the nearest clips of an index for each --query FILE: its audio among the images of the index, and its image among the audio
of the index. INDEX is a folder written by launch.prepare or a file written by launch.embed with the same model. --out is a PNG here, which
shows the results. Of a file the beginning is used, as long as the model's input, and its middle frame; a file may lack audio or images.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags

from avmae_jax.errors import ClipError
from avmae_jax.files import printable
from avmae_jax.weights import places

from .common import cli, kept_programs, model_flags, runtime, unused
from .common.screen import escape

if TYPE_CHECKING:
    from avmae_jax.data.clip import Clip
    from avmae_jax.weights.trained import Trained


def whole_set(model_path: str) -> None:
    """Computes the retrieval within a data set."""
    from avmae_jax.evals.origin import Origin
    from avmae_jax.evals.retrieval import MODALITIES, Selection, retrieve_into
    from avmae_jax.inference.embed import DatasetEmbedder

    from .common import tables

    args, console = flags.FLAGS, runtime.console()
    trained = model_flags.load(model_path)
    if not args.out and model_flags.run_folder(model_path) is None:
        raise ValueError(f"{model_path} lies in no run; give --out, a folder for the results")
    out = Path(args.out).expanduser() if args.out else places.results_folder(model_path, "retrieval")
    source = model_flags.open_clips(model_path, "both")
    embed = DatasetEmbedder(trained, MODALITIES, args.batch_size, args.frames)
    if embed.frames == "one":
        unused.require_left_out(["pairs"], "where one frame of each clip is compared; it is for --frames=all", args)
    selection = Selection(args.per_class, args.seed, args.pairs)
    origin = Origin(model_flags.data_name(model_path), args.split)
    with runtime.progress_bar("embedding") as on_progress:
        result = retrieve_into(out, embed, source, selection, origin, on_progress)
    console.print(tables.retrieval(result))
    for name, count in result["short_classes"].items():
        console.print(f"class {escape(name)}: {count} clips, fewer than --per_class {args.per_class}")
    console.print(f"wrote {out / 'retrieval.json'} and {out / 'gallery.png'}", markup=False, soft_wrap=True)


def from_files(model_path: str, files: Sequence[str]) -> int:
    """Searches an index by files; returns the exit status."""
    from avmae_jax.inference.windows import decode_beginning

    trained = model_flags.load(model_path)
    clips, failed = [], []
    for file in files:
        try:
            clips.append(decode_beginning(file, trained.config)._replace(id=Path(file).name))
        except (ClipError, OSError) as error:
            failed.append(f"{file}: {error}" if file not in str(error) else str(error))
    if clips:
        failed += search_index(trained, clips)
    for reason in failed:
        print(printable(f"can't be used: {reason}"), file=sys.stderr)
    return cli.status_of(len(failed), len(files))


def search_index(trained: Trained, clips: Sequence[Clip]) -> list[str]:
    """Searches --index by clips, prints and draws what they find, and returns a reason for each clip that can't find anything."""
    from avmae_jax.evals.gallery_rows import search_of, title_of
    from avmae_jax.evals.retrieval import MODALITIES
    from avmae_jax.evals.search import clips_of, open_index, search
    from avmae_jax.inference.embed import DatasetEmbedder
    from avmae_jax.plots.gallery import Section, draw_gallery

    from .common import tables

    args, console = flags.FLAGS, runtime.console()
    embed = DatasetEmbedder(trained, MODALITIES, args.batch_size, "one")
    with runtime.progress_bar("embedding the index") as on_progress:
        index, source = open_index(args.index, embed, args.split, on_progress)
    if args.out and source is None:
        source = clips_of(args.index, index, args.data)
    failed, drawn = [], []
    for clip, found in zip(clips, search(clips, DatasetEmbedder(trained, MODALITIES, 1, "one"), index, args.top), strict=True):
        if not found:
            failed.append(f"{clip.id} has {clip.modality} alone, and the index has nothing of the other kind that it could find")
        for hits in found:
            console.print(escape(title_of(clip, hits)), highlight=False, soft_wrap=True)
            console.print(tables.hits(hits, index))
            if args.out and source is not None:
                drawn.append(search_of(clip, hits, index, source, trained.config.model))
    if drawn:
        out = Path(args.out).expanduser()
        draw_gallery(out, [Section(f"The nearest clips of {args.index}, by {trained.path}", drawn)])
        console.print(f"wrote {out}", markup=False, soft_wrap=True)
    return failed


def main(argv: list[str]) -> None:
    """Evaluates retrieval within a data set, or searches an index with files."""
    args = flags.FLAGS
    if len(argv) != 2:
        raise app.UsageError("give one model, a run's folder or a file of weights")
    if bool(args.query) != bool(args.index):
        raise app.UsageError("--query and --index belong together: give both, or neither")
    if args.query and args.out and not args.out.lower().endswith(".png"):
        raise app.UsageError(f"--out is {args.out}; with --query it is a PNG, whose name ends in .png")
    unused.require_used("retrieve", argv)
    runtime.start()
    kept_programs.cache_programs()
    status = 0
    with model_flags.one_line_errors():
        if args.query:
            status = from_files(argv[1], args.query)
        else:
            whole_set(argv[1])
    sys.exit(status)


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags(classes=False)
    model_flags.define_data_flags()
    flags.DEFINE_string("out", "", "folder of retrieval.json and gallery.png, empty: MODEL/retrieval; with --query a PNG, empty: none")
    flags.DEFINE_integer("per_class", 0, "clips drawn from each class; 0: all clips", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "of the clips that --per_class draws", lower_bound=0)
    flags.DEFINE_multi_string("query", [], "a media file to search the index by")
    flags.DEFINE_string("index", "", "clips that --query searches: a folder written by launch.prepare, or a file by launch.embed")
    flags.DEFINE_integer("top", 5, "clips listed for each query", lower_bound=1)
    words = "frames of each clip that are compared: the middle one, or all; left out: all for CAV-MAE Sync, one for CAV-MAE"
    flags.DEFINE_enum("frames", None, ["one", "all"], words)
    words = "similarity of two clips of several frames: mean or maximum over frames at the same place, or over all pairs of frames"
    flags.DEFINE_enum("pairs", "diagonal_mean", ["diagonal_mean", "diagonal_max", "mean", "max"], words)
    flags.DEFINE_integer("batch_size", 32, "clips computed at once", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
