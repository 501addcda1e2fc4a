"""Evaluates a classifier on labelled clips: `python -m launch.evaluate RUN [--data PREPARED] [--split test]`.

RUN is a run of launch.finetune, its best/ or averaged/, or a file of weights. Each view shows it the clips in one way:

    --mode    multimodal, audioonly, videoonly; missingaudioonly and missingvideoonly give a classifier of both the audio or the
              image alone. By default all that its tuning allows: a classifier of both is evaluated with both, and with each missing.
    --frames  first (the single frame at the clip's beginning), middle, or all (the probabilities of all frames are averaged). A mode
              without the image is evaluated once.

Several modes or frames are separated by commas. All views are of the same clips, those that have what every mode needs. Prints mAP, AUC,
d', accuracy and a table of classes, and writes OUT/evaluation.json with everything, the ids of the clips included, and for each view
OUT/MODE_FRAMES/ with its evaluation.json, precision_recall.png, mistakes.png and, where each clip has one class, confusion.png.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from absl import app, flags, logging
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from avmae_jax.data.batches import Frames
from avmae_jax.evals.classification import TUNED_MODES, classifier_of, common_needs, evaluate_views, views_of
from avmae_jax.evals.origin import Origin
from avmae_jax.inference.forward import BATCH
from avmae_jax.models.classifier import Mode, modality_of
from launch.common import model_flags, runtime

_LONG, _ENDS = 30, 10  # of a longer table of classes so many of its beginning and of its end are printed


def define_flags() -> None:
    """Of this program; options may follow RUN."""
    flags.FLAGS.set_gnu_getopt()
    model_flags.define_model_flags()
    model_flags.define_data_flags()
    flags.DEFINE_multi_string("mode", [], f"of {', '.join(get_args(Mode))}; none: all that the classifier was tuned for")
    flags.DEFINE_multi_string("frames", ["middle"], f"of {', '.join(get_args(Frames))}")
    flags.DEFINE_integer(
        "crops", 0, "crops of audio that is longer than the model's, averaged; 0: as the run evaluates, or 1", lower_bound=0
    )
    flags.DEFINE_integer("batch_size", BATCH, "rows computed at once", lower_bound=1)
    flags.DEFINE_string("out", "", "folder of the results; empty: RUN/evaluation, or beside a file")


def chosen(name: str, given: Sequence[str], choices: Sequence[str]) -> list[str]:
    """Collects the values of an option that may be repeated and may hold commas, each once; raises UsageError."""
    values = list(dict.fromkeys(value.strip() for text in given for value in text.split(",") if value.strip()))
    if unknown := [value for value in values if value not in choices]:
        raise app.UsageError(f"--{name} is {unknown[0]!r}; choose of {', '.join(choices)}", exitcode=2)
    return values


def crops_of_run(path: str) -> int:
    """Returns the crops that the model's run evaluates with; 1 for a file outside a run."""
    return model_flags.run_config(path).tune.eval_crops if model_flags.run_folder(path) else 1


def evaluate_model(path: str, out: Path, modes: Sequence[Mode], frames: Sequence[Frames]) -> list[dict[str, Any]]:
    """Evaluates every view and returns the contents of their evaluation.json; raises model_flags.USER_ERRORS."""
    args, trained = flags.FLAGS, model_flags.load(path)
    classifier_of(trained)
    tuned = trained.config.tune.mode
    modes = modes or TUNED_MODES[tuned]
    for mode in sorted({*modes} - {*TUNED_MODES[tuned]}):
        logging.warning("%s was tuned on %s, as far as it says; it has not learned to classify in the mode %s", path, tuned, mode)
    source = model_flags.open_clips(path, common_needs(modes))
    views = views_of(modes, frames, args.crops or crops_of_run(path))
    return evaluate_views(out, trained, source, views, Origin(model_flags.data_name(path), args.split), args.batch_size)


def default_out(path: Path) -> Path:
    """Returns evaluation/ in a run's folder, or a folder beside a file."""
    return path.with_name(f"{path.name}_evaluation") if path.is_file() else path / "evaluation"


def views_table(views: Sequence[dict[str, Any]]) -> Table:
    """Tabulates the figures of each view."""
    first = views[0]
    title = f"{first['clips']} {first['split']} clips of {len(first['label_names'])} classes"
    title += f", {first['classes_left_out']} of them without a clip and left out of the means" if first["classes_left_out"] else ""
    title += f"; {len(first['no_negative'])} of them, which every clip has, have no AUC" if first["no_negative"] else ""
    title += f"; {first['damaged_clips']} clips are damaged and left out" if first["damaged_clips"] else ""
    table = Table("mode", "frames", "mAP", "AUC", "d'", "accuracy", "top 5", "loss", title=title)
    for view in views:
        shown = "-" if modality_of(view["mode"]) == "audio" else view["frames"]
        numbers = [number(view[name]) for name in ("map", "auc", "d_prime", "accuracy", "top_5_accuracy", "loss")]
        table.add_row(view["mode"], shown, *numbers)
    return table


def classes_table(view: dict[str, Any]) -> Table:
    """Tabulates the classes of a view by average precision: of many the best and the worst, none of those without a clip."""
    rows = sorted(view["per_class"], key=lambda row: -1 if row["average_precision"] is None else row["average_precision"], reverse=True)
    rated = [row for row in rows if row["positives"]]
    cut = len(rated) > _LONG
    which = f"the {_ENDS} best and the {_ENDS} worst of {len(rated)} classes" if cut else f"{len(rated)} classes"
    table = Table("class", "clips", "AP", "AUC", "d'", "recall", "precision", title=f"{view['view']}: {which}")
    for row in [*rated[:_ENDS], *rated[-_ENDS:]] if cut else rated:
        numbers = [number(row[name]) for name in ("average_precision", "auc", "d_prime", "recall", "precision")]
        table.add_row(escape(row["name"]), str(row["positives"]), *numbers)
    return table


def number(value: float | None) -> str:
    """Formats a number with three places, and None as a dash."""
    return "-" if value is None else f"{value:.3f}"


def main(argv: list[str]) -> None:
    """Evaluates RUN."""
    if len(argv) != 2:
        raise app.UsageError(f"give one RUN, a classifier; there are {len(argv) - 1}", exitcode=2)
    args, path = flags.FLAGS, argv[1]
    modes = cast(list[Mode], chosen("mode", args.mode, get_args(Mode)))
    frames = cast(list[Frames], chosen("frames", args.frames, get_args(Frames))) or ["middle"]
    out = Path(args.out).expanduser() if args.out else default_out(Path(path).expanduser())
    runtime.start()
    runtime.cache_programs()
    try:
        views = evaluate_model(path, out, modes, frames)
    except model_flags.USER_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(views_table(views))
    console.print(classes_table(views[0]))
    console.print(f"all figures and plots: {out}", markup=False)


if __name__ == "__main__":
    define_flags()
    app.run(main)
