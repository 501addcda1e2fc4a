"""Measures the speed and the memory of training, and of reading and preparing data.

    python -m launch.benchmark --config configs/base.py --config.train.batch_size=4

This times the training step and its compilation, the memory, and the reader alone, on a few clips of the built-in set. In its place:

  --against torch   JAX and the PyTorch reference in turns: pretraining, fine-tuning and feature extraction. The models are base and small
                    at a batch of 4, or that of --config. Needs `pip install -e ".[parity]"`.
  --data loader     the reader and a PyTorch loader in turns, on clips of --config or of the built-in set. Needs the same.
  --data prepare    launch.prepare on --media FILE
  --data scale      reading 100,000 made-up examples
  --export CLIP     exported programs, JAX and PyTorch in turns: seconds from the start of a process to the answer for the media file CLIP,
                    and windows/s afterwards. The model is base at a batch of 4, or that of --config. Needs `.[export,parity]`.
  --gpu-report FILE everything that is promised of a GPU, in at most --minutes: parity with the CPU, speed and memory with the batches of
                    --batches, PyTorch's speed beside it, waiting for data, where the time goes, and bit-identical repetition; into a JSON
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from avmae_jax.config import Config, ModelConfig, TrainConfig

from .common import cli, model_flags, runtime, unused

_COMPARED = [Config(name=size, model=ModelConfig(size=size), train=TrainConfig(batch_size=4)) for size in ("base", "small")]


def main(argv: list[str]) -> None:
    """Prints the table that the flags choose."""
    args = flags.FLAGS
    cli.no_arguments(argv)
    chosen = not flags.FLAGS["config"].using_default_value
    if not (chosen or args.against or args.data or args.export or args.gpu_report):
        raise app.UsageError("give --config FILE, --against torch, --data, --export CLIP or --gpu-report FILE")
    if (args.data == "prepare") != bool(args.media):
        raise app.UsageError("--data prepare and --media FILE need each other")
    unused.require_used("benchmark", argv)
    runtime.start()
    if args.gpu_report:  # whose parts have a process each, so that this one leaves the device to them
        from .benchmarks import gpu_report

        path, batches = Path(args.gpu_report).expanduser(), _sizes(args.batches)
        if path.is_dir() or not path.parent.is_dir():
            raise app.UsageError(f"--gpu_report {path}: it must be a file in a folder that exists")
        with model_flags.one_line_errors():
            unused.require_used_fields("gpu_report")
            gpu_report.show_report(cli.config() if chosen else Config(), batches, args.minutes, path)
        return
    from avmae_jax.train.run import device_line

    from .benchmarks import against_torch, data, scale, step

    logging.info("%s", device_line())
    try:
        config = cli.config(reads=not args.export) if chosen else Config()
        if args.data == "scale":
            scale.show_scale(config.data)
        elif args.data == "prepare":
            data.show_preparing(Path(args.media), args.steps)
        elif args.data == "loader":
            data.show_loaders(config, args.steps)
        elif args.export:
            from .benchmarks import export

            export.show_export(config if chosen else _COMPARED[0], Path(args.export), args.steps)
        elif args.against:
            against_torch.show_comparison([config] if chosen else _COMPARED, args.steps)
        else:
            step.show_step(config, args.steps)
    except ImportError as error:
        sys.exit(f'{error.name} is not installed, which the comparison needs; pip install -e ".[export,parity]"')
    except model_flags.USER_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _sizes(given: list[str]) -> list[int]:
    """Reads --batches, in increasing order."""
    if not given or any(not text.isdecimal() or int(text) < 1 for text in given):
        raise app.UsageError(f"--batches is {','.join(given)!r}; give positive numbers of pairs, such as 48,108,256")
    return sorted({int(text) for text in given})


def define_flags() -> None:
    """Defines the program's flags."""
    cli.define_config()
    flags.DEFINE_enum("against", None, ["torch"], "compare JAX with the reference in PyTorch")
    flags.DEFINE_enum("data", None, ["loader", "prepare", "scale"], "measure data in place of a model")
    flags.DEFINE_string("media", None, "--data prepare: a media file with a constant frame rate")
    flags.DEFINE_string("export", None, "a media file that exported programs, JAX and PyTorch answer for")
    flags.DEFINE_string("gpu_report", None, "the JSON file of the report")
    flags.DEFINE_alias("gpu-report", "gpu_report")
    flags.DEFINE_list("batches", ["48", "108", "256"], "--gpu-report: pairs a step")
    flags.DEFINE_float("minutes", 8.0, "--gpu-report: after which the report ends with what it has", lower_bound=0.1)
    flags.DEFINE_integer("steps", 5, "timed turns of each side", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
