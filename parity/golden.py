"""Compares the JAX models with a file of values recorded from an original: `python -m parity.golden FILE.npz`.

The kind of file is found from its arrays: the pretraining model of CAV-MAE or of CAV-MAE Sync, the dual path, or a classifier of either.
A file has weights (`param.<official name>`; heads of Sync's classifiers `param_<mode>.`), inputs with their masking noise (`in.*`),
intermediates, logits and losses (`out.*`), gradients (`grad.<official name>`, those of a classifier `grad.<mode>.<official name>`) and the
weights after Adam steps (`after1.`, `after3.`). Whatever it holds is compared, and what the models don't have is refused by name. A tensor
without a gradient in a file that has gradients must have none here: exactly zero, and the same weight after the steps. Windows of audio,
R@k and ranks of patches must be exactly the recorded ones.

Sizes, class tokens and registers come from the weights, shares of hidden patches from the masks. What no array holds (number of heads,
norm_pix, direction and weight of the contrastive loss, whether it is the mean of a global and a local one, chaining of several joint
blocks) is found by trying the few possible values and taking the one that fits best. The choice is printed, and a wrong one can't pass,
since gradients and weights are compared afterwards. The recorder's arguments, which some files have as `config`, aren't read.

One thing can't be compared after a step: the keys' bias. It shifts all logits of a query alike, so the softmax makes its gradient
exactly 0, and what torch and JAX have there is rounding noise (1e-10), which Adam divides by itself. Its gradient is compared (with
the whole qkv bias, whose norm the queries and values give); after steps only the queries' and values' parts of that bias are.

Exit status: 0 if every quantity is within its tolerance, 1 if one is not, 2 if the file can't be used.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import jax

from avmae_jax.errors import some
from parity.recorded import classifier, pretraining, sync, sync_classifier
from parity.recorded.arrays import Arrays, GoldenError, Recording, has, read
from parity.rows import Row, print_table


class Recorded(Protocol):
    """Holds a file and the model with its weights."""

    config: Any  # ModelConfig, what was found

    def output_rows(self) -> Iterator[Row]:
        """Compares intermediates, logits and losses."""
        ...

    def training_rows(self) -> Iterator[Row]:
        """Compares gradients, and losses and weights of later steps."""
        ...

    def rows(self) -> list[Row]:
        """Compares everything that the file holds."""
        ...

    def notes(self) -> list[str]:
        """Describes what was found in the file or by trial."""
        ...


# What marks each kind of file: it has arrays whose names begin with one of these. The first kind that fits is taken.
KINDS = (
    (("param_", "param.classifier_head.", "param.cls_cls_token"), sync_classifier.Recorded),
    (("in.labels", "out.logits."), classifier.Recorded),
    (("param.register_tokens", "param.cls_token_", "param.constrative_head_", "in.clips_", "in.noise_audio_contrast"), sync.Recorded),
    (("in.noise_audio", "in.noise_image", "out.latent", "param.decoder_embed."), pretraining.Recorded),
)


def load(path: Path) -> Any:
    """Reads a file of recorded values and builds the model; nothing in the file is executed. Raises GoldenError."""
    return of(read(path))


def of(arrays: Arrays) -> Any:
    """Finds the kind of a file from its arrays and builds the model; raises GoldenError."""
    for marks, kind in KINDS:
        if has(arrays, *marks):
            return kind(Recording(arrays))
    raise GoldenError(
        f"it has values of no known model: neither in.labels (a classifier) nor in.noise_audio (pretraining) is there, but {some(arrays)}"
    )


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.golden", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="an .npz file of recorded values")
    path = parser.parse_args().file
    jax.config.update("jax_disable_most_optimizations", True)  # of the compiler, which takes longest; everything runs once
    try:
        recorded = load(path)
        rows = recorded.rows()
    except ValueError as error:
        sys.stderr.write(f"{path}: {error}\n")
        return 2
    print_table(rows, recorded.notes())
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
