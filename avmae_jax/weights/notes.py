"""What a user of a model must know beside its weights and sizes; it travels with the weights from file to file."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from avmae_jax.config import Config, DataConfig, LossConfig, ModelConfig, TuneConfig, older_kind
from avmae_jax.errors import some
from avmae_jax.models.registry import kind_of

_FIELDS = {"data": ("audio_mean", "audio_std"), "loss": ("norm_pix",), "tune": ("mode", "loss")}  # groups of Config


@dataclasses.dataclass(frozen=True)
class Notes:
    """How a model was trained, as far as whoever applies it must do likewise. The defaults are the original's."""

    audio_mean: float = DataConfig.audio_mean  # of the log-mel; see DataConfig
    audio_std: float = DataConfig.audio_std
    norm_pix: bool = LossConfig.norm_pix  # predictions are of patches normalised one by one
    mode: str = TuneConfig.mode  # what a classifier was tuned on
    loss: str = TuneConfig.loss  # bce: several classes a clip; ce: one
    label_names: tuple[str, ...] = ()  # of a classifier's classes, in their order; empty where nobody noted them

    def config(self, model: ModelConfig) -> Config:
        """A config of the model with these fields set; what it says of a run has no meaning."""
        return Config(
            model=model,
            data=DataConfig(audio_mean=self.audio_mean, audio_std=self.audio_std),
            loss=LossConfig(norm_pix=self.norm_pix),
            tune=TuneConfig(mode=self.mode, loss=self.loss),
        )


def notes_of(config: Config, label_names: Sequence[str]) -> Notes:
    """Extracts from a config what must be stored beside weights."""
    values = {name: getattr(getattr(config, group), name) for group, names in _FIELDS.items() for name in names}
    return Notes(**values, label_names=tuple(label_names))


def model_config(meta: Mapping[str, Any], *, classifies: bool) -> ModelConfig:
    """Reads the model's config that is stored beside weights; fields that didn't exist when it was stored have their defaults.

    Args:
      meta: of a checkpoint or a file.
      classifies: whether the weights have a classification head, from which the kind of older models is derived.

    Raises:
      ValueError: naming the field that can't be.
    """
    config, kinds = meta.get("config"), get_type_hints(ModelConfig)
    fields = config.get("model") if isinstance(config, dict) else None
    if not isinstance(fields, dict):
        raise ValueError("says nothing of the model's config, which training of this project notes; was it written by something else?")
    if unknown := [name for name in fields if name not in kinds]:
        raise ValueError(f"its config has fields unknown here: {some(unknown)}; it was written by a newer version, update avmae_jax")
    for name, value in fields.items():
        kind = kinds[name] | int if kinds[name] is float else kinds[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"its config says that model.{name} is {str(value)[:40]!r}, which it can't be")
    config = ModelConfig(**fields)
    if "kind" not in fields:
        config.kind = older_kind(config.modality, classifies=classifies)
    config.validate()
    kind_of(config)
    return config


def to_meta(model: ModelConfig, notes: Notes) -> dict[str, Any]:
    """What is noted beside weights, in the places where a run's checkpoint has it."""
    config = dataclasses.asdict(notes.config(model))
    groups = {group: {name: config[group][name] for name in names} for group, names in _FIELDS.items()}
    return {"config": {"model": config["model"], **groups}, "label_names": list(notes.label_names)}


def from_meta(meta: Mapping[str, Any], classes: int) -> Notes:
    """The notes of a checkpoint, or of a file that to_meta's were written to; what isn't noted has its default.

    Args:
      meta: with "config", and "label_names" beside it.
      classes: C of the weights; 0 for a pretraining model.

    Raises:
      ValueError: naming the field that can't be.
    """
    config, values = meta.get("config"), {}
    for group, names in _FIELDS.items():
        noted = config.get(group, {}) if isinstance(config, Mapping) else {}
        for name in names:
            default = getattr(Notes, name)
            value = noted.get(name, default) if isinstance(noted, Mapping) else noted
            kind = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, kind) or (isinstance(value, bool) and not isinstance(default, bool)):
                raise ValueError(f"its config says that {group}.{name} is {str(value)[:40]!r}, which it can't be")
            values[name] = value
    if not (math.isfinite(values["audio_mean"]) and math.isfinite(values["audio_std"]) and values["audio_std"] > 0):
        raise ValueError(f"its config says that data.audio_mean is {values['audio_mean']} and data.audio_std {values['audio_std']}")
    TuneConfig(mode=values["mode"], loss=values["loss"]).validate()
    names = meta.get("label_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) not in (0, classes):
        raise ValueError(f"it has {classes} classes and label_names that aren't a list of as many names")
    return Notes(**values, label_names=tuple(names))
