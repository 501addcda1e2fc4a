"""Times the training step of a config on one batch that stays on the device, and its reader alone."""

import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.data.sources import open_source
from avmae_jax.models import registry
from avmae_jax.train import memory, run, sharding
from avmae_jax.train.allocator import give_back_freed_memory
from avmae_jax.train.fitting import fit_batch
from avmae_jax.train.loop import Trainer
from avmae_jax.train.precision import settle_precision

from .measuring import peak_memory, show, take_turns

_CLIPS = 64  # of the built-in set, enough for a step and for the reader
_READ = 16  # batches of a turn of the reader: more than it reads ahead


def measure(config: Config, steps: int) -> dict[str, float]:
    """Returns the figures of a config's pretraining step and of its reader, by name."""
    settle_precision(config, None)
    pairs = config.train.batch_size
    config.data.builtin_train, config.data.builtin_test = max(_CLIPS, pairs), 1
    train = open_source(config.data, "train", run.needs_of(config))
    task = run.make_task(config, train, None, Path(config.train.workdir))
    model = registry.build(config.model, len(task.label_names), rngs=nnx.Rngs(config.train.seed))
    trainer = Trainer(config, model, task, train, None, fit=fit_batch(config, task, len(train)))
    try:
        batch, key = sharding.put_batch(next(trainer.batches), trainer.mesh), jax.random.key(0)
        begin = time.perf_counter()
        lowered = trainer.jitted_step.lower(trainer.leaves, batch, key, np.int32(0))
        traced = time.perf_counter()
        step = lowered.compile()
        compiled = time.perf_counter()
        give_back_freed_memory()  # as training does

        def once() -> None:
            trainer.leaves, _ = jax.block_until_ready(step(trainer.leaves, batch, key, np.int32(0)))

        seconds = float(np.median(take_turns({"step": once}, steps)["step"].clock))
        peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")  # of an accelerator
        reading = take_turns({"reader": lambda: [next(trainer.batches) for _ in range(_READ)]}, steps)["reader"].clock
    finally:
        trainer.batches.close()
    formula, program = memory.step_flops(config) * pairs / 1e9, (step.cost_analysis() or {}).get("flops", np.nan) / 1e9
    return {
        "micro-batch": trainer.micro_batch,
        "trace s": traced - begin,
        "compile s": compiled - traced,
        "step s": seconds,
        "pairs/s": pairs / seconds,
        "GFLOP a step, by formula": formula,
        "GFLOP a step, as compiled": program,
        "GFLOP/s, by formula": formula / seconds,
        "GFLOP/s, as compiled": program / seconds,
        "peak memory GiB": peak / 2**30 if peak else peak_memory(),
        "reader alone, examples/s": _READ * pairs / float(np.median(reading)),
    }


def show_step(config: Config, steps: int) -> None:
    """Prints the figures of a config."""
    title = f"{config.name}, batch {config.train.batch_size}, {config.model.compute_dtype}"
    show(title, ["quantity", "value"], measure(config, steps).items(), f"medians of {steps} turns")
