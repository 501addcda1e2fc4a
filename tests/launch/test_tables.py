"""Tables of predictions: names of files and classes do nothing to a terminal or a spreadsheet."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launch.common import predictions, tables

NAMES = ['=cmd|" /C calc"!A0', "+1", "-0BIyqJj9ZU.mp4", "@x", " =1", "\x1b[31mred", "[bold]x[/bold]"]


def record(name: str) -> dict[str, Any]:
    numbers = {"seen": "both", "mode": None, "windows": 1, "match": -0.5, "match_rank": None, "match_among": None}
    return {"file": name, "answer": name, "named": [name], "classes": [{"class": name, "probability": 0.5}], **numbers}


def rows(path: Path, **options: bool) -> list[dict[str, str]]:
    predictions.write_csv(str(path), [record(name) for name in NAMES], 1, timeline=False, **options)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_spreadsheet_takes_no_cell_for_a_formula(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv")
    assert [row["file"] for row in found] == [row["class_1"] for row in found]
    assert [row["file"] for row in found] == [*(f"'{name}" for name in NAMES[:5]), "\\x1b[31mred", "[bold]x[/bold]"]
    assert {row["match"] for row in found} == {"-0.5"}
    assert [row["file"] for row in rows(tmp_path / "b.csv", raw=True)] == NAMES


@pytest.mark.parametrize("bad", [True, False])
def test_a_terminal_gets_no_controls_and_no_markup(bad: bool) -> None:
    file = io.StringIO()
    made = [{"file": name, "error": name, "stage": "open"} if bad else record(name) for name in NAMES]
    tables.show_predictions(Console(file=file, width=200), made)
    assert "\x1b" not in file.getvalue()
    assert "\\x1b[31mred" in file.getvalue()
    assert "[bold]x[/bold]" in file.getvalue()
