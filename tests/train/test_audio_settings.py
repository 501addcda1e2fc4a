"""Tests which mean and deviation of the log-mel a run takes: the config's, the resumed run's, the data set's, or the original's."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from avmae_jax.config import Config, DataConfig, ModelConfig
from avmae_jax.data.statistics import STATISTICS
from avmae_jax.data.store.plan import SUMMARY
from avmae_jax.errors import DatasetError
from avmae_jax.train.audio_settings import settle_audio, settle_frames
from avmae_jax.weights.notes import notes_of
from tests.support import Clips

MEASURED = {"audio_mean": -6.5, "audio_std": 3.5}


def settled(folder: Path, checkpoint: dict[str, Any] | None = None, **data: Any) -> tuple[float | None, float | None]:
    config = Config(data=DataConfig(source="prepared", path=str(folder), **data))
    settle_audio(config, checkpoint)
    return config.data.audio_mean, config.data.audio_std


def write(folder: Path, content: object = MEASURED) -> Path:
    (folder / STATISTICS).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_what_the_config_leaves_open_is_that_of_the_data_set_or_else_the_originals(tmp_path: Path) -> None:
    assert settled(tmp_path) == (-5.081, 4.4849)
    assert settled(write(tmp_path)) == (-6.5, 3.5)
    assert settled(tmp_path, audio_std=3.0) == (-6.5, 3.0)


def test_a_resumed_run_keeps_its_own(tmp_path: Path) -> None:
    checkpoint = {"config": {"data": {"audio_mean": -1.0, "audio_std": 2.0}}}
    assert settled(write(tmp_path), checkpoint) == (-1.0, 2.0)
    assert settled(tmp_path, {"config": {}}) == (-6.5, 3.5)


@pytest.mark.parametrize(("mean", "std", "fields"), [(-6.4, 3.6, []), (-5.0, 3.6, ["audio_mean"]), (-6.5, 4.4849, ["audio_std"])])
def test_values_far_from_the_data_sets_are_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mean: float, std: float, fields: list[str]
) -> None:
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert settled(write(tmp_path), audio_mean=mean, audio_std=std) == (mean, std)
    assert [field for field in ("audio_mean", "audio_std") if f"data.{field}" in caplog.text] == fields


def test_the_warning_says_that_weights_keep_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = DataConfig(source="prepared", path=str(write(tmp_path)), audio_mean=-5.081, audio_std=3.5)
    with caplog.at_level(logging.WARNING, logger="absl"):
        settle_audio(Config(init_from="w.pth", data=data), None)
    assert "keep -5.081" in caplog.text


DAMAGED = ["{", "[" * 100_000, [], {}, {"audio_mean": 1}, MEASURED | {"audio_std": 0}, MEASURED | {"audio_mean": "x"}]
DAMAGED += [
    '{"audio_mean": NaN, "audio_std": 1}',
    '{"audio_mean": 1e999, "audio_std": 1}',
    MEASURED | {"audio_mean": 1e9},
    MEASURED | {"audio_std": 1e9},
    MEASURED | {"audio_std": True},
]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_statistics_are_named(tmp_path: Path, content: object) -> None:
    with pytest.raises(DatasetError, match=rf"{STATISTICS}.*launch\.data_statistics"):
        settled(write(tmp_path, content))


@pytest.mark.parametrize(("change", "named"), [({"clips": 9}, "9"), ({"of": 7}, "7"), ({"channels": "mean"}, "mean")])
def test_statistics_of_another_set_are_refused(tmp_path: Path, change: dict[str, object], named: str) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"clips": {"train": 8, "test": 2}, "plan": {"channels": "first"}}))
    assert settled(write(tmp_path, MEASURED | {"clips": 4})) == (-6.5, 3.5)  # of --clips=4
    with pytest.raises(DatasetError, match=rf"{STATISTICS}.*{named}.*launch\.data_statistics"):
        settled(write(tmp_path, MEASURED | {"clips": 8, "of": 8, "channels": "first"} | change))


def test_images_alone_need_none(tmp_path: Path) -> None:
    config = Config(data=DataConfig(source="prepared", path=str(write(tmp_path, "{"))))
    config.model.modality = "image"
    settle_audio(config, None)
    assert config.data.normalisation == (-5.081, 4.4849)


@pytest.mark.parametrize(
    ("plan", "channels"),
    [({"channels": "mean"}, "mean"), ({"channels": "first"}, "first"), ({"mix_channels": True}, "mean"), ({}, "first")],
)
def test_channels_are_those_of_the_data_set(tmp_path: Path, plan: dict[str, Any], channels: str) -> None:
    (tmp_path / SUMMARY).write_text(json.dumps({"plan": plan}))
    config = Config(data=DataConfig(source="prepared", path=str(tmp_path)))
    settle_audio(config, None)
    assert config.data.channels == channels
    assert notes_of(config, ()).channels == channels
    other = Config(data=DataConfig(source="prepared", path=str(tmp_path), channels={"mean": "first", "first": "mean"}[channels]))
    with pytest.raises(DatasetError, match=rf"data\.channels.*--channels={channels}"):
        settle_audio(other, None)


def test_the_frames_of_pairs_are_noted_as_those_of_the_training_clips() -> None:
    clips, model = Clips(2), ModelConfig(kind="sync")
    config = Config(model=model)
    settle_frames(config, clips, None)
    assert config.data.frames == len(clips[0].frames) == notes_of(config, ()).frames
    for given, checkpoint, frames in (
        (2, None, 2),
        (0, {"config": {"data": {"frames": 0}}}, 0),
    ):  # the last is a run of before it was noted
        config = Config(model=model, data=DataConfig(frames=given))
        settle_frames(config, clips, checkpoint)
        assert config.data.frames == frames
    config = Config()
    settle_frames(config, clips, None)
    assert config.data.frames == 0
