"""Makes the tables of baselines and probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from rich.console import Console
from rich.table import Table

from avmae_jax.errors import DatasetError
from avmae_jax.evals.intervals import NOTE, shown

from . import model_flags
from .screen import escape
from .tables import class_figures

_OWN = ("map", "map_interval", "accuracy", "accuracy_interval")


def fitted(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulates the figures of baselines or probes, on the held-out clips and inside the training clips.

    Args:
      found: what baseline.json or probe.json holds.
      rows: its baselines or probes.
    """
    table = Table(
        "given", "classifier", "setting", title=f"{len(found['ids'])} held-out clips, {len(found['train_ids'])} to fit to", caption=NOTE
    )
    for name in ("mAP", "accuracy", "mAP, cross-validated", "accuracy, cross-validated"):
        table.add_column(name)
    for row in rows:
        setting = ", ".join(f"{name} {value:g}" for name, value in row["setting"].items())
        figures = [shown(part, name) for part in (row, row["cross_validation"]) for name in ("map", "accuracy")]
        table.add_row(row["given"], escape(row["name"].partition(": ")[2]), setting, *figures)
    return table


def classes(row: Mapping[str, Any]) -> Table:
    """Tabulates the classes of a baseline."""
    return class_figures(row["per_class"], row["name"])


def known(data: str, model: str, given: str = "") -> dict[str, Any] | None:
    """Reads the baselines of a data set or of a model's run; names a damaged file in the log, and raises DatasetError for a `given` one."""
    from avmae_jax.evals.baselines.baseline import read_baselines

    try:
        return read_baselines(data, model_flags.run_folder(model), given)
    except DatasetError as error:
        if given:
            raise
        logging.warning("%s", error)
        return None


def views_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the best probe of each kind of features, by cross-validation, in the form of a view of an evaluation."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in sorted(found["probes"], key=lambda row: row["cross_validation"]["map"]):
        best[row["given"]] = row
    clips = {"ids": found["ids"], "label_names": found["label_names"]}
    return [{"mode": given, **{name: row.get(name) for name in _OWN}, **clips} for given, row in sorted(best.items())]


def print_comparison(console: Console, views: Sequence[Mapping[str, Any]], found: Mapping[str, Any] | None) -> None:
    """Prints the best baseline beside each view of an evaluation, and whether the view beats it; or how to measure baselines."""
    from avmae_jax.evals.baselines.baseline import FIGURES, best_for, verdict

    pairs = [(view, best) for view in views if found and (best := best_for(view, found))]
    if not pairs:
        why = "launch.baseline has measured other clips or classes" if found else "no baseline is known for these clips"
        console.print(f"{why}; python -m launch.baseline DATASET measures what classical classifiers reach on them")
        return
    table = Table("best baseline", "mAP", "AUC", "d'", "accuracy", "top 5", "loss", title="launch.baseline on the same clips")
    for row in {row["name"]: row for _, best in pairs for row in best.values()}.values():
        table.add_row(escape(row["name"]), *(shown(row, name) for name in FIGURES))
    console.print(table)
    for view, best in pairs:
        console.print(escape(verdict(view, best)), highlight=False)
