"""Adds generated clips of a data set's own classes to its training part: those that the built-in set can play."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

from avmae_jax.data.catalog.recipe import Recipe
from avmae_jax.data.clip import Clip
from avmae_jax.data.instruments import INSTRUMENTS, make_clip
from avmae_jax.data.instruments.builtin_set import GENERATOR_VERSION
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.jobs import Make
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.errors import DatasetError

_PREFIX = "generated/"  # of the ids
_SEED = 0  # no default of the built-in set, whose clips remain unseen


def add_generated(spec: DatasetSpec, per_class: int, recipe: Recipe) -> DatasetSpec:
    """Adds generated clips to the training part of a data set.

    Args:
      spec: of the data set; its classes are compared with the built-in set's without case and plural: drums and Drum are one.
      per_class: number of clips for each class that the built-in set has too.
      recipe: of the other clips, whose length, image size and number of frames the generated ones get.

    Raises:
      DatasetError: if no class can be generated.
    """
    own = {_plain(name): number for number, name in enumerate(spec.label_names)}
    found = {number: own[_plain(name)] for number, name in enumerate(INSTRUMENTS) if _plain(name) in own}
    if not found:
        raise DatasetError(f"--generated does nothing: the data set has none of the classes {', '.join(INSTRUMENTS)}; leave it out")
    added = [
        Job(f"{_PREFIX}{spec.label_names[label]}-{turn:05d}", (turn * len(INSTRUMENTS) + number, label))
        for turn in range(per_class)
        for number, label in found.items()
    ]
    jobs = {**spec.jobs, "train": [*spec.jobs.get("train", ()), *added]}
    make = functools.partial(_make, others=spec.make, generated=frozenset(job.id for job in added), recipe=recipe)
    settings = {**spec.settings, "generated": per_class, "generator": GENERATOR_VERSION}
    return dataclasses.replace(spec, jobs=jobs, make=make, settings=settings)


def count_generated(ids: Iterable[str]) -> int:
    """Counts the ids of generated clips; those of files end in a suffix."""
    return sum(clip_id.startswith(_PREFIX) and not Path(clip_id).suffix for clip_id in ids)


def _plain(name: str) -> str:
    return name.strip().casefold().removesuffix("s")


def _make(job: Job, *, others: Make, generated: frozenset[str], recipe: Recipe) -> Iterable[Clip]:
    return _generate(job, recipe) if job.id in generated else others(job)


def _generate(job: Job, recipe: Recipe) -> Iterator[Clip]:
    index, label = job.args
    clip = make_clip("train", index, seed=_SEED, seconds=recipe.clip_seconds, image_size=recipe.frame_size, frames=recipe.frames)
    yield clip._replace(id=job.id, labels=(label,))
