"""What every comparison here ends in: rows of errors, each with the tolerance that it has to keep.

The relative error is the norm of the difference over the norm of the reference, both in float64.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

# (outputs, losses, features, logits), (gradients, weights after optimizer steps), by the dtype that JAX computes in. float32: both
# sides round differently, which a dozen blocks add up to some 1e-6; a gradient also passes through them backwards. bfloat16 has 8 bits,
# so that each product is rounded by up to 4e-3, whichever library does it.
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE, BFLOAT16_TOLERANCE = 1e-5, 1e-4, 2e-2


class Row(NamedTuple):
    """One compared quantity."""

    name: str
    shape: tuple[int, ...]
    max_abs: float
    relative: float  # norm of the difference over norm of the reference
    tolerance: float

    @property
    def ok(self) -> bool:
        """True within tolerance; a NaN is not."""
        return self.relative <= self.tolerance


def compare(name: str, ours: Any, reference: Any, tolerance: float) -> Row:
    """A Row; a reference that is all zero asks for all zero.

    Raises:
      ValueError: if the shapes differ.
    """
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if ours.shape != reference.shape:
        raise ValueError(f"{name} has shape {ours.shape}, the reference has {reference.shape}")
    difference, norm = ours - reference, np.linalg.norm(reference)
    error = np.linalg.norm(difference)
    relative = float(error / norm) if norm > 0 else (0.0 if error == 0 else np.inf)
    return Row(name, reference.shape, float(np.abs(difference).max(initial=0)), relative, tolerance)


def assert_all(rows: Iterable[Row], at_least: int) -> None:
    """For tests: all rows are ok, and there are as many as there should be."""
    rows = list(rows)
    observer(rows)
    failed = "\n".join(f"{row.name}: {row.relative:.1e} > {row.tolerance:.0e}" for row in rows if not row.ok)
    assert not failed, failed
    assert len(rows) >= at_least


def observer(compared: Sequence[Row]) -> None:
    """Is told of every row that a test asserts; parity/conftest.py sets another one."""


def print_table(rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """The table on the standard output, as wide as it needs to be, and a line for each note."""
    table = Table("quantity", "shape", "max abs", "relative", "tolerance", "ok")
    for row in rows:
        table.add_row(
            row.name, str(row.shape), f"{row.max_abs:.2e}", f"{row.relative:.2e}", f"{row.tolerance:.0e}", "ok" if row.ok else "FAILED"
        )
    console = Console(width=140)
    console.print(table)
    for note in notes:
        console.print(note)
    console.print(
        f"{sum(row.ok for row in rows)} of {len(rows)} within tolerance; largest relative error {max(row.relative for row in rows):.2e}"
    )
