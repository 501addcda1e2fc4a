"""Measures what simple classifiers reach on the features of a frozen encoder.

    python -m launch.probe RUN [--data DATASET]

RUN is a run's folder, its best/ or averaged/, or a file of weights, of a CAV-MAE or its classifier. Probes are a linear classifier
(logistic regression), nearest neighbours, and an attentive one (one learned query over the tokens), on the audio, the image and both, of
the whole clip and of its centre. They are fitted to the training clips, with settings chosen by cross-validation inside them, and applied
once to the held-out clips. Prints mAP and accuracy, and writes RUN/probe/probe.json; the features are kept beside it. Where launch.baseline
has measured the same clips, its best baseline is printed too. Needs `pip install -e ".[baseline]"`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from absl import app, flags

from avmae_jax.files import write_json
from avmae_jax.weights import places

from .common import cli, kept_programs, labelled_data, model_flags, runtime

if TYPE_CHECKING:
    from avmae_jax.data.clip import ClipSource
    from avmae_jax.evals.baselines.labelled import Labelled


def measure(path: str, out: Path) -> dict[str, Any]:
    """Probes the model at a path and writes OUT/probe.json; raises model_flags.USER_ERRORS."""
    from avmae_jax.evals.baselines.classifiers import scikit_learn
    from avmae_jax.evals.baselines.labelled import warning_of
    from avmae_jax.evals.baselines.probe import Pool, probe, probes_of
    from avmae_jax.evals.baselines.probe_features import edition_of, stored_features
    from avmae_jax.files import plain
    from avmae_jax.inference.token_features import Layer, TokenFeatures

    args = flags.FLAGS
    scikit_learn()
    probes = probes_of(args.probes)
    trained = model_flags.load(path)
    data = labelled_data.config_of(args.data) if args.data else model_flags.run_config(path).data
    given, train, held_out = labelled_data.open_splits(data, args.given)
    compute = TokenFeatures(trained, cast(Layer, args.layer), given, tokens="attentive" in probes, batch_size=args.batch_size)
    edition = edition_of(data)

    def features(split: str, source: ClipSource) -> Labelled:
        with runtime.progress_bar(f"features, {split}") as on_progress:
            return stored_features(out / f"{split}_{args.layer}.npz", compute, source, edition, on_progress)

    fitted_to, others = features("train", train), features("test", held_out)
    names, chosen = tuple(train.label_names), {name: getattr(args, name) for name in ("layer", "pool", "seed")}
    rows = probe(fitted_to, others, names, pool=cast(Pool, args.pool), probes=probes, seed=args.seed)
    head = {"model": path, "data": labelled_data.name_of(data), **chosen, "label_names": names}
    result = {
        **head,
        "warning": warning_of(fitted_to, others, names) or None,
        "probes": rows,
        "train_ids": fitted_to.ids,
        "ids": others.ids,
    }
    write_json(out / "probe.json", plain(result))
    return plain(result)


def main(argv: list[str]) -> None:
    """Probes RUN."""
    if len(argv) != 2:
        raise app.UsageError(f"give one RUN, a model; there are {len(argv) - 1}", exitcode=2)
    args, path = flags.FLAGS, argv[1]
    out = Path(args.out).expanduser() if args.out else places.results_folder(path, "probe")
    runtime.start()
    kept_programs.cache_programs()
    from .common import baseline_tables

    with model_flags.one_line_errors():
        found = measure(path, out)
        baselines = baseline_tables.known(found["data"], path, args.baseline)
    console = runtime.console()
    console.print(baseline_tables.fitted(found, found["probes"]))
    baseline_tables.print_comparison(console, baseline_tables.views_of(found), baselines)
    runtime.print_warning(found)
    console.print(f"all figures: {out / 'probe.json'}", markup=False)


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags(classes=False)
    flags.DEFINE_string("data", "", "folder written by launch.prepare, or a run, whose data is taken; empty: the data of the model's run")
    flags.DEFINE_enum("given", "", ["", "both", "audio", "image"], "what each clip must have; empty: both, or else what the clips have")
    flags.DEFINE_enum("layer", "separate", ["joint", "separate"], "tokens after the joint blocks, or of the last separate block")
    flags.DEFINE_enum("pool", "mean_std", ["mean", "mean_std"], "mean of the tokens, or mean and standard deviation")
    flags.DEFINE_list("probes", ["linear", "neighbours", "attentive"], "of linear, neighbours, attentive")
    flags.DEFINE_integer("seed", 0, "of the folds of the cross-validation, and of the attentive probe", lower_bound=0)
    flags.DEFINE_integer("batch_size", 32, "windows computed at once", lower_bound=1)
    flags.DEFINE_string("baseline", "", "a file of launch.baseline; empty: baseline.json of the data set or the run, if there is one")
    flags.DEFINE_string("out", "", "folder of the results; empty: RUN/probe, or beside a file")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
