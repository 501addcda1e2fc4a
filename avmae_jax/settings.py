"""Offers a base class for groups of settings, which checks every field's name and type when it is set.

A dataclass alone accepts `train.batchsize = 3` and `train.batch_size = "3"` without a word, and the run then trains with something else.
"""

import difflib
import functools
import math
import numbers
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, Self, cast

from avmae_jax.errors import ConfigError

_NEAR = 3  # names suggested in place of an unknown one


class Settings:
    """Checks fields when they are set, for every config dataclass; `group` is the group's place in a config, such as "train"."""

    _group = ""

    def __init_subclass__(cls, group: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._group = group

    def __new__(cls, *_: Any, **fields: Any) -> Self:
        """Refuses unknown fields before the dataclass does, which would not suggest the right ones; raises ConfigError."""
        for name in fields:
            cls.require_field(name)
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a field; raises ConfigError for a name that isn't a field or a value of a wrong type."""
        self.require_field(name)
        object.__setattr__(self, name, _checked(self.dotted(name), field_types(type(self))[name], value))

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work; each group has its own rules."""
        raise NotImplementedError

    @classmethod
    def dotted(cls, name: str) -> str:
        """Returns a field's full name: "train.batch_size"."""
        return f"{cls._group}.{name}" if cls._group else name

    @classmethod
    def require_field(cls, name: str) -> None:
        """Raises ConfigError, naming the nearest fields, unless there is a field of this name."""
        if name not in (fields := field_types(cls)):
            close = [cls.dotted(near) for near in difflib.get_close_matches(name, fields, _NEAR, cutoff=0.5)]
            hint = f"nearest: {', '.join(close)}" if close else f"fields: {', '.join(map(cls.dotted, fields))}"
            raise ConfigError(f"{cls.dotted(name)} is no field of the config; {hint}")

    @property
    def groups(self) -> dict[str, "Settings"]:
        """Returns the groups of settings that are fields of this one, by name: model, loss, ..."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Settings)}

    def holder(self, dotted: str) -> "Settings":
        """Returns the group that has the field of this full name, or these settings themselves; raises ConfigError if there is none."""
        holder: Settings = self
        *groups, field = dotted.split(".")
        for name in groups:
            holder.require_field(name)
            value: object = getattr(holder, name)
            if not isinstance(value, Settings):
                raise ConfigError(f"{dotted} is no field of the config, since {name} is a value and no group")
            holder = value
        holder.require_field(field)
        value = getattr(holder, field)
        if isinstance(value, Settings):
            raise ConfigError(f"{dotted} is a group of fields; set one of them: {', '.join(vars(value))}")
        return holder

    def require(self, name: str, met: bool, rule: str) -> None:
        """Raises ConfigError with the field, its value and the rule that it breaks, unless the rule is met."""
        if not met:
            value = getattr(self, name)
            raise ConfigError(f"{self.dotted(name)} is {value!r}; {rule}")

    def require_choice(self, name: str, choices: Collection[str]) -> None:
        """Raises ConfigError unless a field is one of the choices."""
        self.require(name, getattr(self, name) in choices, f"choose one of {', '.join(choices)}")

    def require_positive(self, *names: str) -> None:
        """Raises ConfigError for a field that isn't above 0."""
        for name in names:
            self.require(name, getattr(self, name) > 0, "it must be positive")

    def require_not_negative(self, *names: str) -> None:
        """Raises ConfigError for a field that isn't 0 or more."""
        for name in names:
            self.require(name, getattr(self, name) >= 0, "it must be 0 or more")

    def require_share(self, *names: str, one: bool = True) -> None:
        """Raises ConfigError for a field outside [0, 1], or without `one` outside [0, 1)."""
        for name in names:
            value = getattr(self, name)
            self.require(name, 0 <= value < 1 or (one and value == 1), f"it must lie in [0, 1{']' if one else ')'}")


@functools.cache
def field_types(group: type) -> dict[str, Any]:
    """Returns the type of every field of a settings dataclass, by name."""
    return {name: hint for name, hint in typing.get_type_hints(group).items() if not name.startswith("_")}


def _checked(name: str, kind: Any, value: Any) -> Any:
    """Returns the value as its field stores it: a whole number becomes a float where one belongs, a list a tuple."""
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
        return _checked(name, kind, value)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(item, typing.get_args(kind)[0]) for item in value):
            return tuple(value)
    elif kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        if isinstance(value, number) and not isinstance(value, bool):
            if kind is float and not math.isfinite(value):
                raise ConfigError(f"{name} is {value}; it must be finite")
            return kind(value)  # pyright: ignore[reportArgumentType]
    elif isinstance(value, kind):
        return value
    wanted = f"a tuple of {typing.get_args(kind)[0].__name__}" if typing.get_origin(kind) is tuple else kind.__name__
    raise ConfigError(f"{name} is {value!r}, of type {type(value).__name__}; it must be {wanted}")


def flatten_fields(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Gives the fields of nested mappings, such as a config's, their dotted names; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        nested = isinstance(value, dict) and bool(value)  # pyright: ignore[reportUnknownArgumentType]
        flat |= flatten_fields(cast("dict[str, Any]", value), f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat
