"""Reads the arguments --config.FIELD of a command line, as far as the library that parses them can't."""

import re
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import get_args

from avmae_jax.config import Config
from avmae_jax.settings import field_types

OPEN = "None"  # value that opens a field again
_OVERRIDE = re.compile(r"--?(?P<no>no)?config\.(?P<field>[^=]+)(=(?P<value>.*))?", re.DOTALL)


def require_known_fields(arguments: Sequence[str]) -> None:
    """Raises ConfigError, with the nearest fields, if an argument --config.FIELD sets something that is no field."""
    for _, _, field, _ in _overrides(arguments):
        Config().holder(field)


def without_opened(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes away the arguments --config.FIELD=None of those fields that may be None.

    Returns:
      The other arguments, and the fields of which None is the last value.
    """
    kept = dict(enumerate(arguments))
    opened: dict[str, None] = {}
    for place, count, field, value in _overrides(arguments):
        opened.pop(field, None)
        if value is not None and value.lower() == OPEN.lower() and _may_be_none(field):
            opened[field] = None
            for part in range(place, place + count):
                del kept[part]
    return list(kept.values()), list(opened)


def _overrides(arguments: Sequence[str]) -> Iterator[tuple[int, int, str, str | None]]:
    """Yields the place, the number of arguments, the field and the value of each override; a value may be an argument of its own."""
    for place, argument in enumerate(arguments):
        if argument == "--":
            return
        if match := _OVERRIDE.fullmatch(argument):
            follows = match["value"] is None and place + 1 < len(arguments) and not match["no"]
            yield place, 1 + follows, match["field"], arguments[place + 1] if follows else match["value"]


def _may_be_none(field: str) -> bool:
    return NoneType in get_args(field_types(type(Config().holder(field)))[field.rpartition(".")[2]])
