"""Measures classical baselines on a data set, for an honest comparison with a model.

    python -m launch.baseline DATASET

DATASET is a folder written by launch.prepare, or a run, whose data is taken. Logistic regression and a random forest are fitted to
statistics of the training clips: cosine coefficients of the log-mel for the audio, colours and gradients for the image, and the product
of the best of each for both. Cross-validation inside the training clips chooses all settings; the held-out clips are used once. Prints
mAP, accuracy and a table of classes, and writes baseline.json, with the ids of all clips, into DATASET. launch.evaluate and launch.report
print the best of them beside a model's figures on the same clips. Needs `pip install -e ".[baseline]"`.
"""

from pathlib import Path

from absl import app, flags

from .common import cli, model_flags, runtime


def main(argv: list[str]) -> None:
    """Measures the baselines of DATASET."""
    if len(argv) != 2:
        raise app.UsageError(f"give one DATASET, a prepared folder or a run; there are {len(argv) - 1}", exitcode=2)
    args, path = flags.FLAGS, argv[1]
    runtime.start()
    from avmae_jax.evals.baselines.baseline import baseline_into
    from avmae_jax.evals.baselines.classifiers import scikit_learn

    from .common import baseline_tables, labelled_data

    with model_flags.one_line_errors():
        scikit_learn()
        data = labelled_data.config_of(path)
        given, train, held_out = labelled_data.open_splits(data, args.given)
        out = Path(args.out).expanduser() if args.out else labelled_data.baseline_file(data, path)
        with runtime.progress_bar("reading") as on_progress:
            name = labelled_data.name_of(data)
            found = baseline_into(out, train, held_out, given, data=name, seed=args.seed, on_progress=on_progress)
    console = runtime.console()
    console.print(baseline_tables.fitted(found, found["baselines"]))
    console.print(baseline_tables.classes(max(found["baselines"], key=lambda row: row["cross_validation"]["map"])))
    console.print(f"all figures: {out}", markup=False)


def define_flags() -> None:
    """Defines the options of this program."""
    flags.DEFINE_enum("given", "", ["", "both", "audio", "image"], "what each clip must have; empty: both, or else what the clips have")
    flags.DEFINE_integer("seed", 0, "of the folds of the cross-validation, and of the forests", lower_bound=0)
    flags.DEFINE_string("out", "", "the JSON file; empty: baseline.json in DATASET")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
