"""Predicts the classes of media files, and how well their audio and image match.

    python -m launch.predict FILE_OR_FOLDER [more ...] [--model RUN]

Files are videos, audio (wav, flac, mp3, ...) or images (jpg, png) of any length; a folder stands for all such files in it and below it.
RUN is a run of launch.finetune, its best/, averaged/, ema/, or a file of weights. Without --model the model in the box answers, which knows
12 musical instruments, and the first line says how good it is. A file is cut into windows as long as the model's input,
whose probabilities are averaged; --timeline adds the classes of each second. For a file without audio or without images, a multimodal
classifier uses what there is.

Prints a table with the likeliest classes of each file and writes them with --json and --csv. For files with both, the match is the cosine
of audio and image that contrastive pretraining learned, and its rank is the place of the file's own image among those of all files given,
for its audio. Fine-tuning may change it: --match_with computes it with a pretraining checkpoint. A pretraining checkpoint as RUN has no
classes but gives matches. --explain draws which parts of the frame and of the spectrogram contribute to the first class of each file.

--match_timeline computes instead how well audio and image match in each second, and by how much they are apart: the cosine, and the
share of other moments of the file, and with --match_against of other clips, that match worse. A positive offset means that the audio comes
later than the image; where nothing tells, the answer is that one can't tell. --match_pictures draws it, and --explain which patches of the
frames are most like the audio. launch.sync_check calibrates a model for it.

A file that can't be read or lacks what the model needs is listed with its reason, on the screen and in what is written.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from absl import app, flags, logging

from avmae_jax.config import Fill, Frames
from avmae_jax.errors import ClipError
from avmae_jax.files import file_names
from avmae_jax.weights.box import DEFAULT

from .common import cli, kept_programs, model_flags, runtime, unused

if TYPE_CHECKING:
    from rich.console import Console

    from avmae_jax.inference.explain import Explainer
    from avmae_jax.inference.predict import Prediction, Predictor
    from avmae_jax.inference.windows import Medium


def open_predictor() -> Predictor:
    """Opens the model by the options; raises what load_trained and Predictor raise."""
    from avmae_jax.inference.predict import Predictor, open_matcher

    args = flags.FLAGS
    trained = model_flags.load(args.model)
    sizes = {"heads": args.heads, "decoder_heads": args.decoder_heads}
    matcher = open_matcher(trained, args.match_with, **sizes) if args.match_with else None
    predictor = Predictor(trained, match_with=matcher, given=args.given, batch_size=args.batch_size)
    if trained.spec.pairs:
        unused.require_left_out(["frames"], f"for a {trained.spec.title}, which is given all frames of a window")
    if not trained.classes:
        unused.require_left_out(["top", "unsure_below"], f"with {args.model}, a pretraining model without classes")
        words = "is a pretraining model without classes, so that only the match of audio and image is reported"
        command = model_flags.finetune_command(args.model, trained.config.model)
        logging.warning("%s %s; for classes fine-tune it: %s", args.model, words, command)
    return predictor


def predict_all(predictor: Predictor, files: Sequence[Path]) -> list[Prediction | Exception]:
    """Returns one result for each file, and draws its explanation if --explain is given."""
    from avmae_jax.inference.explain import explainer_of
    from avmae_jax.inference.predict import Prediction
    from avmae_jax.inference.windows import of_file

    args = flags.FLAGS
    results: list[Any] = [None] * len(files)
    names = file_names([file.stem for file in files]) if args.explain else []
    explainer = explainer_of(predictor) if args.explain else None
    options = {"top": args.top, "frames": args.frames, "timeline": args.timeline, "fill": args.short_audio, "threads": args.threads}
    options["unsure_below"] = args.unsure_below
    done = failed = 0
    with runtime.progress_bar("predicting") if len(files) > 1 else contextlib.nullcontext(lambda *_: None) as on_progress:
        on_progress(0, 0, len(files))
        for number, found in predictor(map(of_file, files), **options):
            results[number] = found
            if explainer and isinstance(found, Prediction):
                try:
                    draw_explanation(Path(args.explain).expanduser() / f"{names[number]}.png", explainer, of_file(files[number]), found)
                except (ClipError, ValueError) as error:
                    results[number] = error
            done, failed = done + 1, failed + isinstance(results[number], Exception)
            on_progress(done, failed, len(files))
    return results


def draw_explanation(plot: Path, explainer: Explainer, medium: Medium, found: Prediction) -> None:
    """Draws the explanation of a prediction; raises what Explainer raises."""
    from avmae_jax.inference.explain import subject
    from avmae_jax.plots.heatmap import draw_heatmap

    heat, constant, row = explainer(medium, found, flags.FLAGS.frames, flags.FLAGS.short_audio)
    draw_heatmap(plot, heat, constant, row.arrays, start=row.start, title=f"{subject(found)}: {medium.name}")


def check_usage(argv: Sequence[str]) -> None:
    """Raises UsageError for what can't be meant, before anything takes time."""
    args = flags.FLAGS
    if len(argv) < 2:
        raise app.UsageError("give media files or folders of them")
    unused.require_used("predict", argv)
    if args.json == args.csv == "-":
        raise app.UsageError("--json and --csv can't both be written to the standard output")
    if args.explain and args.frames == "all":
        raise app.UsageError("--explain draws one frame of a file, so --frames must be first or middle")
    for name, value in (("json", args.json), ("csv", args.csv)):
        path = Path(value).expanduser()
        if value not in ("", "-") and (path.is_dir() or not path.parent.is_dir()):
            raise app.UsageError(f"--{name} {path}: it must be a file in a folder that exists")


def match_along_time(files: Sequence[Path], console: Console) -> int:
    """Reports the match of audio and image along time; returns the exit status."""
    from .common import match_report, predictions, tables
    from .common.match_files import match_files

    args = flags.FLAGS
    model = args.match_with or args.model
    records = match_files(model, files)
    predictions.write_json(args.json, {"model": model, "meaning": match_report.ABOUT}, records)
    match_report.write_csv(args.csv, records, raw=args.raw_csv)
    for entry in records:
        if "error" not in entry:
            console.print(match_report.match_table(entry))
    tables.show_failures(console, records)
    return cli.status_of(sum("error" in record for record in records), len(records))


def main(argv: list[str]) -> None:
    """Predicts the files that are named."""
    check_usage(argv)
    args = flags.FLAGS
    runtime.start()
    kept_programs.cache_programs()
    from avmae_jax.data.catalog.media_folder import media_files
    from avmae_jax.weights import box

    from .common import predictions, tables

    console = runtime.console(sys.stderr if "-" in (args.json, args.csv) else sys.stdout)
    with model_flags.one_line_errors():
        files = media_files(argv[1:])
        if args.match_timeline:
            sys.exit(match_along_time(files, console))
        predictor = open_predictor()
        if box.is_boxed(args.model):
            console.print(box.card_of(args.model).line, markup=False, highlight=False)
        records = predictions.records_of(files, predict_all(predictor, files), args.top)
        about = {"model": args.model, "match_with": args.match_with or None, "frames": args.frames}
        about |= {"unsure_below": args.unsure_below, "calibrated": predictor.trained.calibration is not None}
        predictions.write_json(args.json, about, records)
        predictions.write_csv(args.csv, records, min(args.top, predictor.trained.classes), timeline=args.timeline, raw=args.raw_csv)
    tables.show_predictions(console, records)
    failed = sum("error" in record for record in records)
    sys.exit(cli.status_of(failed, len(records)))


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags()
    words = "a run of launch.finetune, its best/, averaged/, ema/, a file of weights, or the name of a model in the box"
    flags.DEFINE_string("model", DEFAULT, words)
    flags.DEFINE_string("match_with", "", "a pretraining checkpoint that the match is taken from; empty: the model itself")
    flags.DEFINE_integer("top", 5, "classes listed for each file", lower_bound=1)
    text = 'a class that is less probable is not named, and a file without another one is "unsure"'
    flags.DEFINE_float("unsure_below", 0.0, text, lower_bound=0, upper_bound=1)
    flags.DEFINE_enum("frames", "middle", list(get_args(Frames)), "the frame of each window that is used, or all ten, averaged")
    flags.DEFINE_enum("given", None, list(model_flags.GIVEN), "what the classifier is given of each file; whatever it has if left out")
    flags.DEFINE_alias("mode", "given")
    flags.DEFINE_enum("short_audio", "repeat", list(get_args(Fill)), "what audio shorter than a window is filled up with: itself, or zeros")
    flags.DEFINE_bool("timeline", False, "also list the classes second by second")
    flags.DEFINE_bool("match_timeline", False, "report how well audio and image match second by second and by how much they are apart")
    text = "--match_timeline: images a second; if not given those of launch.sync_check, or 4"
    flags.DEFINE_float("match_rate", None, text, lower_bound=0.1, upper_bound=100)
    text = "--match_timeline: other clips for the rank, a file of launch.embed, or held_out: those of the model's run; empty: no such rank"
    flags.DEFINE_string("match_against", "", text)
    flags.DEFINE_float("longest_offset", 3.5, "--match_timeline: seconds by which audio and image may be apart", lower_bound=0.5)
    flags.DEFINE_string("match_pictures", "", "--match_timeline: folder for a PNG of each file: all its images against all its audio")
    flags.DEFINE_string("json", "", "file for all results; -: the standard output")
    flags.DEFINE_string("csv", "", "file for a row for each file, with --timeline also for each second; -: the standard output")
    flags.DEFINE_bool("raw_csv", False, "write names into --csv as they are, also those that a spreadsheet takes for formulas")
    flags.DEFINE_string("explain", "", "folder for a PNG of each file: the parts of frame and spectrogram behind its first class")
    flags.DEFINE_integer("batch_size", 8, "windows computed at once", lower_bound=1)
    flags.DEFINE_integer("threads", min(8, len(os.sched_getaffinity(0))), "threads that decode", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
