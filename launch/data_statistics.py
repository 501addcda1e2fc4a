"""Computes the log-mel statistics and the sampling weights of a prepared data set.

    python -m launch.data_statistics DATASET

Computes the mean and the standard deviation of the log-mel over the training clips and, if all of them have labels, a sampling weight for
each clip, so that rare classes are drawn more often. Both are stored with the data set, in statistics.json and weights-train.npy.
--config.augment.balanced uses the weights; the printed options set mean and deviation.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import app, flags

from avmae_jax.errors import AvmaeError

from .common import cli, runtime


def main(argv: list[str]) -> None:
    """Stores and prints the statistics of one data set."""
    if len(argv) != 2:
        raise app.UsageError("give one data set, the folder that launch.prepare wrote")
    runtime.start()
    from avmae_jax.data.statistics import write_statistics, write_weights

    folder = Path(argv[1]).expanduser()
    try:
        with runtime.progress_bar("reading") as on_progress:
            found = write_statistics(folder, flags.FLAGS.clips, on_progress)
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
