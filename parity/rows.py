"""Compares arrays: a row of errors for each quantity, with its tolerance.

The relative error is the norm of the difference over the norm of the reference, both in float64.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

# Tolerances in float32, for (outputs, losses, features, logits) and for (gradients, weights after optimizer steps), and in bfloat16.
# float32: the two sides round differently, which adds up to some 1e-6 over a dozen blocks; a gradient passes through them twice.
# bfloat16 has 8 bits, so each product is rounded by up to 4e-3 in any library.
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
        """Returns True within tolerance, and False for NaN."""
        return self.relative <= self.tolerance


def compare(name: str, ours: Any, reference: Any, tolerance: float) -> Row:
    """Returns the errors of one quantity. Against a reference of zeros, any other value has an infinite error.

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
    """Asserts in a test that all rows are within tolerance, and that there are at least so many."""
    rows = list(rows)
    observer(rows)
    failed = "\n".join(f"{row.name}: {row.relative:.1e} > {row.tolerance:.0e}" for row in rows if not row.ok)
    assert not failed, failed
    assert len(rows) >= at_least


def observer(compared: Sequence[Row]) -> None:
    """Receives the rows that a test asserts; parity/conftest.py replaces it to record them."""


def print_table(rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """Prints the table and a line for each note."""
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
