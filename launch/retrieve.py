"""Finds images by audio and audio by images, within a data set or for files of your own.

    python -m launch.retrieve MODEL [--data DATASET] [--per_class 5]
    python -m launch.retrieve MODEL --query clip.mp4 --index DATASET

The first command searches the image of every clip by its audio among those of all clips, and the audio by the image. It prints R@1, R@5,
R@10, median rank, ties and chance, and writes MODEL/retrieval/retrieval.json and gallery.png, which shows some searches, or into --out.
A second call replaces both.

The second lists the nearest clips of an index for each --query FILE: its audio among the images of the index, and its image among the audio
of the index. INDEX is a folder written by launch.prepare or a file written by launch.embed with the same model. --out is a PNG here, which
shows the results. Of a file the beginning is used, as long as the model's input, and its middle frame; a file may lack audio or images.
The exit status is 3 if some of the files can't be used, and 1 if none can.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags
from rich.console import Console
from rich.table import Table

from avmae_jax.config import DataConfig
from avmae_jax.errors import ClipError, DatasetError
from avmae_jax.files import printable

from .common import cli, model_flags, runtime
from .common.screen import escape

if TYPE_CHECKING:
    from avmae_jax.data.clip import Clip, ClipSource
    from avmae_jax.evals.search import Hits
    from avmae_jax.inference.embedding_files import Embeddings
    from avmae_jax.weights.trained import Trained

_STORED_SIDE = 224  # pixels of a prepared clip's frame


def default_out(model_path: str) -> Path:
    """Returns retrieval/ in a run, or in the part of it which is the model; raises ValueError for a model outside a run."""
    path = Path(model_path).expanduser()
    if model_flags.run_folder(model_path) is None:
        raise ValueError(f"{model_path} lies in no run; give --out, a folder for the results")
    return path.with_name(f"{path.name}_retrieval") if path.is_file() else path / "retrieval"


def results_table(result: dict[str, Any]) -> Table:
    """Returns a table of both directions and of chance."""
    from avmae_jax.evals.ranking import DIRECTIONS, TOP

    table = Table("", *(f"R@{k}" for k in TOP), "median rank", "ties", title=f"retrieval among {result['clips']} clips")
    for name, words in zip((*DIRECTIONS, "chance"), ("image found by audio", "audio found by image", "guessing"), strict=True):
        row = result[name]
        table.add_row(words, *(f"{row[f'r{k}']:.1%}" for k in TOP), f"{row['median_rank']:g}", str(row.get("ties", "")))
    if "class" in result["chance"]:
        table.add_section()
        rows = ("image of the class", "audio of the class", "guessing")
        for name, words in zip((*DIRECTIONS, "chance"), rows, strict=True):
            table.add_row(words, *(f"{result[name]['class'][f'r{k}']:.1%}" for k in TOP))
    return table


def whole_set(model_path: str, console: Console) -> None:
    """Computes the retrieval within a data set."""
    from avmae_jax.evals.origin import Origin
    from avmae_jax.evals.retrieval import MODALITIES, Selection, retrieve_into
    from avmae_jax.inference.embed import Embed

    args = flags.FLAGS
    trained = model_flags.load(model_path)
    out = Path(args.out).expanduser() if args.out else default_out(model_path)
    source = model_flags.open_clips(model_path, "both")
    selection, origin = Selection(args.per_class, args.seed), Origin(model_flags.data_name(model_path), args.split)
    embed = Embed(trained, MODALITIES, args.batch_size)
    with runtime.progress_bar("embedding") as on_progress:
        result = retrieve_into(out, embed, source, selection, origin, on_progress)
    console.print(results_table(result))
    for name, count in result["short_classes"].items():
        console.print(f"class {escape(name)}: {count} clips, fewer than --per_class {args.per_class}")
    console.print(f"wrote {out / 'retrieval.json'} and {out / 'gallery.png'}", markup=False, soft_wrap=True)


def read_query(file: str, trained: Trained) -> Clip:
    """Decodes the beginning of a file, as much of it as the model takes; raises ClipError."""
    from avmae_jax.data.decode.one_clip import ClipForm, clip_seconds, decode_clip
    from avmae_jax.data.fbank import num_samples

    model = trained.config.model
    seconds, side = clip_seconds(model.audio_frames), max(_STORED_SIDE, model.image_size)
    clip = decode_clip(file, clip_id=Path(file).name, form=ClipForm(seconds=seconds, frame_size=side, allow_missing=True))
    return clip._replace(waveform=clip.waveform[: num_samples(model.audio_frames)])


def open_index(path: str, trained: Trained) -> tuple[Embeddings, ClipSource | None]:
    """Returns the vectors to search, and their clips if these are to be drawn."""
    from avmae_jax.data.sources import open_source
    from avmae_jax.evals.retrieval import MODALITIES
    from avmae_jax.evals.search import require_same_model
    from avmae_jax.inference.embed import Embed, counted, note_of
    from avmae_jax.inference.embedding_files import collect, read_embeddings

    args = flags.FLAGS
    if Path(path).expanduser().is_dir():
        source = open_source(DataConfig(source="prepared", path=path), args.split, "any")
        with runtime.progress_bar("embedding the index") as on_progress:
            parts = Embed(trained, MODALITIES, args.batch_size)(source)
            note = note_of(trained, source, MODALITIES, data=path, split=args.split)
            return collect(counted(parts, len(source), on_progress), note), source
    index = read_embeddings(path)
    require_same_model(index, trained)
    if not args.out:
        return index, None
    data = args.data or index.note["data"]
    if not args.data and not Path(data).expanduser().is_dir():
        raise DatasetError(f"{path} says that its clips are of {data!r}, which is no folder here; give --data, or omit --out")
    return index, open_source(DataConfig(source="prepared", path=data), index.note["split"], index.note["needs"])


def print_hits(console: Console, clip: Clip, hits: Hits, index: Embeddings) -> None:
    """Prints the results of one side of a query."""
    from avmae_jax.evals.gallery_rows import class_names

    table = Table("", "similarity", "clip", "class")
    for number, (row, score) in enumerate(zip(hits.rows, hits.scores, strict=True), start=1):
        classes = class_names(index.labels[row], index.note["label_names"])
        table.add_row(str(number), f"{score:.3f}", escape(index.ids[row]), escape(classes))
    found = "images nearest to its audio" if hits.queried == "audio" else "audio nearest to its image"
    console.print(escape(f"{clip.id}: {found}"), highlight=False, soft_wrap=True)
    console.print(table)


def from_files(model_path: str, files: Sequence[str], console: Console) -> int:
    """Searches an index by files; returns the exit status."""
    from avmae_jax.evals.gallery_rows import search_of
    from avmae_jax.evals.retrieval import MODALITIES
    from avmae_jax.evals.search import search
    from avmae_jax.inference.embed import Embed
    from avmae_jax.plots.gallery import Section, draw_gallery

    args = flags.FLAGS
    trained = model_flags.load(model_path)
    clips, failed = [], []
    for file in files:
        try:
            clips.append(read_query(file, trained))
        except (ClipError, OSError) as error:
            failed.append(f"{file}: {error}" if file not in str(error) else str(error))
    searches = []
    if clips:
        embed = Embed(trained, MODALITIES, 1)
        index, source = open_index(args.index, trained)
        for clip, found in zip(clips, search(clips, embed, index, args.top), strict=True):
            if not found:
                failed.append(f"{clip.id} has {clip.modality} alone, and the index has nothing of the other kind that it could find")
            for hits in found:
                print_hits(console, clip, hits, index)
                searches += [search_of(clip, hits, index, source, trained.config.model)] if source is not None and args.out else []
    if searches:
        out = Path(args.out).expanduser()
        draw_gallery(out, [Section(f"The nearest clips of {args.index}, by {model_path}", searches)])
        console.print(f"wrote {out}", markup=False, soft_wrap=True)
    for reason in failed:
        print(printable(f"can't be used: {reason}"), file=sys.stderr)
    return 0 if not failed else 1 if len(failed) == len(files) else 3


def main(argv: list[str]) -> None:
    """Evaluates retrieval within a data set, or searches an index with files."""
    args = flags.FLAGS
    if len(argv) != 2:
        raise app.UsageError("give one model, a run's folder or a file of weights")
    if bool(args.query) != bool(args.index):
        raise app.UsageError("--query and --index belong together: give both, or neither")
    if args.query and args.out and not args.out.lower().endswith(".png"):
        raise app.UsageError(f"--out is {args.out}; with --query it is a PNG, whose name ends in .png")
    runtime.start()
    runtime.cache_programs()
    console, status = Console(width=None if sys.stdout.isatty() else 160), 0
    try:
        if args.query:
            status = from_files(argv[1], args.query, console)
        else:
            whole_set(argv[1], console)
    except model_flags.USER_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.exit(status)


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags()
    model_flags.define_data_flags()
    flags.DEFINE_string("out", "", "folder of retrieval.json and gallery.png, empty: MODEL/retrieval; with --query a PNG, empty: none")
    flags.DEFINE_integer("per_class", 0, "clips drawn from each class; 0: all clips", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "of the clips that --per_class draws", lower_bound=0)
    flags.DEFINE_multi_string("query", [], "a media file to search the index by")
    flags.DEFINE_string("index", "", "clips that --query searches: a folder written by launch.prepare, or a file by launch.embed")
    flags.DEFINE_integer("top", 5, "clips listed for each query", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "clips computed at once", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
