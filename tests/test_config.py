"""Settings: overrides from the command line are typed, derived values follow, and sizes that can't work are named."""

import copy
import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections.config_flags import config_flags

from avmae_jax.config import SIZES, Config, ModelConfig, TrainConfig, with_defaults

# ml_collections 1.1 loads config files in a way that Python 3.12 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "some.py"
    path.write_text("from avmae_jax.config import Config\n\n\ndef get_config():\n    return Config(name='some')\n")
    return path


def _parse(config_file: Path, *overrides: str) -> Config:
    """What `--config config_file overrides` on a command line gives."""
    values, argv = flags.FlagValues(), ["program", f"--config={config_file}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
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
def test_every_field_has_a_default_of_its_type_and_can_be_overridden(config_file: Path, name: str, kind: Any, value: Any) -> None:
    if isinstance(kind, types.UnionType):
        kind = next(option for option in kind.__args__ if option is not type(None))
        assert value is None
    else:
        assert type(value) is kind
    text, expected = {"bool": ("true", True), "int": ("7", 7), "float": ("2.5", 2.5), "str": ("word", "word")}[kind.__name__]
    config = _parse(config_file, f"--config.{name}={text}")
    *parents, last = name.split(".")
    for parent in parents:
        config = getattr(config, parent)
    assert getattr(config, last) == expected
    assert type(getattr(config, last)) is kind


@pytest.mark.parametrize(
    "override",
    ["train.batch_size=many", "train.batch_size=2.5", "model.remat=7", "optim.learning_rate=fast", "model.depth=deep", "model.depth=1.5"],
)
def test_a_value_of_a_wrong_type_is_refused(config_file: Path, override: str) -> None:
    with pytest.raises(flags.IllegalFlagValueError, match=override.split("=")[0]):
        _parse(config_file, f"--config.{override}")


@pytest.mark.parametrize("override", ["train.batchsize=4", "trian.batch_size=4", "sizes=big", "model.audio_grid=3"])
def test_an_unknown_field_is_refused(config_file: Path, override: str) -> None:
    *_, first_wrong = [part for part in override.split("=")[0].split(".") if part not in ("train", "model", "batch_size")]
    with pytest.raises(KeyError, match=first_wrong):
        _parse(config_file, f"--config.{override}")


def test_derived_values_follow_an_override(config_file: Path) -> None:
    config = _parse(
        config_file, "--config.model.size=tiny", "--config.model.width=64", "--config.model.audio_frames=96", "--config.model.patch=8"
    )
    assert config.name == "some"
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
        ({"compute_dtype": "float16"}, "model.compute_dtype is 'float16'; choose float32 or bfloat16"),
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
