"""Makes the model in the box anew: the classifier of 12 instruments that is installed with the package.

    python -m launch.box --videos instruments12 --out avmae_jax/weights/boxed

DIR of --videos holds the clips, CLASS/ANY.mp4; --test_pattern says which are held out. Everything is trained twice from random weights, by
configs/pretrain_instruments.py and configs/finetune_instruments.py, with --generated clips of each class of the built-in set beside the
training clips: first without the clips that are held out, which measure the figures and the calibration, and then on all clips, which gives
the model. It takes about an hour on two CPU cores. The same command resumes it, and it gives the same bytes on the same machine.

OUT gets NAME.safetensors, in float16, NAME.json with the figures, and NAME.md, the card.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from avmae_jax import config_files
from avmae_jax.files import write_json, write_text

from .common import cli, kept_programs, model_flags, runtime

if TYPE_CHECKING:
    from avmae_jax.config import Config
    from avmae_jax.weights.box import Card, Figures
    from avmae_jax.weights.calibration import Calibration


ABOUT = (
    "The images are photographs, slowly panned, and the audio is of melodies and phrases that sampled instruments play. "
    "Audio and image of a clip share the class, not the moment."
)


def prepare(folder: Path, test_pattern: str) -> None:
    """Prepares the clips with generated ones beside them, and computes the statistics of their log-mel."""
    from avmae_jax.data.catalog.generated import add_generated
    from avmae_jax.data.catalog.named_sets import Choice, list_clips
    from avmae_jax.data.catalog.recipe import Recipe, spec_of
    from avmae_jax.data.statistics import write_statistics
    from avmae_jax.data.store.writer import write_dataset

    root, recipe = Path(flags.FLAGS.videos).resolve(), Recipe()
    choice = Choice(test_pattern=test_pattern) if test_pattern else Choice(test_percent=0)
    spec = add_generated(spec_of(list_clips(choice, root), root, recipe)[0], flags.FLAGS.generated, recipe)
    if failures := write_dataset(folder, spec).failures:
        sys.exit(f"{failures[0].file} {failures[0].reason}; the model is trained on all clips or not at all")
    with runtime.progress_bar("reading") as on_progress:
        write_statistics(folder, 0, on_progress)


def train(folder: Path, test_pattern: str) -> tuple[Config, str]:
    """Prepares, pretrains and fine-tunes in a folder; returns the config of fine-tuning and the path of the averaged weights."""
    from avmae_jax.train.run import finetune, pretrain

    prepare(folder / "prepared", test_pattern)
    init_from = ""
    for stage, run in (("pretrain", pretrain), ("finetune", finetune)):
        config = config_files.load(str(flags.FLAGS[f"{stage}_config"].value))
        config.data.source, config.data.path = "prepared", str(folder / "prepared")
        config.data.audio_mean = config.data.audio_std = None  # as statistics.json of these clips says
        config.train.workdir, config.init_from = str(folder / stage), init_from
        with runtime.TrainingBar(config.train.log_every).shown() as bar:
            if run(config, reporter=bar) is None:
                sys.exit(f"stopped; the same command continues in {folder}")
        init_from = config.train.workdir
    return config, f"{folder}/finetune/averaged"


def measure(folder: Path, config: Config, path: str) -> tuple[dict[str, Figures], Calibration]:
    """Evaluates and calibrates the classifier on the held-out clips; returns its figures by what it is given, and its calibration."""
    from avmae_jax.data.sources import open_source
    from avmae_jax.evals.calibration.calibrate import calibrate
    from avmae_jax.evals.classification import evaluate_views
    from avmae_jax.evals.views import View
    from avmae_jax.weights.box import Figures
    from avmae_jax.weights.calibration import from_json
    from avmae_jax.weights.trained import load_uncalibrated

    trained, source = load_uncalibrated(path), open_source(config.data, "test")
    views = [View(mode, crops=config.tune.eval_crops) for mode in trained.spec.modes]
    found = evaluate_views(folder / "evaluation", trained, source, views)
    names = [field.name for field in dataclasses.fields(Figures)]
    figures = {mode.given: Figures(**{name: row[name] for name in names}) for mode, row in zip(trained.spec.modes, found, strict=True)}
    return figures, from_json(calibrate(trained, source, views), trained.classes)


def write(out: Path, path: str, calibration: Calibration, card: Card) -> None:
    """Writes the weights at a path in float16, with the calibration of the model that was measured, and the card."""
    from avmae_jax.weights import io
    from avmae_jax.weights.calibration import fingerprint

    found = io.read_uncalibrated(path)
    moved = dataclasses.replace(calibration, weights=fingerprint(found.params))
    fresh = out / f".{card.name}.safetensors"  # the model of before stays until there is another
    out.mkdir(parents=True, exist_ok=True)
    io.write(found._replace(notes=dataclasses.replace(found.notes, calibration=moved)), fresh, half=True)
    fresh.replace(out / f"{card.name}.safetensors")
    write_json(out / f"{card.name}.json", dataclasses.asdict(card))
    write_text(out / f"{card.name}.md", card.text(sum(tensor.size for tensor in found.params.values())))


def main(argv: list[str]) -> None:
    """Trains on --videos, and writes the model into --out."""
    cli.no_arguments(argv)
    args = flags.FLAGS
    runtime.start()
    kept_programs.cache_programs()
    with model_flags.one_line_errors():
        from avmae_jax.data.catalog.generated import count_generated
        from avmae_jax.data.sources import open_source
        from avmae_jax.data.store.reader import ids_of
        from avmae_jax.weights.box import Card

        work = Path(args.workdir).expanduser()
        config, path = train(work / "measured", args.test_pattern)
        figures, calibration = measure(work / "measured", config, path)
        held_out = len(open_source(config.data, "test"))
        config, path = train(work / "shipped", "")
        source = open_source(config.data, "train")
        generated = count_generated(ids_of(source))
        counts = {"clips": len(source) - generated, "generated": generated, "held_out": held_out}
        card = Card(args.name, config.model.kind, tuple(source.label_names), **counts, figures=figures, about=args.about)
        write(Path(args.out).expanduser(), path, calibration, card)
    print(card.line)
    print(f"wrote {args.out}/{args.name}.safetensors, .json and .md")


def define_flags() -> None:
    """Defines the options of this program."""
    flags.DEFINE_string("videos", None, "folder of the clips, CLASS/ANY.mp4; required", required=True)
    flags.DEFINE_string("out", None, "folder for the model and its card; required", required=True)
    flags.DEFINE_string("workdir", "runs/box", "folder for what is prepared and trained")
    flags.DEFINE_string("name", "instruments12", "name of the model")
    flags.DEFINE_string("about", ABOUT, "what the card says of the clips")
    flags.DEFINE_string("test_pattern", r"_02[4-9]\.", "hold out the clips whose path matches this regular expression while measuring")
    flags.DEFINE_integer("generated", 10, "generated clips for each class that the built-in set has too", lower_bound=1)
    flags.DEFINE_string("pretrain_config", "pretrain_instruments", "recipe of pretraining")
    flags.DEFINE_string("finetune_config", "finetune_instruments", "recipe of fine-tuning; it must average weights")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
