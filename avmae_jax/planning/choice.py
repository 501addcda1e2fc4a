"""Chooses how a batch is computed: as it is, with recomputed blocks, or, last of all, in parts, which have fewer contrastive negatives."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

_NEAR = 1.1  # estimates this far above the limit are still compiled: they are no more exact


class Needed(Protocol):
    """Is what must be known of a compiled step's memory: bytes on the fullest device."""

    @property
    def peak(self) -> float:
        """Returns all bytes that the step needs at once."""
        ...

    @property
    def temporaries(self) -> float:
        """Returns those of them that grow with the micro-batch: activations, beside gradients."""
        ...


class Way(NamedTuple):
    """Holds a way in which a batch can be computed."""

    remat: bool
    micro_batch: int


def choose(compiled: Callable[[bool, int], Needed], batch_size: int, groups: int, limit: float, *, remat: bool) -> Way | None:
    """Returns the first way that fits: whole, whole with recomputed blocks, then ever smaller parts with recomputed blocks.

    Args:
      compiled: (remat, micro-batch) -> memory of the compiled step; takes long, so that it is called for few of the sizes.
      batch_size: pairs a step.
      groups: number of parts into which the mesh cuts a batch; divides batch_size.
      limit: bytes a device may use.
      remat: whether the config asks for recomputed blocks; if so, the batch is never computed without.

    Returns:
      The way; None if not even one pair a device fits.
    """
    latest = compiled(remat, batch_size)
    if latest.peak > limit and not remat:
        remat, latest = True, compiled(True, batch_size)
    if latest.peak <= limit:
        return Way(remat, batch_size)
    compiled_for = batch_size
    for size in parts_of(batch_size, groups)[1:]:
        estimate = latest.peak - latest.temporaries * (1 - size / compiled_for)
        if estimate > _NEAR * limit and size > groups:
            continue
        latest, compiled_for = compiled(True, size), size
        if latest.peak <= limit:
            return Way(True, size)
    return None


def parts_of(batch_size: int, groups: int) -> Sequence[int]:
    """Lists the sizes of micro-batches that divide a batch and that the devices can share, the largest first."""
    return [size for size in range(batch_size, 0, -1) if batch_size % size == 0 and size % groups == 0]
