"""Measures how well a model tells by how much audio and image are apart, and where the audio is seen.

    python -m launch.sync_check RUN

RUN is a run of launch.pretrain on the built-in set, whose generator knows the shift and the place of the instrument. New clips of it,
--seconds long, get audio that is shifted by up to 3 s, or the audio of another clip. On clips of the training split that the model wasn't
trained on, the program fits how certain an offset is; on held-out clips it measures offsets and places. It writes sync_check.json,
offset.json and match.png, a picture of one of these clips, into RUN/sync_check, where launch.predict --match_timeline, the page of
launch.demo and launch.report find them, or into --out. A second call replaces all.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import app, flags

from avmae_jax.weights import places

from .common import cli, kept_programs, model_flags, runtime


def main(argv: list[str]) -> None:
    """Checks one model."""
    if len(argv) != 2:
        raise app.UsageError("give one model, a run's folder or a file of weights")
    args = flags.FLAGS
    runtime.start()
    kept_programs.cache_programs()
    from avmae_jax.evals.sync_check import RESULT, Plan, check_sync_into
    from avmae_jax.inference.offset_files import CALIBRATION, FOLDER

    from .common import match_report

    console = runtime.console()
    with model_flags.one_line_errors():
        plan = Plan(args.seconds, args.rate, args.fit_clips, args.clips, args.pointing_clips, args.seed)
        trained = model_flags.load(argv[1])
        if model_flags.run_folder(argv[1]) is None:
            raise ValueError(f"{argv[1]} lies in no run; give the run of launch.pretrain, on whose built-in clips it is checked")
        data = model_flags.run_config(argv[1]).data
        out = Path(args.out).expanduser() if args.out else places.results_folder(argv[1], FOLDER)
        with runtime.progress_bar("checking") as on_progress:
            result = check_sync_into(out, trained, data, plan, on_progress)
        console.print(match_report.check_table(result))
        console.print(f"wrote {out / RESULT} and {out / CALIBRATION}", markup=False, soft_wrap=True)
    sys.exit(0)


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags(classes=False)
    flags.DEFINE_float("seconds", 30.0, "length of the clips whose offset is to be found", lower_bound=4)
    flags.DEFINE_float("rate", 8.0, "images a second", lower_bound=1)
    flags.DEFINE_integer(
        "fit_clips", 112, "clips of the training split, after those of training, that the calibration is fitted to", lower_bound=4
    )
    flags.DEFINE_integer("clips", 84, "held-out clips whose offset is to be found", lower_bound=2)
    flags.DEFINE_integer("pointing_clips", 84, "held-out clips in which the audio is to be found", lower_bound=2)
    flags.DEFINE_integer("seed", 0, "of the shifts", lower_bound=0)
    flags.DEFINE_string("out", "", "folder of the results; empty: RUN/sync_check")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
