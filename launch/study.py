"""Studies how many labels it takes, from several starts.

    python -m launch.study RUN --config.data.path=DATASET [--also=NAME=PATH] [--labels=2,4,8,16,24] [--seeds=3]

RUN is a run of launch.pretrain, or a file of weights. A recipe of launch.finetune is trained on few labelled clips of each class from
random weights (scratch), from RUN (pretrained) and from each PATH of --also. Beside them stand the best linear probe on the frozen features
of RUN (launch.probe) and the best classical baseline (launch.baseline), each chosen inside the same clips. The clips of a seed are the same
for all, and fewer are among more; all held-out clips are the test. Small trainings get more epochs, by --least_steps.

Writes study.json after every measurement, and study.png, into RUN/study/GIVEN; launch.report shows both. The same command resumes, and
other --labels, --seeds, --starts or --also are added. Processes that are started together train together, as in launch.finetune. Probe and
baseline need `pip install -e ".[baseline]"`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from absl import app, flags

from avmae_jax.config import Config
from avmae_jax.errors import AvmaeError
from avmae_jax.weights import places

from .common import cli, hosts_flags, model_flags, runtime, unused, views

if TYPE_CHECKING:
    from rich.table import Table

    from avmae_jax.train.study import Study

_MODES = {"both": "multimodal", "audio": "audioonly", "image": "videoonly"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")


def wanted(run: str) -> Study:
    """Returns what the options ask for; raises UsageError, or model_flags.USER_ERRORS."""
    from avmae_jax.evals.baselines.classifiers import scikit_learn
    from avmae_jax.train.study import BASELINE, PRETRAINED, PROBE, SCRATCH, Study

    args = flags.FLAGS
    starts, fixed = {SCRATCH: "", PRETRAINED: run}, (PROBE, BASELINE)
    for text in args.also:
        name, _, path = text.partition("=")
        if not _NAME.fullmatch(name) or not path:
            raise app.UsageError(f"--also is {text!r}; give NAME=PATH, a name of letters, digits, dot, plus and minus")
        if name in starts or name in fixed:
            raise app.UsageError(f"--also has the name {name!r} twice, or it is one of {', '.join((SCRATCH, PRETRAINED, *fixed))}")
        starts[name] = path
    chosen = views.chosen("starts", args.starts, [*starts, *fixed]) or [*starts, *fixed]
    if {*fixed} & {*chosen}:
        try:
            scikit_learn()
        except AvmaeError as error:
            raise AvmaeError(f"{error}; or leave them out with --starts={','.join(starts)}") from error
    labels = sorted({_count("labels", text) for text in args.labels})
    if not labels:
        raise app.UsageError("--labels is empty; give numbers of clips, such as 2,4,8")
    return Study(
        config=cli.config(required=False),
        starts={name: path for name, path in starts.items() if name in chosen},
        probed=run if PROBE in chosen else "",
        baseline=BASELINE in chosen,
        labels=labels,
        seeds=args.seeds,
        least_steps=args.least_steps,
        out=Path(args.out).expanduser() if args.out else places.results_folder(run, "study") / args.given,
    )


def _count(option: str, text: str) -> int:
    if not text.strip().isdecimal() or not int(text):
        raise app.UsageError(f"--{option} has {text!r}; give whole numbers of at least 1, such as 2,4,8")
    return int(text)


def table(content: dict[str, Any]) -> Table:
    """Tabulates mean and spread of each method."""
    from rich.table import Table

    from avmae_jax.evals.learning_curve import summary

    head, rows = summary(content)
    found = Table(*head, title="how many labels does it take?", caption="mean and standard deviation over the seeds")
    for row in rows:
        found.add_row(*row)
    return found


def main(argv: list[str]) -> None:
    """Studies RUN."""
    if len(argv) != 2:
        raise app.UsageError(f"give one RUN, a pretrained model; there are {len(argv) - 1}")
    args, run = flags.FLAGS, argv[1]
    config = cast(Config, args["config"].value)
    config.tune.mode, config.init_from = _MODES[args.given], run
    unused.require_used("study", argv)
    runtime.start()
    with hosts_flags.joined() as first, model_flags.one_line_errors():
        from avmae_jax.evals.learning_curve import PICTURE, STUDY
        from avmae_jax.train.study import study

        plan = wanted(run)
        with runtime.TrainingBar(100, shown=first).shown() as bar:
            content = study(plan, reporter=bar)
    if not first:
        return
    if content is None:
        print("stopped; the same command resumes")
        return
    console = runtime.console()
    console.print(table(content))
    console.print(f"{plan.out / STUDY}, {plan.out / PICTURE}", markup=False)


def define_flags() -> None:
    """Defines the options of this program."""
    cli.define_config(recipe="finetune_instruments")
    hosts_flags.define()
    flags.DEFINE_enum("given", "both", [*_MODES], "what is tuned and tested")
    flags.DEFINE_list("labels", ["2", "4", "8", "16", "24"], "numbers of labelled clips of each class; those of one video count as one")
    flags.DEFINE_integer("seeds", 3, "number of draws of clips, with a training each", lower_bound=1)
    flags.DEFINE_multi_string("also", [], "NAME=PATH: a further run or file of weights to start from; may be repeated")
    flags.DEFINE_multi_string("starts", [], "of scratch, pretrained, the names of --also, probe and baseline; all if left out")
    flags.DEFINE_integer("least_steps", 360, "lengthen the epochs of a training, so that it has so many steps", lower_bound=1)
    flags.DEFINE_string("out", "", "folder of the results; empty: RUN/study/GIVEN, or beside a file")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
