"""Compares CAV-MAE, CAV-MAE Sync and what can be added to it, with the same clips and seconds of training.

    python -m launch.ablation OUT [--seconds=120] [--seeds=3] [--config=configs/sync_tiny.py]

Each row of the table adds one thing to the row above it: CAV-MAE; Sync; a contrastive loss in both directions; negatives of the whole batch
in place of a micro-batch's; a second masked pass for that loss; a teacher that says which patches that pass sees; distillation from it.
How long a step takes is measured first, all rows in turns, and gives each row its number of steps.

Writes ablation.json after every training, and ablation.png, into OUT; the same command resumes. The probe needs
`pip install -e ".[baseline]"`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from absl import app, flags

from avmae_jax.config import Config

from .common import cli, kept_programs, model_flags, runtime, unused, views

if TYPE_CHECKING:
    from rich.table import Table


def table(rows: dict[str, dict[str, tuple[float, float]]], steps: dict[str, int]) -> Table:
    """Tabulates mean and spread of each row."""
    from rich.table import Table

    heads = ("R@1 audio to image", "R@1 image to audio", "all frames, a to i", "all frames, i to a", "reconstruction", "linear probe")
    found = Table("", "steps", *heads, title="what does each addition bring?", caption="mean and standard deviation over the seeds")
    for name, figures in rows.items():
        found.add_row(name, str(steps[name]), *(_shown(figure, *values) for figure, values in figures.items()))
    return found


def _shown(figure: str, mean: float, spread: float) -> str:
    form = ".3f" if figure == "reconstruction" else ".1%"
    return f"{mean:{form}} ± {spread:{form}}"


def main(argv: list[str]) -> None:
    """Compares the rows."""
    if len(argv) != 2:
        raise app.UsageError(f"give one folder OUT for the results; there are {len(argv) - 1}")
    unused.require_used("ablation", argv)
    runtime.start()
    kept_programs.cache_programs()  # the seeds of a row need the same ones
    with model_flags.one_line_errors():
        from avmae_jax.evals.baselines.classifiers import scikit_learn
        from avmae_jax.train.ablation import PICTURE, ROWS, Ablation, ablate, table_of

        scikit_learn()
        names = [row.name for row in ROWS]
        args = flags.FLAGS
        chosen = views.chosen("rows", args.rows, names) or names
        config, out = cast(Config, args["config"].value), Path(argv[1]).expanduser()
        with runtime.TrainingBar(100).shown() as bar:
            content: dict[str, Any] | None = ablate(Ablation(config, chosen, args.seconds, args.seeds, out), reporter=bar)
    if content is None:
        print("stopped; the same command resumes")
        return
    console = runtime.console()
    console.print(table(table_of(content), content["steps"]))
    console.print(f"{out / PICTURE}", markup=False)


def define_flags() -> None:
    """Defines the options of this program."""
    cli.define_config(recipe="sync_tiny")
    flags.DEFINE_float("seconds", 120, "seconds of training of each row, without compiling and evaluating", lower_bound=1)
    flags.DEFINE_integer("seeds", 3, "number of trainings of each row", lower_bound=1)
    flags.DEFINE_multi_string("rows", [], "names of the rows that are trained, separated by commas; all if left out")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
