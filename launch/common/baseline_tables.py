"""Makes the tables of baselines and probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from .screen import escape
from .tables import class_figures


def baselines(found: Mapping[str, Any]) -> Table:
    """Tabulates the figures of baselines, on the held-out clips and inside the training clips."""
    table = Table("given", "classifier", "setting", title=f"{len(found['ids'])} held-out clips, {len(found['train_ids'])} to fit to")
    for name in ("mAP", "accuracy", "mAP, cross-validated", "accuracy, cross-validated"):
        table.add_column(name)
    for row in found["baselines"]:
        setting = ", ".join(f"{name} {value:g}" for name, value in row["setting"].items())
        inside = row["cross_validation"]
        figures = [number(value) for value in (row["map"], row["accuracy"], inside["map"], inside["accuracy"])]
        table.add_row(row["given"], escape(row["classifier"]), setting, *figures)
    return table


def classes(row: Mapping[str, Any]) -> Table:
    """Tabulates the classes of a baseline."""
    return class_figures({"view": row["name"], "per_class": row["per_class"]})


def number(value: float | None) -> str:
    """Formats a number with three places, and None as a dash."""
    return "-" if value is None else f"{value:.3f}"
