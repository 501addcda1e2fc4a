"""Measures a config: `python -m launch.benchmark --config configs/base.py --config.train.batch_size=4`.

This times the training step and its compilation, the memory, and the reader alone, on a few clips of the built-in set. In its place:

  --against torch   JAX and the PyTorch reference in turns: pretraining, fine-tuning and feature extraction. The models are base and small
                    at a batch of 4, or that of --config. Needs `pip install -e ".[parity]"`.
  --data loader     the reader and a PyTorch loader in turns, on clips of --config or of the built-in set. Needs the same.
  --data prepare    launch.prepare on --media FILE
  --data scale      reading 100,000 made-up examples
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from avmae_jax.config import Config, ModelConfig, TrainConfig
from launch.benchmarks import against_torch, data, scale, step
from launch.common import model_flags, runtime

_COMPARED = [Config(name=size, model=ModelConfig(size=size), train=TrainConfig(batch_size=4)) for size in ("base", "small")]


def main(argv: list[str]) -> None:
    """Prints the table that the flags choose."""
    args = flags.FLAGS
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    if not (args.config or args.against or args.data):
        raise app.UsageError("give --config FILE, --against torch or --data")
    if (args.data == "prepare") != bool(args.media):
        raise app.UsageError("--data prepare and --media FILE need each other")
    runtime.start()
    logging.info("%s", runtime.device_line())
    config: Config = args.config or Config()
    try:
        config.model.validate()
        config.augment.validate()
        if args.data == "scale":
            scale.show_scale(config.data)
        elif args.data == "prepare":
            data.show_preparing(Path(args.media), args.steps)
        elif args.data == "loader":
            data.show_loaders(config, args.steps)
        elif args.against:
            against_torch.show_comparison([config] if args.config else _COMPARED, args.steps)
        else:
            step.show_step(config, args.steps)
    except ImportError as error:
        sys.exit(f'{error.name} is not installed, which the comparison with PyTorch needs; pip install -e ".[parity]"')
    except model_flags.USER_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")


def define_flags() -> None:
    """Defines the program's flags."""
    config_flags.DEFINE_config_file("config", None, "a file of configs/", lock_config=True)
    flags.DEFINE_enum("against", None, ["torch"], "compare JAX with the reference in PyTorch")
    flags.DEFINE_enum("data", None, ["loader", "prepare", "scale"], "measure data in place of a model")
    flags.DEFINE_string("media", None, "--data prepare: a media file with a constant frame rate")
    flags.DEFINE_integer("steps", 5, "timed turns of each side", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=runtime.parse_flags)
