"""Plans a run on GPUs without having one: whether it fits, how long it takes, what it needs.

    python -m launch.plan --config configs/base.py --gpu h100 [--devices=8] [--hosts=2] [--clips=N] [--config.train.batch_size=256 ...]

This compiles the training step of launch.pretrain or launch.finetune for these GPUs, on the CPU, and reads the compiled program. It needs
JAX's CUDA wheels, `pip install -e ".[cuda13]"` or ".[cuda12]", and a minute or more for each compilation of the base model. A batch that
doesn't fit is compiled again with model.remat, then in parts. Nothing runs: memory is what the compiler says, and a step's seconds are
bounds. --config and its fields are those of the run; --clips and --classes stand for a data set that isn't here yet.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, cast

from absl import app, flags

from avmae_jax.config import Config
from avmae_jax.files import write_json
from avmae_jax.xla_flags import add, missing_exclusion

from .common import cli, model_flags, runtime, unused
from .common.plan_tables import show_plan

_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_DEFAULT = 0.75  # JAX's
_KINDS = "h100, h200, a100-40 or a100-80"  # those of avmae_jax/planning/gpus.py


def main(argv: list[str]) -> None:
    """Prints the plan of --config."""
    args = flags.FLAGS
    cli.no_arguments(argv)
    if not args.gpu:
        raise app.UsageError(f"give --gpu, {_KINDS}")
    file = Path(args.json).expanduser() if args.json not in ("", "-") else None
    if file and (file.is_dir() or not file.parent.is_dir()):
        raise app.UsageError(f"--json {file}: it must be a file in a folder that exists")
    runtime.start()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA reports a compilation of minutes as an error
    with model_flags.one_line_errors():
        import jax

        jax.config.update("jax_platforms", "cpu")  # a GPU that is there is left alone
        plan = _plan(args)
        if file:
            write_json(file, plan)
    if args.json == "-":
        print(json.dumps(plan, indent=1))
    show_plan(runtime.console(sys.stderr if args.json == "-" else sys.stdout), plan)


def _plan(args: flags.FlagValues) -> dict[str, Any]:
    from avmae_jax.models.registry import kind_of
    from avmae_jax.planning.clips import assume_clips
    from avmae_jax.planning.plan import Machine, make_plan

    if not args["config"].using_default_value:
        assume_clips(cast(Config, args["config"].value), args.clips)
    config = cli.config(reads=False)
    pretrains = kind_of(config.model).task == "pretraining"
    unused.require_used_fields("pretrain" if pretrains else "finetune")
    if pretrains:
        unused.require_left_out(["classes"], "in pretraining, which needs no labels")
    if config.train.deterministic:
        add(*missing_exclusion())  # as training does before JAX starts
    machine = Machine(args.gpu, args.devices, args.hosts, _share(args.memory_share))
    return make_plan(config, machine, args.clips, args.classes)


def define_flags() -> None:
    """Defines the program's flags."""
    cli.define_config()
    flags.DEFINE_string("gpu", "", f"kind of GPU: {_KINDS}")
    flags.DEFINE_integer("devices", 1, "GPUs of all hosts together", lower_bound=1)
    flags.DEFINE_integer("hosts", 1, "machines among which the GPUs are divided evenly", lower_bound=1)
    flags.DEFINE_integer("clips", 0, "training clips; 0: those of the config's data set", lower_bound=0)
    flags.DEFINE_integer("classes", 0, "of a classifier; 0: those of the config's data set", lower_bound=0)
    text = f"share of a GPU's memory that JAX takes; left out: ${_FRACTION}, or {_DEFAULT}"
    flags.DEFINE_float("memory_share", None, text, lower_bound=0.01, upper_bound=1.0)
    flags.DEFINE_string("json", "", "file for the plan; -: the standard output")


def _share(given: float | None) -> float:
    """Returns the given share, or that which JAX would take with the environment of this process; raises UsageError for no share."""
    name, text = ("--memory_share", str(given)) if given is not None else (_FRACTION, os.environ.get(_FRACTION, ""))
    try:
        share = float(text or _DEFAULT)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise app.UsageError(f"{name} is {text!r}; give a share above 0 and up to 1, or --memory_share")
    return share


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
