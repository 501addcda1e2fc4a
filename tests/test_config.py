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

from avmae_jax.config import SIZES, Config, ModelConfig, TrainConfig, config_from_dict, with_defaults
from avmae_jax.errors import AvmaeError, ConfigError
from avmae_jax.settings import Settings
from launch.common import cli
from tests.support import apply


def _parse(*overrides: str, config: str = "base") -> Config:
    """Returns the config that a command line with these overrides gives."""
    values, argv = flags.FlagValues(), ["program", f"--config={config}", *overrides]
    cli.define_config(values, argv)
    values(argv)
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
    with pytest.raises(flags.IllegalFlagValueError, match=override.split("=")[0]):
        _parse(f"--config.{override}")


WRONG_NAMES = [
    ("train.batchsize", r"train\.batch_size"),
    ("trian.batch_size", "trian.*train"),
    ("sizes", "sizes"),
    ("model.audio_grid", r"model\.audio_grid"),
    ("train", "train is a group"),
    ("train.seed.more", "seed"),
]


@pytest.mark.parametrize(("name", "part"), WRONG_NAMES)
def test_an_unknown_field_is_refused_on_the_command_line_with_the_nearest(name: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        cli.require_known_fields([f"--config.{name}=4"])


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


def test_a_run_from_before_a_field_has_its_default() -> None:
    now = dataclasses.asdict(Config(train=TrainConfig(batch_size=7)))
    before = copy.deepcopy(now)
    del before["augment"], before["data"]["max_damaged"], before["init_from"]
    assert with_defaults(before) == now
    before["data"]["threads"] = 99
    before["gone"] = 1  # a field that there was and isn't any more stays, to be refused by name
    assert with_defaults(before) == {**now, "data": {**now["data"], "threads": 99}, "gone": 1}


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


def test_the_base_model_is_the_papers() -> None:
    model = ModelConfig()
    assert model.shape == (12, 768, 12, 8, 512, 16)
    assert (model.grid("audio"), model.grid("image")) == ((8, 64), (14, 14))
    assert (model.joint_depth, model.mlp_ratio, model.audio_mask_ratio, model.image_mask_ratio) == (1, 4.0, 0.75, 0.75)
    assert not model.learned_positions
    assert not model.unchained_contrastive


def test_a_replacement_of_zero_is_a_replacement() -> None:
    assert ModelConfig(decoder_depth=0).shape.decoder_depth == 0


def test_an_unknown_size_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"model\.size is 'giant'; choose one of tiny, small, base, large, huge"):
        ModelConfig(size="giant").validate()


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_valid_and_larger_than_the_one_before(size: str) -> None:
    ModelConfig(size=size).validate()
    work = [row.depth * row.width**2 for row in SIZES.values()]
    assert work == sorted(work)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_frames": 1000}, "model.audio_frames is 1000; it must be a positive multiple of model.patch = 16"),
        ({"mel_bins": 0}, "model.mel_bins is 0; it must be a positive multiple"),
        ({"image_size": -16}, "model.image_size is -16; it must be a positive multiple"),
        ({"heads": 7}, "model.width is 768; it must be a multiple of model.heads = 7"),
        ({"decoder_heads": 3}, "model.decoder_width is 512; it must be a multiple of model.decoder_heads = 3"),
        ({"width": 6, "heads": 1}, "model.width is 6; 2-D sin-cos positions need a multiple of 4"),
        ({"decoder_width": 6, "decoder_heads": 1}, "model.decoder_width is 6; 2-D sin-cos"),
        ({"joint_depth": 0}, "model.joint_depth is 0; it must be between 1 and the depth 12"),
        ({"joint_depth": 13}, "model.joint_depth is 13; it must be between 1 and the depth 12"),
        ({"compute_dtype": "float16"}, "model.compute_dtype is 'float16'.*float32.*bfloat16"),
    ],
)
def test_sizes_that_cannot_work_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**changes).validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patch", 0),
        ("heads", 0),
        ("decoder_heads", 0),
        ("width", 0),
        ("decoder_depth", -1),
        ("mlp_ratio", 0.0),
        ("audio_mask_ratio", 1.0),
        ("image_mask_ratio", -0.5),
        ("audio_mask_mode", "diagonal"),
    ],
)
def test_every_field_that_cannot_work_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"model.{field}"):
        ModelConfig(**{field: value}).validate()


def test_the_defaults_are_valid() -> None:
    Config().validate()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss.mae_weight", -1.0),
        ("loss.contrast_weight", float("inf")),
        ("loss.temperature", 0.0),
        ("loss.temperature", float("nan")),
        ("loss.negatives", "some"),
        ("tune.mode", "both"),
        ("tune.loss", "mse"),
        ("tune.eval_frames", "first"),
        ("tune.head_lr_ratio", 0.0),
        ("tune.eval_crops", 0),
        ("tune.audio_weight", -0.1),
        ("tune.swap_pictures", 1.1),
        ("tune.average_first", 2),
        ("optim.learning_rate", float("nan")),
        ("optim.weight_decay", -1.0),
        ("optim.beta1", 1.0),
        ("optim.beta2", -0.1),
        ("optim.decay_every", 0),
        ("optim.decay_start", -1),
        ("data.source", "webcam"),
        ("data.builtin_train", 0),
        ("data.builtin_seconds", 0.0),
        ("data.threads", 0),
        ("data.workers", -1),
        ("data.max_damaged", -1),
        ("data.max_damaged", 1.5),
        ("data.max_damaged", float("nan")),
        ("data.max_damaged", float("inf")),
        ("data.audio_std", 0.0),
        ("data.audio_mean", float("nan")),
        ("augment.mixup", 1.5),
        ("mesh.data", 0),
        ("mesh.fsdp", -1),  # beside mesh.data = -1
        ("train.workdir", ""),
        ("train.batch_size", 0),
        ("train.micro_batch", 5),  # of 48
        ("train.epochs", 0.0),
        ("train.steps", -1),
        ("train.seed", -1),
        ("train.log_every", 0),
        ("train.keep_last", 0),
        ("train.eval_batches", -1),
    ],
)
def test_a_value_that_cannot_work_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name.split('.')[0]}\.(?s:.*)"):
        apply(Config(), {name: value}).validate()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"tune.average_first": 1, "tune.average_last": 26}, r"tune\.average_last.*26.*train\.epochs.*25"),
        ({"mesh.data": 5}, r"train\.batch_size.*48.*5"),
        ({"train.batch_size": 4000}, r"train\.batch_size.*4000.*data\.builtin_train.*1000"),
        ({"augment.specaug_time": 192, "model.audio_frames": 96}, r"augment\.specaug_time.*192.*model\.audio_frames.*96"),
        ({"augment.specaug_freq": 129}, r"augment\.specaug_freq.*129.*model\.mel_bins.*128"),
        ({"loss.mae_weight": 0.0, "loss.contrast_weight": 0.0}, r"loss\.mae_weight.*loss\.contrast_weight"),
        ({"data.source": "prepared"}, r"data\.path.*launch\.prepare"),
        ({"data.source": "manifest", "data.path": "a.json"}, r"data\.labels_csv"),
        ({"requires": ("data.path", "init_from")}, r"init_from"),
        ({"requires": ("data.paht",)}, r"data\.paht.*data\.path"),
    ],
)
def test_values_that_cannot_work_together_are_named(changes: dict[str, Any], parts: str) -> None:
    with pytest.raises(ConfigError, match=parts):
        apply(Config(), changes).validate()


@pytest.mark.parametrize(
    "changes",
    [
        {"tune.average_first": 1, "tune.average_last": 26, "train.steps": 10**6},  # how many epochs these are, the clips decide
        {"tune.average_first": 1, "tune.average_last": 25, "train.epochs": 24.6},  # the nearest step may end the 25th
        {"augment.specaug_time": 192, "model.audio_frames": 96, "tune.mode": "videoonly"},
        {"requires": ("data.path",), "data.source": "builtin"},
        {"requires": ("init_from",), "init_from": "runs/x"},
        {"mesh.data": 1, "mesh.fsdp": -1},
    ],
)
def test_values_that_may_work_pass(changes: dict[str, Any]) -> None:
    apply(Config(), changes).validate()


def test_every_group_of_settings_has_its_rules() -> None:
    assert [*Config().groups] == ["model", "loss", "tune", "optim", "data", "augment", "mesh", "train"]
    assert all(type(group).validate is not Settings.validate for group in Config().groups.values())
