"""Settings: names and types are checked wherever they are set, derived values follow, and values that can't work are named."""

import copy
import dataclasses
import json
import pickle
import types
import typing
from typing import Any

import numpy as np
import pytest
from absl import flags

from avmae_jax.config import SIZES, Config, ModelConfig
from avmae_jax.errors import AvmaeError, ConfigError
from launch.common import cli, overrides
from tests.support import apply


def _parse(*arguments: str, config: str = "base") -> Config:
    """Returns the config that a command line with these overrides gives."""
    values, argv = flags.FlagValues(), ["program", f"--config={config}", *arguments]
    cli.define_config(values, argv)
    cli.parse(argv, values)
    return values.config


def _fields(config: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, type, value) of every setting."""
    hints, found = typing.get_type_hints(type(config)), []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found += _fields(value, f"{prefix}{field.name}.")
        else:
            found.append((prefix + field.name, hints[field.name], value))
    return found


EVERY_FIELD = _fields(Config())


@pytest.mark.parametrize(("name", "kind", "value"), EVERY_FIELD, ids=[name for name, _, _ in EVERY_FIELD])
def test_every_field_has_a_default_of_its_type_and_can_be_overridden(name: str, kind: Any, value: Any) -> None:
    if isinstance(kind, types.UnionType):
        kind = next(option for option in kind.__args__ if option is not type(None))
        assert value is None
    else:
        kind = typing.get_origin(kind) or kind
        assert type(value) is kind
    texts = {"bool": ("true", True), "int": ("7", 7), "float": ("2.5", 2.5), "str": ("word", "word"), "tuple": ("('a',)", ("a",))}
    text, expected = texts[kind.__name__]
    config = _parse(f"--config.{name}={text}")
    found = getattr(config.holder(name), name.split(".")[-1])
    assert found == expected
    assert type(found) is kind


@pytest.mark.parametrize(
    "override",
    ["train.batch_size=many", "train.batch_size=2.5", "model.remat=7", "optim.learning_rate=fast", "model.depth=deep", "model.depth=1.5"],
)
def test_a_value_of_a_wrong_type_is_refused_on_the_command_line(override: str) -> None:
    with pytest.raises(SystemExit, match=override.split("=")[0]):
        _parse(f"--config.{override}")


WRONG_NAMES = [
    ("train.batchsize", r"train\.batch_size"),
    ("trian.batch_size", "trian.*train"),
    ("sizes", "sizes"),
    ("model.audio_grid", r"model\.audio_grid"),
    ("train", "train.*group"),
    ("train.seed.more", "seed"),
]


def _value(name: str, *arguments: str) -> Any:
    return getattr(_parse(*arguments).holder(name), name.split(".")[-1])


@pytest.mark.parametrize("name", [name for name, kind, _ in EVERY_FIELD if isinstance(kind, types.UnionType)])
def test_a_field_that_may_be_none_is_opened_again(name: str) -> None:
    value = "mean" if name == "data.channels" else "2"
    assert _value(name, f"--config.{name}={value}") is not None
    for arguments in (["=None"], ["=none"], ["", "None"]):
        opening = [f"--config.{name}{arguments[0]}", *arguments[1:]]
        assert _value(name, f"--config.{name}={value}", *opening) is None
        assert _value(name, *opening, f"--config.{name}", value) is not None


def test_a_mean_of_a_recipe_is_opened_again() -> None:
    name = "data.audio_mean"
    assert _parse(config="tiny").data.audio_mean is not None
    assert _parse(f"--config.{name}=None", config="tiny").data.audio_mean is None


def test_none_is_a_text_where_a_field_is_one_and_refused_elsewhere() -> None:
    assert _value("train.workdir", "--config.train.workdir=None") == "None"
    with pytest.raises(SystemExit, match=r"train\.batch_size.*None"):
        _parse("--config.train.batch_size=None")


@pytest.mark.parametrize(("name", "part"), WRONG_NAMES)
def test_an_unknown_field_is_refused_on_the_command_line_with_the_nearest(name: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        overrides.require_known_fields([f"--config.{name}=4"])


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("train.batchsize", 3, r"train\.batchsize.*train\.batch_size"),
        ("train.batch_size", "3", r"train\.batch_size.*'3'.*int"),
        ("train.batch_size", 3.5, "3.5.*int"),
        ("train.batch_size", True, "True.*int"),
        ("model.depth", "deep", r"model\.depth.*int"),
        ("model.remat", 1, r"model\.remat.*bool"),
        ("optim.learning_rate", "fast", r"optim\.learning_rate.*float"),
        ("data.path", None, r"data\.path.*None.*str"),
        ("requires", "data.path", "requires.*tuple"),
        ("requires", (1,), "requires.*tuple"),
        ("train", ModelConfig(), "train.*TrainConfig"),
        ("init_form", "x", "init_form.*init_from"),
    ],
)
def test_a_wrong_name_or_type_is_refused_in_python(name: str, value: Any, part: str) -> None:
    *groups, field = name.split(".")
    holder: Any = Config()
    for group in groups:
        holder = getattr(holder, group)
    before = copy.deepcopy(holder)
    with pytest.raises(ConfigError, match=part) as refused:
        setattr(holder, field, value)
    assert isinstance(refused.value, AvmaeError)
    assert holder == before
    with pytest.raises(ConfigError, match=part):
        type(holder)(**{field: value})
    with pytest.raises(ConfigError, match=part):
        dataclasses.replace(holder, **{field: value})


def test_what_has_the_value_of_a_type_is_stored_as_that_type() -> None:
    config = apply(
        Config(), {"optim.learning_rate": 1, "train.batch_size": np.int64(8), "train.epochs": np.float32(2), "model.depth": None}
    )
    assert (config.optim.learning_rate, config.train.batch_size, config.train.epochs, config.model.depth) == (1.0, 8, 2.0, None)
    assert {type(config.optim.learning_rate), type(config.train.epochs), type(config.train.batch_size)} == {float, int}
    config.requires = ["data.path"]  # pyright: ignore[reportAttributeAccessIssue]
    assert config.requires == ("data.path",)
    json.dumps(dataclasses.asdict(config))


def test_configs_are_copied_and_pickled_like_any_dataclass() -> None:
    config = apply(Config(), {"train.seed": 5, "model.depth": 3})
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config  # noqa: S301


def test_derived_values_follow_an_override() -> None:
    config = _parse("--config.model.size=tiny", "--config.model.width=64", "--config.model.audio_frames=96", "--config.model.patch=8")
    assert config.model.shape == SIZES["tiny"]._replace(width=64)
    assert config.model.grid("audio") == (16, 12)
    assert config.model.grid("image") == (28, 28)


def test_two_configs_share_nothing() -> None:
    first, second = Config(), Config()
    first.model.patch = 8
    first.train.batch_size = 1
    assert second == Config()


def test_the_base_model_is_the_papers() -> None:
    model = ModelConfig()
    assert model.shape == (12, 768, 12, 8, 512, 16)
    assert (model.grid("audio"), model.grid("image")) == ((8, 64), (14, 14))
    assert (model.joint_depth, model.mlp_ratio, model.audio_mask_ratio, model.image_mask_ratio) == (1, 4.0, 0.75, 0.75)
    assert not model.learned_positions
    assert not model.unchained_contrastive


def test_a_replacement_of_zero_is_a_replacement() -> None:
    assert ModelConfig(decoder_depth=0).shape.decoder_depth == 0
