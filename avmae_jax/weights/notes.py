"""Stores beside weights what a user of the model must know: normalisation, mode, labels, calibration.

It goes with the weights from file to file.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from avmae_jax.config import (
    AUDIO_MEAN,
    AUDIO_STD,
    Applied,
    AppliedConfig,
    Channels,
    LossConfig,
    ModelConfig,
    Normalise,
    ReadConfig,
    TuneConfig,
)
from avmae_jax.config_history import OLDER_DTYPE, older_kind
from avmae_jax.errors import some
from avmae_jax.models.registry import kind_of
from avmae_jax.weights.calibration import Calibration, from_json, to_json

_FIELDS = {
    "data": ("audio_mean", "audio_std", "channels", "normalise", "frames"),
    "loss": ("norm_pix",),
    "tune": ("mode", "loss"),
}  # fields stored, by their group in AppliedConfig; data.frames of models of pairs alone


@dataclasses.dataclass(frozen=True)
class Notes:
    """Describes how a model was trained, as far as its input and output depend on it. The defaults are the original's."""

    audio_mean: float = AUDIO_MEAN  # of the log-mel; see ReadConfig
    audio_std: float = AUDIO_STD
    channels: str = "first"  # of audio
    normalise: str = ReadConfig.normalise  # the log-mel by those two values, or by each clip's own
    frames: int = ReadConfig.frames  # of a model of pairs: images of each clip that it was trained with; 0: unknown
    norm_pix: bool = LossConfig.norm_pix  # predictions are of patches normalised one by one
    mode: str = TuneConfig.mode  # in which a classifier was tuned
    loss: str = TuneConfig.loss  # bce: several classes a clip; ce: one
    label_names: tuple[str, ...] = ()  # of a classifier's classes, in their order; empty where none are stored
    calibration: Calibration | None = None  # of a classifier

    def config(self, model: ModelConfig) -> AppliedConfig:
        """Returns a config of the model with these fields set."""
        data = {name: getattr(self, name) for name in _FIELDS["data"]}
        return AppliedConfig(
            model=model,
            data=ReadConfig(**data),
            loss=LossConfig(norm_pix=self.norm_pix),
            tune=TuneConfig(mode=self.mode, loss=self.loss),
        )


def notes_of(config: Applied, label_names: Sequence[str], calibration: Calibration | None = None) -> Notes:
    """Extracts from a config what must be stored beside weights."""
    values = {name: getattr(getattr(config, group), name) for group, names in _FIELDS.items() for name in names}
    values["audio_mean"], values["audio_std"] = config.data.normalisation
    return Notes(**values, label_names=tuple(label_names), calibration=calibration)


def model_config(meta: Mapping[str, Any], *, classifies: bool) -> ModelConfig:
    """Reads the model's config that is stored beside weights; fields that didn't exist when it was stored have their defaults.

    Args:
      meta: of a checkpoint or a file.
      classifies: whether the weights have a classification head, from which the kind of older models is derived.

    Raises:
      ValueError: naming the field and its value, if a field is unknown or can't have this value.
    """
    config, kinds = meta.get("config"), get_type_hints(ModelConfig)
    fields = config.get("model") if isinstance(config, dict) else None
    if not isinstance(fields, dict):
        raise ValueError("has no model config, which this project stores in every checkpoint; was it written by another program?")
    if unknown := [name for name in fields if name not in kinds]:
        raise ValueError(f"its config has fields unknown here: {some(unknown)}; it was written by a newer version, update avmae_jax")
    for name, value in fields.items():
        kind = kinds[name] | int if kinds[name] is float else kinds[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"its config says that model.{name} is {str(value)[:40]!r}, which it can't be")
    config = ModelConfig(**{"compute_dtype": OLDER_DTYPE, **fields})
    if "kind" not in fields:
        config.kind = older_kind(config.modality, classifies=classifies)
    config.validate()
    kind_of(config)
    return config


def to_meta(model: ModelConfig, notes: Notes) -> dict[str, Any]:
    """Returns what is stored beside weights, in the same places as in a run's checkpoint."""
    config = dataclasses.asdict(notes.config(model))
    groups = {group: {name: config[group][name] for name in names} for group, names in _FIELDS.items()}
    if not kind_of(model).pairs:
        del groups["data"]["frames"]
    calibration = {} if notes.calibration is None else {"calibration": to_json(notes.calibration)}
    return {"config": {"model": config["model"], **groups}, "label_names": list(notes.label_names), **calibration}


def from_meta(meta: Mapping[str, Any], classes: int) -> Notes:
    """Reads the notes of a checkpoint, or of a file with the output of to_meta; what isn't stored gets its default.

    Args:
      meta: with "config", and "label_names" and "calibration" beside it.
      classes: C of the weights; 0 for a pretraining model.

    Raises:
      ValueError: naming the field and its value, if a field is unknown or can't have this value.
    """
    config, values = meta.get("config"), {}
    for group, names in _FIELDS.items():
        noted = config.get(group, {}) if isinstance(config, Mapping) else {}
        for name in names:
            default = getattr(Notes, name)
            value = noted.get(name, default) if isinstance(noted, Mapping) else noted
            value = default if value is None else value  # left open where no run has decided it
            kind = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, kind) or (isinstance(value, bool) and not isinstance(default, bool)):
                raise ValueError(f"its config says that {group}.{name} is {str(value)[:40]!r}, which it can't be")
            values[name] = value
    if not (math.isfinite(values["audio_mean"]) and math.isfinite(values["audio_std"]) and values["audio_std"] > 0):
        raise ValueError(f"its config says that data.audio_mean is {values['audio_mean']} and data.audio_std {values['audio_std']}")
    if values["frames"] < 0:
        raise ValueError(f"its config says that data.frames is {values['frames']}, which it can't be")
    for name, choices in (("channels", get_args(Channels)), ("normalise", get_args(Normalise))):
        if values[name] not in choices:
            raise ValueError(f"its config says that data.{name} is {values[name][:40]!r}; it can be {' or '.join(choices)}")
    TuneConfig(mode=values["mode"], loss=values["loss"]).validate()
    names = meta.get("label_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) not in (0, classes):
        raise ValueError(f"its label_names must be a list of {classes} names, one for each class")
    calibration = None if meta.get("calibration") is None else from_json(meta["calibration"], classes)
    return Notes(**values, label_names=tuple(names), calibration=calibration)
