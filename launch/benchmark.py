"""Measures a config: `python -m launch.benchmark --config configs/base.py --config.train.batch_size=4`.

Times the training step on one batch that stays on the device, and the reader by itself. The built-in set is cut to a few clips, which is
enough for both. Medians over --steps steps; peak memory is that of the accelerator, or of this whole process on a CPU.

`python -m launch.benchmark --against torch` times JAX and the PyTorch reference in turns, at pretraining, fine-tuning and feature
extraction; the models are base and small at a batch of 4, or that of --config. It needs `pip install -e ".[parity]"`.

`--data loader` holds the reader against the PyTorch one, on the clips of --config or the built-in set; it needs the same. `--data prepare
--media FILE` times launch.prepare on a media file, and `--data scale` reads 100,000 made-up examples.
"""

import itertools
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags
from rich.console import Console
from rich.table import Table

from avmae_jax.config import Config, ModelConfig, TrainConfig
from avmae_jax.errors import ClipError, DatasetError
from avmae_jax.train import memory
from avmae_jax.train.loop import Trainer, put_on_devices
from avmae_jax.train.pretraining import make_model, make_task

from .benchmarks import data, scale
from .common import cli, runtime
from .common.training import open_sources, pick_micro_batch

_BUILTIN_CLIPS = 64
_READER_SECONDS = 5.0
_COMPARED_SIZES, _COMPARED_BATCH = ("base", "small"), 4  # what PyTorch is held against where there is no --config
_MANY = 100_000  # examples of --data scale


def measure_step(trainer: Trainer, steps: int) -> dict[str, float]:
    """Compile time, time of a step, arithmetic and memory of the training step."""
    batch, key = put_on_devices(next(trainer.batches), trainer.mesh), jax.random.key(0)
    begin = time.perf_counter()
    lowered = trainer.jitted_step.lower(trainer.state, batch, key)
    traced = time.perf_counter()
    compiled = lowered.compile()
    ready = time.perf_counter()
    cost, allocated = compiled.cost_analysis(), compiled.memory_analysis()
    seconds = []
    state = trainer.state
    for _ in range(steps + 1):  # the first one fills caches and is not counted
        start = time.perf_counter()
        state, metrics = compiled(state, batch, key)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    trainer.state = state
    median, pairs = statistics.median(seconds[1:]), trainer.config.train.batch_size
    own = memory.step_flops(trainer.config.model) * pairs
    return {
        "trace s": traced - begin,
        "compile s": ready - traced,
        "step s (median)": median,
        "step s (fastest)": min(seconds[1:]),
        "pairs/s": pairs / median,
        "GFLOP a step, program": cost.get("flops", float("nan")) / 1e9 if cost else float("nan"),
        "GFLOP a step, formula": own / 1e9,
        "GFLOP/s, program": cost.get("flops", float("nan")) / median / 1e9 if cost else float("nan"),
        "GFLOP/s, formula": own / median / 1e9,
        "program's own memory GiB": allocated.temp_size_in_bytes / 2**30 if allocated else float("nan"),
        "peak memory GiB": peak_memory() / 2**30,
    }


def measure_reader(trainer: Trainer) -> dict[str, float]:
    """Examples a second that the reader gives when nobody else works."""
    begin, count = time.perf_counter(), 0
    cpu = time.process_time()
    for batch in itertools.islice(trainer.batches, 10_000):
        count += len(batch["id"])
        if time.perf_counter() - begin > _READER_SECONDS:
            break
    return {
        "reader examples/s": count / (time.perf_counter() - begin),
        "reader examples per CPU second": count / (time.process_time() - cpu),
    }


def peak_memory() -> float:
    """Bytes: the most that the first device has held, or this process on a CPU."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def benchmark(config: Config, steps: int) -> dict[str, float]:
    """All figures of a config, by name."""
    config.data.builtin_train, config.data.builtin_test = max(_BUILTIN_CLIPS, config.train.batch_size), 1
    task, make = make_task(config, None, Path(config.train.workdir)), partial(make_model, config.model, config.train.seed)
    micro_batch = pick_micro_batch(config, make, task.trainable())
    train, _ = open_sources(config, task.needs)
    trainer = Trainer(config, make(), task, train, None, micro_batch=micro_batch)
    try:
        return {"micro-batch": micro_batch, **measure_step(trainer, steps), **measure_reader(trainer)}
    finally:
        trainer.batches.close()


def against_torch(configs: Sequence[Config], steps: int) -> None:
    """Prints how JAX and the PyTorch reference do at the same jobs.

    Raises:
      ValueError: if a config's sizes don't fit each other.
    """
    from parity import speed  # the only program that looks into parity/, and only if asked to

    try:
        speed.require_torch()
        results = []
        for config, job in itertools.product(configs, speed.JOBS):
            logging.info("%s, %s, batch %d", speed.JOBS[job], config.name, config.train.batch_size)
            results.append(speed.measure(config, job, steps))
    except speed.ComparisonError as error:
        sys.exit(str(error))
    console = Console(width=140)
    console.print(speed.table(results), *speed.notes(results, steps), sep="\n")


def measure_data(what: str, config: Config, media: str | None, rounds: int) -> None:
    """Prints a table of --data.

    Raises:
      ValueError, DatasetError, ClipError: if the clips or the media file can't be read.
    """
    if what == "scale":
        scale.show(_MANY, config.data)
    elif what == "prepare":
        data.show_preparing(Path(media or ""), rounds)
    else:
        try:
            data.show_loaders(config, rounds)
        except data.ModuleMissingError as error:
            sys.exit(str(error))


def measure(config: Config, steps: int) -> None:
    """Prints the figures of a config."""
    figures = benchmark(config, steps)
    table = Table("quantity", "value", title=f"{config.name}, batch {config.train.batch_size}, {config.model.compute_dtype}")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)


def main(argv: list[str]) -> None:
    """Prints the table of --config, of the comparison, or of --data."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    sizes = [Config(name=size, model=ModelConfig(size=size), train=TrainConfig(batch_size=_COMPARED_BATCH)) for size in _COMPARED_SIZES]
    configs: list[Config] = [_CONFIG.value] if _CONFIG.value else sizes
    runtime.start()
    try:
        if _DATA.value:
            config = _CONFIG.value or Config()
            config.train.batch_size = _BATCH.value or config.train.batch_size
            return measure_data(_DATA.value, config, _MEDIA.value, _STEPS.value)
        for config in configs:
            config.model.validate()
            config.augment.validate()
            config.train.batch_size = _BATCH.value or config.train.batch_size
            logging.info("%s on %s", config.name, runtime.device_line())
        against_torch(configs, _STEPS.value) if _AGAINST.value else measure(configs[0], _STEPS.value)
    except (ValueError, DatasetError, ClipError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/", lock_config=True)
    _AGAINST = flags.DEFINE_enum("against", None, ["torch"], "what JAX is compared with: the reference in PyTorch")
    _BATCH = flags.DEFINE_integer("batch", None, "pairs a step, in place of config.train.batch_size", lower_bound=1)
    _DATA = flags.DEFINE_enum("data", None, ["loader", "prepare", "scale"], "what to measure of the data's way, in place of the model")
    _MEDIA = flags.DEFINE_string("media", None, "--data prepare: a media file with a constant frame rate")
    _STEPS = flags.DEFINE_integer("steps", 5, "steps that are timed, or turns of each side", lower_bound=1)
    flags.register_multi_flags_validator(
        ["config", "against", "data"], lambda given: any(given.values()), "give --config FILE, --against torch, or both; or --data"
    )
    flags.register_multi_flags_validator(
        ["data", "media"],
        lambda given: (given["data"] == "prepare") == bool(given["media"]),
        "--data prepare and --media FILE need each other",
    )
    app.run(main, flags_parser=cli.parse)
