"""Writes the shards of a data set as an Apache Beam pipeline, on whatever machines its runner has.

A worker handles a shard as a local run does, down to the process of its own that keeps a codec's crash a failure of one file. Bytes and
failures are the same, and existing shards are skipped, so that a run begun on one machine continues on a cluster. The media and the data
set's folder must be on storage that all machines see under the same paths. Only names of files pass through Beam, each a list of the jobs
of one shard, because the lists of millions of clips don't fit into the description of a pipeline.
"""

import functools
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avmae_jax.data.store.job import Job
from avmae_jax.data.store.jobs import Make
from avmae_jax.data.store.plan import Shard
from avmae_jax.data.store.writer import Engine, count_done, write_shards
from avmae_jax.errors import DatasetError
from avmae_jax.files import OnProgress, write_text


def beam_engine(runner: Any, options: Any = ()) -> Engine:
    """Returns an engine for write_dataset that runs on Apache Beam.

    Args:
      runner: a runner, or the name of one: DirectRunner, FlinkRunner, SparkRunner, DataflowRunner, ...
      options: apache_beam's PipelineOptions, or what they are read from: ["--direct_num_workers=4", ...].

    Raises:
      DatasetError: if Apache Beam isn't installed, or has no such runner.
    """
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports] - an extra
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DatasetError(f"Apache Beam can't be imported ({error}); install it: pip install 'avmae-jax[beam]'") from error
    if not isinstance(options, PipelineOptions):
        options = PipelineOptions(list(options))
    try:
        pipeline = beam.Pipeline(runner, options)
    except ValueError as error:
        raise DatasetError(f"Apache Beam refuses the runner {runner!r}: {error}") from error
    return functools.partial(_run, pipeline)


def _run(pipeline: Any, shards: Sequence[Shard], make: Make, on_progress: OnProgress) -> None:
    import apache_beam as beam  # pyright: ignore[reportMissingImports]

    on_progress(*count_done(shards))
    lists = [_write_list(shard) for shard in shards if not shard.path.exists()]
    with pipeline:
        # Reshuffled, or a runner may keep all shards together with their creation, on one machine.
        _ = pipeline | "Shards" >> beam.Create(lists) | beam.Reshuffle() | "Write" >> beam.Map(_write_listed, make=make)
    lost = [shard.path for shard in shards if not shard.path.exists()]
    if lost:
        raise DatasetError(f"{lost[0]} and {len(lost) - 1} more shards aren't here though Beam is done; do its workers share this folder?")
    on_progress(*count_done(shards))


def _write_list(shard: Shard) -> str:
    """Writes a shard's description into a file beside its record and returns the file's path."""
    file = shard.record.resolve().with_suffix(".jobs")
    # ASCII, since names of files may have bytes that are no Unicode.
    write_text(file, json.dumps([shard.split, os.fspath(shard.path.resolve()), os.fspath(shard.record.resolve()), shard.jobs]))
    return os.fspath(file)


def _write_listed(file: str, *, make: Make) -> None:
    """Writes the shard that a file describes; runs in a worker of Beam."""
    split, path, record, jobs = json.loads(Path(file).read_text())
    shard = Shard(split, Path(path), Path(record), [Job(name, tuple(args)) for name, args in jobs])
    with tempfile.TemporaryDirectory() as spool:
        write_shards([shard], make, lambda *_: None, workers=1, spool=spool)
