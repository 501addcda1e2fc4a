"""What is heard and seen in media files: `python -m launch.predict FILE_OR_FOLDER [more ...] --model RUN`.

Files are videos, sounds (wav, flac, mp3, ...) or pictures (jpg, png) of any length; a folder stands for all such files in it and below it.
RUN is a run of launch.finetune, its best/ or averaged/, or a file of weights. A file is cut into windows as long as the model hears, whose
probabilities are averaged; with --timeline the classes of each second are told as well. A file that lacks sound or pictures is asked as
one with a missing modality, if the model was tuned on both.

Prints a table with the likeliest classes of each file and writes them with --json and --csv. For files with both, the match is the cosine
of sound and picture that contrastive pretraining has learned, and its rank says at which place the file's own picture stands among those
of all files given, for its sound. Tuning may move it: --match_with takes a pretraining checkpoint for it. A pretraining checkpoint as RUN
has no classes but gives matches. --explain draws where in the frame and in the spectrogram the first class of each file comes from.

A file that can't be read or lacks what the model needs is named with its reason, on the screen and in what is written. The exit status is 0
if every file was predicted, 3 if some failed, 1 if all did or the model can't be read, and 2 for a wrong usage.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from absl import app, flags, logging
from rich.console import Console

from avmae_jax.data.batches import Frames
from avmae_jax.data.catalog.media_folder import walk
from avmae_jax.data.decode.media import RANK
from avmae_jax.errors import ClipError, DatasetError
from avmae_jax.evals.metrics import partner_ranks
from avmae_jax.files import as_text, file_names
from avmae_jax.inference.predict import BATCH, Prediction, Predictor, open_matcher
from avmae_jax.inference.windows import of_file
from avmae_jax.models.classifier import Mode
from launch.common import model_flags, runtime, tables

SOME_FAILED = 3  # exit status


def media_files(arguments: Sequence[str]) -> list[Path]:
    """The files given, each once, and those in the folders given, sorted; whether they are media shows when they are read.

    Raises:
      DatasetError: if a folder has no media files.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument).expanduser()
        if not path.is_dir():
            found[path] = None
            continue
        inside = sorted(name for name, is_link in walk(path) if not is_link and os.path.splitext(name)[1].lower() in RANK)  # noqa: PTH122
        if not inside:
            raise DatasetError(f"{path} has no media files, which end in {', '.join(RANK)}")
        found |= dict.fromkeys(path / name for name in inside)
    return list(found)


def open_predictor() -> Predictor:
    """By the flags; raises what load_trained and Predictor do."""
    args = flags.FLAGS
    trained = model_flags.load(args.model)
    sizes = {"heads": args.heads, "decoder_heads": args.decoder_heads}
    matcher = open_matcher(trained, args.match_with, **sizes) if args.match_with else None
    predictor = Predictor(trained, match_with=matcher, mode=cast(Mode | None, args.mode), batch_size=args.batch_size)
    if not trained.classes:
        words = "is a pretraining model without classes, so that only the match of sound and picture is told"
        logging.warning("%s %s; for classes fine-tune it: python -m launch.finetune --config.init_from=%s", args.model, words, args.model)
    return predictor


def predict_all(predictor: Predictor, files: Sequence[Path]) -> list[Prediction | Exception]:
    """One result for each file, and its picture if one is wanted."""
    args = flags.FLAGS
    results: list[Any] = [None] * len(files)
    names = file_names([file.stem for file in files]) if args.explain else []
    explain = explainer_of(predictor) if args.explain else None
    options = {"top": args.top, "frames": args.frames, "timeline": args.timeline, "threads": args.threads}
    done = failed = 0
    with runtime.progress_bar("predicting") if len(files) > 1 else contextlib.nullcontext(lambda *_: None) as on_progress:
        on_progress(0, 0, len(files))
        for number, found in predictor(map(of_file, files), **options):
            results[number] = found
            if explain and isinstance(found, Prediction):
                results[number] = explain(files[number], found, Path(args.explain).expanduser() / f"{names[number]}.png")
            done, failed = done + 1, failed + isinstance(results[number], Exception)
            on_progress(done, failed, len(files))
    return results


def explainer_of(predictor: Predictor) -> Callable[[Path, Prediction, Path], Prediction | Exception]:
    """Draws a file's picture and gives its prediction back, or why there is no picture."""
    from avmae_jax.inference.explain import Explainer, draw  # matplotlib takes a second, which only those wait for who want pictures

    explainer = Explainer(predictor.trained if predictor.trained.classes else predictor.matcher)  # whose match is told

    def explained(file: Path, found: Prediction, picture: Path) -> Prediction | Exception:
        try:
            medium = of_file(file)
            draw(picture, explainer(medium, found, flags.FLAGS.frames), found, medium.name)
        except (ClipError, ValueError) as error:
            return error
        return found

    return explained


def records_of(files: Sequence[Path], results: Sequence[Prediction | Exception]) -> list[dict[str, Any]]:
    """What is told of each file; see prediction_tables.record."""
    both = {number: found.directions for number, found in enumerate(results) if isinstance(found, Prediction) and found.directions}
    places: dict[int, int] = {}
    if len(both) > 1:
        sounds, pictures = (np.stack(vectors) for vectors in zip(*both.values(), strict=True))
        places = dict(zip(both, partner_ranks(sounds, pictures)[0].tolist(), strict=True))
    make = tables.record
    return [
        make(as_text(str(file)), found, flags.FLAGS.top, (places[number], len(both)) if number in places else None)
        for number, (file, found) in enumerate(zip(files, results, strict=True))
    ]


def check_usage(argv: Sequence[str]) -> None:
    """Raises UsageError for what can't be meant, before anything takes time."""
    args = flags.FLAGS
    if len(argv) < 2:
        raise app.UsageError("give media files or folders of them", exitcode=2)
    if not args.model:
        raise app.UsageError("give --model, a run of launch.finetune or a file of weights", exitcode=2)
    if args.json == args.csv == "-":
        raise app.UsageError("--json and --csv can't both be written to the standard output", exitcode=2)
    if args.explain and args.frames == "all":
        raise app.UsageError("--explain draws one frame of a file, so --frames must be first or middle", exitcode=2)
    for name, value in (("json", args.json), ("csv", args.csv)):
        path = Path(value).expanduser()
        if value not in ("", "-") and (path.is_dir() or not path.parent.is_dir()):
            raise app.UsageError(f"--{name} {path}: it must be a file in a folder that exists", exitcode=2)


def main(argv: list[str]) -> None:
    """Predicts."""
    check_usage(argv)
    args = flags.FLAGS
    runtime.start()
    runtime.cache_programs()
    try:
        files = media_files(argv[1:])
        predictor = open_predictor()
        records = records_of(files, predict_all(predictor, files))
        about = {"model": args.model, "match_with": args.match_with or None, "frames": args.frames}
        tables.write_json(args.json, about, records)
        tables.write_csv(args.csv, records, min(args.top, predictor.trained.classes), timeline=args.timeline)
    except model_flags.USER_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
    out = sys.stderr if "-" in (args.json, args.csv) else sys.stdout
    tables.show(Console(file=out, width=None if out.isatty() else 160), records)
    failed = sum("error" in record for record in records)
    sys.exit(0 if not failed else SOME_FAILED if failed < len(records) else 1)


def define_flags() -> None:
    """Its options, which may follow the files."""
    flags.FLAGS.set_gnu_getopt()
    model_flags.define_model_flags()
    flags.DEFINE_string("model", "", "a run of launch.finetune, its best/ or averaged/, or a file of weights")
    flags.DEFINE_string("match_with", "", "a pretraining checkpoint that the match is taken from; empty: the model itself")
    flags.DEFINE_integer("top", 5, "classes told of each file", lower_bound=1)
    flags.DEFINE_enum("frames", "middle", list(get_args(Frames)), "the frame of each window that is looked at, or all ten, averaged")
    flags.DEFINE_enum("mode", None, list(get_args(Mode)), "how the classifier is asked; by what a file has if not given")
    flags.DEFINE_bool("timeline", False, "the classes second by second, too")
    flags.DEFINE_string("json", "", "file to write everything to; -: the standard output")
    flags.DEFINE_string("csv", "", "file to write a row for each file to, with --timeline for each of its seconds, too; -: standard output")
    flags.DEFINE_string("explain", "", "folder for a PNG of each file: which parts of frame and spectrogram its first class comes from")
    flags.DEFINE_integer("batch_size", BATCH, "windows computed at once", lower_bound=1)
    flags.DEFINE_integer("threads", min(8, len(os.sched_getaffinity(0))), "threads that decode", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
