"""Keeps what a study measures, cell by cell: how good a method is with how many labels, once for each seed.

The file, study.json, is rewritten atomically after every cell. Cells of later calls are added; cells of another configuration, of other
clips or of other weights are refused, since they could not be compared.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from avmae_jax.data.text_files import read_json
from avmae_jax.errors import ConfigError, DatasetError, first_line
from avmae_jax.files import write_json
from avmae_jax.settings import flatten_fields

STUDY, PICTURE = "study.json", "study.png"
FIGURES = ("accuracy", "map")


class Cell(NamedTuple):
    """Names one measurement of a study."""

    method: str
    labels: int  # labelled videos of each class
    seed: int

    @property
    def name(self) -> str:
        """Returns a name for files and the log."""
        return f"{self.method}_{self.labels}_{self.seed}"


class Point(NamedTuple):
    """Holds a figure of one method with one number of labels."""

    labels: int
    seeds: int
    mean: float
    spread: float | None  # the standard deviation over the seeds; None of a single one


class StudyFile:
    """Reads and adds to a study.json."""

    def __init__(self, path: Path, settings: Mapping[str, Any], weights: Mapping[str, str]):
        """Reads the file, if there is one, and writes it with what determines its cells.

        Args:
          path: the file.
          settings: what determines every cell.
          weights: method -> what identifies the weights that it starts from.

        Raises:
          ConfigError: if the file has cells of other settings or weights; names them.
          DatasetError: if it is damaged.
          WriteError: if it can't be written.
        """
        self.path = path
        fresh: dict[str, Any] = {"settings": _plain(settings), "weights": {}, "draws": [], "cells": []}
        known = read_study(path) if path.exists() else fresh
        self._require_same(known, {"settings": settings, "weights": dict(weights)})
        self.content: dict[str, Any] = {**known, "weights": {**known["weights"], **weights}}
        write_json(path, self.content)

    def _require_same(self, known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        old, new = flatten_fields(known["settings"]), flatten_fields(_plain(now["settings"]))
        differ = [
            f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
        differ += [
            f"{name} starts from other weights" for name, value in now["weights"].items() if known["weights"].get(name, value) != value
        ]
        if differ:
            raise ConfigError(f"{self.path} has cells that can't be compared with these ({'; '.join(differ)}); give another --out")

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """Returns what was measured of a cell; None if it wasn't."""
        return next((row for row in self.content["cells"] if _cell(row) == cell), None)

    def add(self, cell: Cell, measured: Mapping[str, Any]) -> None:
        """Adds a cell; raises WriteError."""
        self.content["cells"].append({**cell._asdict(), **measured})
        self.content["cells"].sort(key=_cell)
        write_json(self.path, self.content)

    def add_draw(self, labels: int, seed: int, ids: Sequence[str]) -> None:
        """Notes the clips that a number of labels and a seed stand for."""
        draw = {"labels": labels, "seed": seed, "ids": [*ids]}
        others = [row for row in self.content["draws"] if (row["labels"], row["seed"]) != (labels, seed)]
        self.content["draws"] = [*others, draw]


def read_study(path: Path) -> dict[str, Any]:
    """Reads a study.json; raises DatasetError if it is missing or damaged."""
    content = read_json(path)
    try:
        for name, kind in (("settings", dict), ("weights", dict), ("draws", list), ("cells", list)):
            if not isinstance(content[name], kind):
                raise TypeError(f"its {name} are wrong")
        for row in content["cells"]:
            method, labels, seed = (row[name] for name in Cell._fields)
            if not isinstance(method, str) or type(labels) is not int or type(seed) is not int or labels < 1:
                raise TypeError(f"it has a cell {method!r}, {labels!r}, {seed!r}")
            if wrong := [name for name in FIGURES if not isinstance(row[name], int | float | None) or row[name] is True]:
                raise TypeError(f"{wrong[0]} of {method!r} is no number")
        if not all(isinstance(row["labels"], int) and isinstance(row["ids"], list) for row in content["draws"]):
            raise TypeError("its draws are wrong")
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} isn't a file of launch.study, or is damaged: {first_line(error)}; move it away") from error
    return cast("dict[str, Any]", content)


def curves(content: Mapping[str, Any], figure: str) -> dict[str, list[Point]]:
    """Averages a figure of a study over the seeds: method, in the order of the file -> its points, by rising numbers of labels."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in content["cells"]:
        if row[figure] is not None:
            found.setdefault(row["method"], {}).setdefault(row["labels"], []).append(float(row[figure]))
    order = [name for name in content["weights"] if name in found]
    return {method: [_point(labels, values) for labels, values in sorted(found[method].items())] for method in order}


def summary(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns head and rows of a table: for each method and number of labels the seeds, and mean and spread of each figure."""
    rows: dict[tuple[str, int], dict[str, Point]] = {}
    for figure in FIGURES:
        for method, points in curves(content, figure).items():
            for point in points:
                rows.setdefault((method, point.labels), {})[figure] = point
    order = [*content["weights"]]
    lines = [
        [
            method,
            str(labels),
            str(max(point.seeds for point in points.values())),
            *(shown(points.get(figure), percent=figure == "accuracy") for figure in FIGURES),
        ]
        for (method, labels), points in sorted(rows.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    ]
    return ["method", "labels of each class", "seeds", "accuracy", "mAP"], lines


def shown(point: Point | None, *, percent: bool = False) -> str:
    """Formats a point as 0.722 ± 0.024, or 72.2% ± 2.4% in percent; "-" for None."""
    if point is None:
        return "-"
    form = ".1%" if percent else ".3f"
    return f"{point.mean:{form}}" + ("" if point.spread is None else f" ± {point.spread:{form}}")


def _point(labels: int, values: Sequence[float]) -> Point:
    return Point(labels, len(values), float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def _cell(row: Mapping[str, Any]) -> Cell:
    return Cell(row["method"], row["labels"], row["seed"])


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings as JSON gives them back."""
    return json.loads(json.dumps(settings))
