"""Computes what training needs to know of a prepared data set: `python -m launch.data_statistics DATASET`.

Computes mean and deviation of the log-mel over the training clips, and, where all of them have labels, how often each is to be drawn so
that rare classes are seen more often. They are stored with the data set, in statistics.json and weights-train.npy; the weights are used by
--config.augment.balanced, mean and deviation where the printed flags are given.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import app, flags

from avmae_jax.data.augment import balanced_weights
from avmae_jax.data.clip import Clip
from avmae_jax.data.statistics import STATISTICS, audio_statistics
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.data.store.records import weights_file
from avmae_jax.errors import AvmaeError
from avmae_jax.files import write_bytes, write_json
from launch.common import runtime


def sample(source: PreparedSource, limit: int) -> list[int]:
    """Returns the indices of the clips that are read, spread evenly; 0: all."""
    return list(range(len(source)))[:: max(1, len(source) // limit)][:limit] if limit else list(range(len(source)))


def write_statistics(folder: Path, limit: int) -> dict[str, float]:
    """Computes and stores mean and deviation of the log-mel.

    Raises:
      DatasetError, CorruptRecordError, ValueError: if the training split can't be read, or has no audio.
    """
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


def write_weights(folder: Path) -> bool:
    """Computes and stores the sampling weights of all training clips; False if some have no label."""
    index = PreparedSource(folder, "train", "any").index
    labels = [index.labels_of(row).tolist() for row in range(len(index.id))]
    if not all(map(len, labels)):
        return False
    content = io.BytesIO()
    np.save(content, balanced_weights(labels, int(index.labels.max()) + 1))
    write_bytes(folder / weights_file("train"), content.getvalue())
    return True


def main(argv: list[str]) -> None:
    """Prints what it stores."""
    if len(argv) != 2:
        raise app.UsageError("give one data set, the folder that launch.prepare wrote")
    runtime.start()
    folder = Path(argv[1]).expanduser()
    try:
        found = write_statistics(folder, flags.FLAGS.clips)
        weighted = write_weights(folder)
    except (AvmaeError, ValueError) as error:
        sys.exit(f"{folder}: {error}" if isinstance(error, ValueError) else str(error))
    print(f"{found['clips']} clips, {found['seconds'] / 3600:.2f} h of audio; train with")
    print(f"  --config.data.audio_mean={found['audio_mean']} --config.data.audio_std={found['audio_std']}")
    print(f"weights: {folder / weights_file('train')}" if weighted else "no weights: some clips have no label")


def define_flags() -> None:
    """Its options."""
    flags.DEFINE_integer("clips", 0, "read only so many clips, spread evenly over the set; 0: all", lower_bound=0)


if __name__ == "__main__":
    define_flags()
    app.run(main)
