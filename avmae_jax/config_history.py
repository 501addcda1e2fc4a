"""Reads the configs of older runs, and compares a run's config with that of its checkpoint.

A stored config is what `dataclasses.asdict` made of it when the run began: it lacks fields that are newer.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, cast

from avmae_jax.config import Config
from avmae_jax.errors import CheckpointMismatchError, ConfigError
from avmae_jax.settings import flatten_fields

OLDER_DTYPE = "float32"  # of runs from before model.compute_dtype, which has become "auto"


def is_config(saved: Any) -> bool:
    """Returns whether the content of a JSON file can be the config of a run."""
    groups = cast("dict[str, Any]", saved) if isinstance(saved, dict) else {}
    return all(isinstance(groups.get(name), dict) for name in ("model", "data", "train"))


def with_defaults(saved: Mapping[str, Any], *, classifies: bool = False) -> dict[str, Any]:
    """Returns an older run's config, as `dataclasses.asdict` gave it, with today's defaults for the fields that it lacks.

    The defaults reproduce what was done before there was a choice; a new field of which that isn't true needs a rule here. Fields that no
    longer exist stay, for the caller to refuse by name. `classifies` says whether the run fine-tuned a classifier.

    Raises:
      ConfigError: if a group of fields is saved as something else.
    """
    defaults = dataclasses.asdict(Config())
    for name, value in defaults.items():
        if isinstance(value, dict) and not isinstance(saved.get(name, {}), Mapping):
            raise ConfigError(f"{name} is {saved[name]!r}; it must be a group of fields")
    groups: dict[str, dict[str, Any]] = {
        name: {**value, **saved.get(name, {})} for name, value in defaults.items() if isinstance(value, dict)
    }
    groups["model"]["compute_dtype"] = saved.get("model", {}).get("compute_dtype", OLDER_DTYPE)
    groups["model"]["kind"] = saved.get("model", {}).get("kind") or older_kind(groups["model"]["modality"], classifies=classifies)
    return {**defaults, **saved, **groups, "requires": tuple(saved.get("requires", ()))}


def negatives_of(meta: Mapping[str, Any]) -> str:
    """Returns loss.negatives of the run of a checkpoint's meta: in older runs those of a split batch came from one micro-batch."""
    config = with_defaults(meta["config"])
    negatives, split = config["loss"]["negatives"], meta["micro_batch"] < config["train"]["batch_size"]
    return "micro_batch" if negatives == "global" and split and "negatives" not in meta and not meta["label_names"] else negatives


def older_kind(modality: str, *, classifies: bool) -> str:
    """Derives the kind of a model that was saved before configs had `model.kind`."""
    if modality == "both":
        return "cavmae_classifier" if classifies else "cavmae"
    return "ast" if classifies else "mae"


def config_from_dict(saved: Mapping[str, Any], *, classifies: bool = False) -> Config:
    """Returns the config of a run, an older one too, from what `dataclasses.asdict` or its config.json holds.

    Args:
      saved: the fields; those that an older run lacks get their defaults.
      classifies: whether the run fine-tuned a classifier.

    Raises:
      ConfigError: for a field that doesn't exist (any more), with the nearest ones, or a value of a wrong type.
    """
    config = Config()
    for name, value in with_defaults(saved, classifies=classifies).items():
        group = config.groups.get(name)
        if group is None:
            setattr(config, name, value)
        else:
            for field, setting in value.items():
                setattr(group, field, setting)
    return config


def require_same_config(saved: dict[str, Any], current: dict[str, Any], ignore: tuple[str, ...] = ()) -> None:
    """Refuses to go on with another config than the checkpoint's.

    Args:
      saved: nested dict of the checkpoint.
      current: nested dict of this run, e.g. `dataclasses.asdict(config)`.
      ignore: dotted names of fields and groups that may differ, e.g. `("train", "data.workers")`.

    Raises:
      CheckpointMismatchError: naming every other field that differs, with both values.
    """
    old, new = (flatten_fields(json.loads(json.dumps(config))) for config in (saved, current))
    names = [name for name in sorted(old | new) if not any(f"{name}.".startswith(f"{prefix}.") for prefix in ignore)]
    lines = [
        f"{name}: {old.get(name, 'absent')!r} in the checkpoint, {new.get(name, 'absent')!r} now"
        for name in names
        if (name in old) != (name in new) or old.get(name) != new.get(name)
    ]
    if lines:
        raise CheckpointMismatchError(
            "the checkpoint was made with another config; set these fields back or start in another train.workdir:\n  " + "\n  ".join(lines)
        )
