"""Configs of older runs are read with today's defaults, and compared field by field."""

import copy
import dataclasses
import json
from typing import Any

import pytest

from avmae_jax.config import Config, TrainConfig
from avmae_jax.config_history import config_from_dict, require_same_config, with_defaults
from avmae_jax.errors import CheckpointMismatchError, ConfigError
from tests.support import apply


def test_a_run_from_before_a_field_has_its_default() -> None:
    now = dataclasses.asdict(Config(train=TrainConfig(batch_size=7)))
    before = copy.deepcopy(now)
    del before["augment"], before["data"]["max_damaged"], before["init_from"]
    assert with_defaults(before) == now
    before["data"]["threads"] = 99
    before["gone"] = 1  # a field that there was and isn't any more stays, to be refused by name
    assert with_defaults(before) == {**now, "data": {**now["data"], "threads": 99}, "gone": 1}


def test_a_run_from_before_the_dtype_was_left_to_the_devices_computed_in_float32() -> None:
    saved = json.loads(json.dumps(dataclasses.asdict(Config())))
    assert config_from_dict(saved).model.compute_dtype == "auto"
    del saved["model"]["compute_dtype"]
    assert config_from_dict(saved).model.compute_dtype == "float32"
    del saved["model"]
    assert config_from_dict(saved).model.compute_dtype == "float32"


def test_an_older_run_has_the_defaults_of_new_fields() -> None:
    config = apply(Config(requires=("data.path",)), {"train.batch_size": 7, "model.depth": 3})
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    assert config_from_dict(saved) == config
    del saved["augment"], saved["data"]["max_damaged"], saved["init_from"], saved["requires"]
    assert config_from_dict(saved) == dataclasses.replace(config, requires=())


@pytest.mark.parametrize(
    ("saved", "part"),
    [
        ({"train": {"batchsize": 3}}, r"train\.batchsize.*train\.batch_size"),
        ({"gone": 1}, "gone"),
        ({"train": {"batch_size": "3"}}, r"train\.batch_size"),
        ({"train": 3}, "train.*3"),
    ],
)
def test_a_field_that_no_longer_exists_is_refused_by_name(saved: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        config_from_dict(saved)


def test_config_fields_may_be_exempt_by_name_or_group() -> None:
    saved = {"model": {"size": "base", "old": 1}, "train": {"steps": 3}, "trainer": 1, "shape": (1, 2)}
    current = {"model": {"size": "tiny", "new": None}, "train": {"steps": 4}, "trainer": 2, "shape": [1, 2]}
    with pytest.raises(CheckpointMismatchError) as error:
        require_same_config(saved, current, ignore=("train",))
    assert str(error.value).splitlines()[1:] == [
        "  model.new: 'absent' in the checkpoint, None now",
        "  model.old: 1 in the checkpoint, 'absent' now",
        "  model.size: 'base' in the checkpoint, 'tiny' now",
        "  trainer: 1 in the checkpoint, 2 now",
    ]
    require_same_config(saved, current, ignore=("train", "trainer", "model.size", "model.old", "model.new"))
