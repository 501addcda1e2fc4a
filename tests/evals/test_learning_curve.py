"""Tests the file of a study: cells are added and averaged, those of something else are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from avmae_jax.errors import ConfigError, DatasetError
from avmae_jax.evals.learning_curve import Cell, Point, StudyFile, curves, read_study, summary

SETTINGS: dict[str, Any] = {"config": {"train.epochs": 90}, "clips": {"train": "x"}}


def measured(accuracy: float | None, found: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "map": found}


def test_cells_of_several_calls_are_merged_and_averaged(tmp_path: Path) -> None:
    first = StudyFile(tmp_path / "s.json", SETTINGS, {"scratch": "", "probe": "p"})
    first.add(Cell("scratch", 4, 0), measured(0.5, 0.6))
    first.add_draw(4, 0, ["a", "b"])
    second = StudyFile(tmp_path / "s.json", SETTINGS, {"more": "m"})
    assert second.get(Cell("scratch", 4, 0)) is not None
    assert second.get(Cell("scratch", 2, 0)) is None
    second.add(Cell("scratch", 2, 0), measured(0.1, 0.2))
    second.add(Cell("scratch", 4, 1), measured(0.7, 0.8))
    second.add(Cell("more", 4, 0), measured(None, 0.8))
    content = read_study(tmp_path / "s.json")
    assert [*content["weights"]] == ["scratch", "probe", "more"]
    found = curves(content, "accuracy")
    assert [*found] == ["scratch"]
    assert found["scratch"][0] == Point(2, 1, 0.1, None)
    assert found["scratch"][1][:2] == (4, 2)
    assert found["scratch"][1][2:] == (pytest.approx(0.6), pytest.approx(0.1 * 2**0.5))
    _, rows = summary(content)
    assert rows[0] == ["scratch", "2", "1", "10.0%", "0.200"]
    assert rows[1] == ["scratch", "4", "2", "60.0% ± 14.1%", "0.700 ± 0.141"]
    assert rows[2] == ["more", "4", "1", "-", "0.800"]


@pytest.mark.parametrize(
    ("settings", "weights", "match"),
    [
        ({"config": {"train.epochs": 30}, "clips": {"train": "x"}}, {}, r"train\.epochs is 90 there and 30 here.*--out"),
        ({"config": {"train.epochs": 90}, "clips": {"train": "y"}}, {}, r"clips\.train"),
        (SETTINGS, {"probe": "q"}, "probe starts from other weights"),
    ],
)
def test_cells_of_something_else_are_refused(tmp_path: Path, settings: dict[str, Any], weights: dict[str, str], match: str) -> None:
    StudyFile(tmp_path / "s.json", SETTINGS, {"probe": "p"}).add(Cell("probe", 4, 0), measured(0.5, 0.6))
    before = (tmp_path / "s.json").read_bytes()
    with pytest.raises(ConfigError, match=match):
        StudyFile(tmp_path / "s.json", settings, weights)
    assert (tmp_path / "s.json").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"settings": {}, "weights": {}, "draws": [], "cells": [{"method": "a", "labels": 0, "seed": 0, "accuracy": 1, "map": 1}]}',
        '{"settings": {}, "weights": {}, "draws": [], "cells": [{"method": "a", "labels": 2, "seed": 0, "accuracy": "1", "map": 1}]}',
        '{"settings": {}, "weights": {}, "draws": [], "cells": [{"method": [], "labels": 2, "seed": 0, "accuracy": 1, "map": 1}]}',
        '{"settings": {}, "weights": {}, "draws": [], "cells": [3]}',
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DatasetError, match=r"s\.json"):
        read_study(tmp_path / "s.json")
    with pytest.raises(DatasetError, match=r"s\.json"):
        StudyFile(tmp_path / "s.json", SETTINGS, {})
    assert (tmp_path / "s.json").read_text() == content


def test_the_file_is_json(tmp_path: Path) -> None:
    StudyFile(tmp_path / "s.json", SETTINGS, {}).add(Cell("probe", 4, 0), measured(0.5, 0.6))
    assert json.loads((tmp_path / "s.json").read_text())["cells"][0]["method"] == "probe"
