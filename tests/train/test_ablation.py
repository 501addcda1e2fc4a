"""launch.ablation: each row has what the row above it has, measurements are kept, and what doesn't fit is refused."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from avmae_jax.config import Config
from avmae_jax.config_files import shipped
from avmae_jax.errors import AvmaeError, ConfigError
from avmae_jax.evals.baselines.classifiers import LOGISTIC
from avmae_jax.evals.baselines.cross_validation import Family
from avmae_jax.settings import flatten_fields
from avmae_jax.train import ablation
from avmae_jax.train.ablation import FIGURES, ROWS, Ablation, ablate, config_of, table_of
from tests.support import TINY, apply

NAMES = [row.name for row in ROWS]


def differing(one: Config, other: Config) -> set[str]:
    first, second = (flatten_fields(json.loads(json.dumps(vars_of(config)))) for config in (one, other))
    return {name for name in first if first[name] != second[name]} - {"name"}


def vars_of(config: Config) -> dict[str, Any]:
    return {name: vars(group) for name, group in config.groups.items()}


def test_each_row_changes_one_thing_of_the_row_above_it() -> None:
    configs = [config_of(shipped("sync_tiny"), name) for name in NAMES]
    for config in configs:
        config.validate()
    assert [differing(*pair) for pair in itertools.pairwise(configs[1:])] == [
        {"loss.bidirectional"},
        {"loss.negatives", "train.micro_batch"},
        {"loss.contrast_pass"},
        {"loss.contrast_order"},
        {"loss.distill_weight"},
    ]
    assert {name.partition(".")[0] for name in differing(configs[0], configs[1])} == {"model"}
    assert configs[0].model.audio_frames == configs[1].model.clip_frames  # both hear the same clip


def test_a_recipe_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.kind.*cavmae"):
        config_of(shipped("tiny"), "Sync")
    with pytest.raises(ConfigError, match="no row 'Snyc'"):
        config_of(shipped("sync_tiny"), "Snyc")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Replaces training and measuring by numbers that follow from row, steps and seed; returns what was trained."""
    done: list[tuple[str, int, int]] = []

    def measure(config: Config, steps: int, seed: int, out: Path, reporter: Any) -> dict[str, Any]:
        done.append((config.name, steps, seed))
        return {"steps": steps, **{figure: 0.1 * number + 0.02 * seed for number, figure in enumerate(FIGURES)}}

    monkeypatch.setattr(ablation, "_measured", measure)
    monkeypatch.setattr(ablation, "_step_seconds", lambda configs, names, out: {name: 0.5 + NAMES.index(name) for name in names})
    return done


def test_a_slower_row_gets_fewer_steps_and_nothing_is_measured_twice(measured: list[tuple[str, int, int]], tmp_path: Path) -> None:
    config = shipped("sync_tiny")
    ablate(Ablation(config, NAMES[:2], 6.0, 1, tmp_path))
    assert measured == [("CAV-MAE", 12, 0), ("Sync", 4, 0)]
    content = ablate(Ablation(config, NAMES[:3], 6.0, 2, tmp_path))
    assert measured[2:] == [("+ symmetric loss", 2, 0), ("CAV-MAE", 12, 1), ("Sync", 4, 1), ("+ symmetric loss", 2, 1)]
    assert content is not None
    mean, spread = table_of(content)["Sync"]["probe"]
    assert (mean, spread) == (pytest.approx(0.51), pytest.approx(0.02 / 2**0.5))
    with Image.open(tmp_path / "ablation.png") as picture:
        assert picture.format == "PNG"
    with pytest.raises(AvmaeError, match="another recipe"):
        ablate(Ablation(config, NAMES[:2], 7.0, 1, tmp_path))


def test_a_stop_while_speeds_are_measured_ends_it_without_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(config: Config, steps: int, seed: int, folder: Path, reporter: Any) -> None:
        folder.mkdir(parents=True)

    monkeypatch.setattr(ablation, "_train", stopped)
    assert ablate(Ablation(shipped("sync_tiny"), NAMES, 6.0, 1, tmp_path)) is None
    assert not (tmp_path / "ablation.json").exists()
    assert not (tmp_path / "speed").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_a_row_is_trained_and_measured_on_the_clips_of_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    for name, few in (("_TIMED", 2), ("_FIRST", 1), ("_TURNS", 1)):
        monkeypatch.setattr(ablation, name, few)
    quick = Family(LOGISTIC.name, LOGISTIC.settings[5:6], LOGISTIC.predict)
    monkeypatch.setattr("avmae_jax.evals.baselines.probe.PROBES", {"linear": quick})
    sizes = {"model.audio_frames": 32, "model.clip_frames": 64, "data.builtin_train": 56, "data.builtin_test": 14}
    content = ablate(Ablation(apply(shipped("sync_tiny"), TINY | sizes), ["Sync"], 0.01, 1, tmp_path))
    assert content is not None
    (cell,) = content["cells"]
    assert cell["steps"] > 0
    for figure in set(FIGURES) - {"reconstruction"}:
        assert cell[figure] * 14 == pytest.approx(round(cell[figure] * 14))  # a share of the held-out clips
    assert not list((tmp_path / "cells").iterdir())
