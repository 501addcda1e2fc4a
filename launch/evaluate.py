"""Evaluates a classifier on labelled clips.

    python -m launch.evaluate RUN [--data PREPARED] [--split test]

RUN is a run of launch.finetune, its best/, averaged/, ema/, or a file of weights. Each combination of two options is evaluated as one view:

    --given   both, audio or image. By default all that fit its training: a classifier of both gets both, and each of them alone. The
              official names of modes (multimodal, audioonly, missingvideoonly, ...) work too.
    --frames  first (the single frame at the clip's beginning), middle, or all (the probabilities of all ten averaged). A mode without
              images is evaluated once.

Several values are separated by commas. All views are of the same clips, those that have the inputs of every mode. Classes are matched by
name: clips of others are left out, counted and named. Prints mAP, AUC, d', accuracy, the expected calibration error (before and after
launch.calibrate) and a table of classes, mAP and accuracy with 95 % intervals. Writes OUT/evaluation.json with everything, the ids of the
clips included, and for each view OUT/MODE_FRAMES/ with its evaluation.json, precision_recall.png, reliability.png, mistakes.png, if each
clip has one class confusion.png, and where classes have thresholds f1.png. Where
launch.baseline has measured the same clips, its best baseline is printed too, and whether the model beats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from absl import app, flags

from avmae_jax.config import Frames
from avmae_jax.weights import places

from .common import cli, kept_programs, model_flags, runtime, unused, views


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags()
    model_flags.define_data_flags()
    flags.DEFINE_multi_string("given", [], "both, audio or image: what the classifier is given; all that fit its training if left out")
    flags.DEFINE_alias("mode", "given")
    flags.DEFINE_multi_string("frames", ["middle"], f"of {', '.join(get_args(Frames))}")
    flags.DEFINE_integer(
        "crops", 0, "crops of audio that is longer than the model's, averaged; 0: as the run evaluates, or 1", lower_bound=0
    )
    flags.DEFINE_integer("batch_size", 32, "rows computed at once", lower_bound=1)
    flags.DEFINE_string("out", "", "folder of the results; empty: RUN/evaluation, or beside a file")
    flags.DEFINE_string("baseline", "", "a file of launch.baseline; empty: baseline.json of the data set or the run, if there is one")


def evaluate_model(path: str, out: Path, given: Sequence[str], frames: Sequence[Frames]) -> list[dict[str, Any]]:
    """Evaluates every view and returns the contents of their evaluation.json; raises model_flags.USER_ERRORS."""
    from avmae_jax.evals.classification import evaluate_views
    from avmae_jax.evals.origin import Origin
    from avmae_jax.evals.views import common_needs, views_of

    args, trained = flags.FLAGS, model_flags.load(path)
    modes = views.modes_of(trained, given)
    source = model_flags.open_clips(path, common_needs(modes))
    shown = views_of(modes, views.frames_of(trained, frames), args.crops or views.crops_of_run(path))
    return evaluate_views(out, trained, source, shown, Origin(model_flags.data_name(path), args.split), args.batch_size)


def main(argv: list[str]) -> None:
    """Evaluates RUN."""
    if len(argv) != 2:
        raise app.UsageError(f"give one RUN, a classifier; there are {len(argv) - 1}")
    unused.require_used("evaluate", argv)
    args, path = flags.FLAGS, argv[1]
    given = views.chosen("given", args.given, model_flags.GIVEN)
    frames = cast(list[Frames], views.chosen("frames", args.frames, get_args(Frames))) or ["middle"]
    out = Path(args.out).expanduser() if args.out else places.results_folder(path, "evaluation")
    runtime.start()
    kept_programs.cache_programs()
    from avmae_jax.evals.views import title_of

    from .common import baseline_tables, tables

    with model_flags.one_line_errors():
        baselines = baseline_tables.known(model_flags.data_name(path), path, args.baseline)
        found = evaluate_model(path, out, given, frames)
    console = runtime.console()
    console.print(tables.views(found))
    console.print(tables.class_figures(found[0]["per_class"], title_of(found[0]["mode"], found[0]["frames"])))
    for words in tables.confidence(found, path):
        console.print(words, markup=False, highlight=False)
    baseline_tables.print_comparison(console, found, baselines)
    console.print(f"all figures and plots: {out}", markup=False)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
