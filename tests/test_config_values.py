"""Tests values that cannot work, alone or together: each is refused by its field."""

import math
from typing import Any

import pytest

from avmae_jax.config import SIZES, Config, ModelConfig
from avmae_jax.errors import ConfigError
from avmae_jax.settings import Settings, field_types
from tests.support import apply


def test_an_unknown_size_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"model\.size.*giant.*tiny, small, base, large, huge"):
        ModelConfig(size="giant").validate()


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_valid_and_larger_than_the_one_before(size: str) -> None:
    ModelConfig(size=size).validate()
    work = [row.depth * row.width**2 for row in SIZES.values()]
    assert work == sorted(work)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_frames": 1000}, r"model\.audio_frames.* 1000.*model\.patch.* 16"),
        ({"mel_bins": 0}, r"model\.mel_bins.* 0.*model\.patch.* 16"),
        ({"image_size": -16}, r"model\.image_size.* -16.*model\.patch.* 16"),
        ({"heads": 7}, r"model\.width.* 768.*model\.heads.* 7"),
        ({"decoder_heads": 3}, r"model\.decoder_width.* 512.*model\.decoder_heads.* 3"),
        ({"width": 6, "heads": 1}, r"model\.width.* 6.* 4"),
        ({"decoder_width": 6, "decoder_heads": 1}, r"model\.decoder_width.* 6.* 4"),
        ({"joint_depth": 0}, r"model\.joint_depth.* 0.* 12"),
        ({"joint_depth": 13}, r"model\.joint_depth.* 13.* 12"),
        ({"compute_dtype": "float16"}, r"model\.compute_dtype.*float16.*float32.*bfloat16"),
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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_may_be_infinite_or_none_at_all(value: float) -> None:
    for name, group in Config().groups.items():
        for field in (field for field, kind in field_types(type(group)).items() if "float" in str(kind)):
            with pytest.raises(ConfigError, match=rf"{name}\.{field} is "):
                setattr(group, field, value)


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
        ("optim.kind", "sgd"),
        ("optim.schedule", "linear"),
        ("optim.warmup_steps", -1),
        ("optim.warmup_share", 1.0),
        ("optim.cosine_floor", 1.1),
        ("optim.clip_norm", -0.5),
        ("optim.clip_norm", float("inf")),
        ("optim.layer_decay", 0.0),
        ("optim.layer_decay", 1.01),
        ("optim.layer_decay", float("nan")),
        ("model.drop_path", 1.0),
        ("model.drop_path", -0.1),
        ("model.head_dropout", 1.5),
        ("model.head_pool", "max"),
        ("data.normalise", "batch"),
        ("augment.gain", -1.0),
        ("augment.equaliser", float("inf")),
        ("augment.mel_shift", -2.0),
        ("augment.noise_floor", float("nan")),
        ("augment.brightness", 1.5),
        ("augment.contrast", -0.1),
        ("augment.saturation", 2.0),
        ("augment.hue", 0.6),
        ("augment.cutout", 1.0),
        ("train.ema", 1.0),
        ("train.ema", -0.9),
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
        ("train.matmul_precision", "exact"),
    ],
)
def test_a_value_that_cannot_work_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name.split('.')[0]}\.(?s:.*)"):
        apply(Config(), {name: value}).validate()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"tune.average_first": 1, "tune.average_last": 26}, r"tune\.average_last.*26.*train\.epochs.*25"),
        ({"optim.warmup_steps": 5, "optim.warmup_share": 0.1}, r"optim\.warmup_share.*0\.1.*optim\.warmup_steps.*5"),
        ({"optim.warmup_steps": 101, "train.steps": 100}, r"optim\.warmup_steps.*101.*train\.steps.*100"),
        ({"augment.mel_shift": 128.0}, r"augment\.mel_shift.*128.*model\.mel_bins.*128"),
        ({"mesh.data": 5}, r"train\.batch_size.*48.*5"),
        ({"train.batch_size": 4000}, r"train\.batch_size.*4000.*data\.builtin_train.*1000"),
        (
            {"augment.specaug_time": 192, "model.audio_frames": 96, "model.clip_frames": 160},
            r"augment\.specaug_time.*192.*model\.clip_frames.*160",
        ),
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
        {"augment.specaug_time": 192, "model.audio_frames": 96, "model.clip_frames": 256},
        {"requires": ("data.path",), "data.source": "builtin"},
        {"optim.warmup_steps": 100, "train.steps": 100},
        {"optim.warmup_steps": 10**6},  # how long the run is, the clips decide
        {"requires": ("init_from",), "init_from": "runs/x"},
        {"mesh.data": 1, "mesh.fsdp": -1},
    ],
)
def test_values_that_may_work_pass(changes: dict[str, Any]) -> None:
    apply(Config(), changes).validate()


def test_every_group_of_settings_has_its_rules() -> None:
    assert [*Config().groups] == ["model", "loss", "tune", "optim", "data", "augment", "mesh", "train"]
    assert all(type(group).validate is not Settings.validate for group in Config().groups.values())
