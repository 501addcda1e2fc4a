"""Calibrates a classifier on held-out clips, so that its probabilities mean what they say.

    python -m launch.calibrate RUN [--data PREPARED] [--split test]

RUN is a run of launch.finetune, its best/, averaged/, ema/, or a file of weights. One temperature a mode, which the logits are divided by,
is fitted to the held-out clips of its run, or of --data, by the lowest log loss. Where clips have several classes (tune.loss=bce), each
class also gets the threshold of its best F1, from which on launch.predict names it; a class that no clip has gets the mean of the others'.

Prints the temperature, and the expected calibration error before and after. Writes calibration.json beside the steps of the weights (or
FILE_calibration.json); launch.predict, launch.evaluate and avmae_jax.load read it with them, launch.convert and Model.save keep it in
.safetensors files. What comes after is measured by cross-fitting: each clip with the calibration of others.

The clips that a calibration is fitted to, or that chose best/, are no fair measure of its loss: evaluate others where you have them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import app, flags, logging

from avmae_jax.files import write_json
from avmae_jax.weights import box, places

from .common import cli, kept_programs, model_flags, runtime, views


def fit_modes(path: str, given: list[str]) -> dict[str, Any]:
    """Fits the calibration of the chosen modes, and returns the content of calibration.json; raises model_flags.USER_ERRORS."""
    from avmae_jax.evals.calibration.calibrate import calibrate
    from avmae_jax.evals.origin import Origin
    from avmae_jax.evals.views import View, common_needs

    args, trained = flags.FLAGS, model_flags.load(path, calibrated=False)
    modes = views.modes_of(trained, given)
    source = model_flags.open_clips(path, common_needs(modes))
    if args.split == "train":
        logging.warning("training clips are known by heart: a calibration fitted to them makes the classifier too sure of others")
    crops = args.crops or views.crops_of_run(path)
    origin = Origin(model_flags.data_name(path), args.split)
    return calibrate(trained, source, [View(mode, crops=crops) for mode in modes], origin, args.batch_size)


def main(argv: list[str]) -> None:
    """Calibrates RUN."""
    if len(argv) != 2:
        raise app.UsageError(f"give one RUN, a classifier; there are {len(argv) - 1}")
    args, path = flags.FLAGS, argv[1]
    if box.is_boxed(path):
        raise app.UsageError(
            f"{path} is in the box, whose calibration is its own; calibrate a copy: launch.convert {path} mine.safetensors"
        )
    if places.is_id(path):
        raise app.UsageError(f"{path} is on a hub; calibrate a copy: launch.convert {path} mine --pretrained")
    given = views.chosen("given", args.given, model_flags.GIVEN)
    runtime.start()
    kept_programs.cache_programs()
    from avmae_jax.weights.calibration import file_beside

    from .common import tables

    with model_flags.one_line_errors():
        found = fit_modes(path, given)
        out = file_beside(Path(path).expanduser())
        write_json(out, found)
    console = runtime.console()
    console.print(tables.calibrations(found))
    for words in tables.calibration_notes(found):
        console.print(words, markup=False, highlight=False)
    console.print(f"calibration: {out}", markup=False)


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags()
    model_flags.define_data_flags()
    flags.DEFINE_multi_string("given", [], "both, audio or image: what the classifier is given; all that fit its training if left out")
    flags.DEFINE_alias("mode", "given")
    flags.DEFINE_integer("crops", 0, "crops of audio that is longer than the model's, averaged; 0: as the run evaluates", lower_bound=0)
    flags.DEFINE_integer("batch_size", 32, "rows computed at once", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
