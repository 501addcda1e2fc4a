"""Computes the log-mel statistics and the sampling weights of a prepared data set.

    python -m launch.data_statistics DATASET

Computes the mean and the standard deviation of the log-mel over the training clips and, if all of them have labels, a sampling weight for
each clip, so that rare classes are drawn more often. Both are stored with the data set, in statistics.json and weights-train.npy.
--config.augment.balanced uses the weights. Mean and deviation are used where the config leaves data.audio_mean and audio_std open.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import app, flags

from avmae_jax.errors import AvmaeError
from avmae_jax.files import write_bytes, write_json

from .common import cli, runtime

if TYPE_CHECKING:
    from avmae_jax.data.clip import Clip
    from avmae_jax.data.store.reader import PreparedSource


def sample(source: PreparedSource, limit: int) -> list[int]:
    """Returns the indices of `limit` clips, spread evenly over the set; of all clips if it is 0."""
    return list(range(len(source)))[:: max(1, len(source) // limit)][:limit] if limit else list(range(len(source)))


def write_statistics(folder: Path, limit: int) -> dict[str, float]:
    """Computes mean and deviation over `limit` training clips, or all if it is 0, and stores them.

    Raises:
      DatasetError, CorruptRecordError: if the training split can't be read, or has no audio.
    """
    from avmae_jax.data.statistics import STATISTICS, audio_statistics
    from avmae_jax.data.store.reader import PreparedSource

    source = PreparedSource(folder, "train", "audio")
    chosen = sample(source, limit)
    with runtime.progress_bar("reading") as on_progress:

        def clips() -> Iterator[Clip]:
            for number, index in enumerate(chosen, start=1):
                yield source[index]
                on_progress(number, 0, len(chosen))

        found = audio_statistics(clips())
    content = {
        "audio_mean": round(found.mean, 4),
        "audio_std": round(found.std, 4),
        "clips": found.clips,
        "seconds": round(found.seconds, 1),
    }
    write_json(folder / STATISTICS, content)
    return content


def write_weights(folder: Path) -> Path | None:
    """Computes and stores the sampling weights of all training clips; returns their file, or None if some clips have no label."""
    from avmae_jax.data.augment import balanced_weights
    from avmae_jax.data.store.reader import PreparedSource
    from avmae_jax.data.store.records import weights_file

    index = PreparedSource(folder, "train", "any").index
    labels = [index.labels_of(row).tolist() for row in range(len(index.id))]
    if not all(map(len, labels)):
        return None
    out = folder / weights_file("train")
    content = io.BytesIO()
    np.save(content, balanced_weights(labels, int(index.labels.max()) + 1))
    write_bytes(out, content.getvalue())
    return out


def main(argv: list[str]) -> None:
    """Stores and prints the statistics of one data set."""
    if len(argv) != 2:
        raise app.UsageError("give one data set, the folder that launch.prepare wrote")
    runtime.start()
    folder = Path(argv[1]).expanduser()
    try:
        found = write_statistics(folder, flags.FLAGS.clips)
        weights = write_weights(folder)
    except (AvmaeError, ValueError) as error:
        sys.exit(f"{folder}: {error}" if isinstance(error, ValueError) else str(error))
    print(f"{found['clips']} clips, {found['seconds'] / 3600:.2f} h of audio; train with")
    print(f"  --config.data.audio_mean={found['audio_mean']} --config.data.audio_std={found['audio_std']}")
    print(f"weights: {weights}" if weights else "no weights: some clips have no label")


def define_flags() -> None:
    """Defines the options of this program."""
    flags.DEFINE_integer("clips", 0, "clips to read, spread evenly over the set; 0: all", lower_bound=0)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
