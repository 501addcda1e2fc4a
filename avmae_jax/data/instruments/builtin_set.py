"""Describes the built-in set: which clips of made-up instruments it holds, and how one is made."""

import functools
from collections.abc import Iterator
from typing import Any

from avmae_jax.config import DataConfig
from avmae_jax.data.clip import Clip
from avmae_jax.data.instruments import FRAMES, INSTRUMENTS, make_clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec

GENERATOR_VERSION = 2  # raise when instruments.make_clip gives other clips for the same arguments


def builtin_spec(config: DataConfig) -> DatasetSpec:
    """Returns what the built-in set holds."""
    counts = {"train": config.builtin_train, "test": config.builtin_test}
    size, frames = config.builtin_image_size, config.builtin_frames
    make = functools.partial(_make_builtin, seed=config.builtin_seed, seconds=config.builtin_seconds, image_size=size, frames=frames)
    settings = {field: getattr(config, field) for field in vars(config) if field.startswith("builtin_")}
    if config.builtin_frames == FRAMES:
        del settings["builtin_frames"]  # sets from before there was a choice are the same
    jobs = {split: [Job(f"{split}/{index:06d}", (split, index)) for index in range(count)] for split, count in counts.items()}
    settings["generator"] = GENERATOR_VERSION
    return DatasetSpec("instruments", jobs, make, INSTRUMENTS, settings, shard_size=100)


def _make_builtin(job: Job, **options: Any) -> Iterator[Clip]:
    split, index = job.args
    yield make_clip(split, index, **options)
