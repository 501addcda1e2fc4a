"""Holds what is known of a model beside its weights: license, data, training, measurements.

The model card says it, and the config.json of a pretrained folder keeps it, so that a copy of the folder knows it too. That file may come
from anybody: texts are single lines of printable characters, and figures have known names.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard, cast

from avmae_jax.data.text_files import shown
from avmae_jax.errors import WeightsError

UNKNOWN = "unknown"  # a hub's word for weights whose license nobody has named
FIGURES = ("accuracy", "mean_average_precision", "loss", "mae_audio", "mae_image", "nce", "r1", "r5", "r10", "median_rank")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")
_LONGEST = 300  # letters of a text
_MOST = 100  # measurements


class Measured(NamedTuple):
    """Holds one row of measurements on held-out clips."""

    given: str  # "audio and image, middle frame", say
    clips: int | None
    figures: dict[str, float]  # by the names that a hub has for them, of FIGURES
    intervals: dict[str, tuple[float, float]]  # the middle 95 % of bootstrap draws, of some of them
    data: str = ""  # name of the data set; "": that of the run


class Facts(NamedTuple):
    """Holds what is known of a model; the defaults know nothing."""

    license: str = UNKNOWN  # of the weights, as a hub spells it
    data: str = ""
    training: str = ""
    measured: tuple[Measured, ...] = ()


def require_license(value: Any) -> str:
    """Returns a license; raises WeightsError if no hub could have this identifier for one."""
    if not isinstance(value, str) or not _LICENSE.fullmatch(value):
        raise WeightsError(f"license is {shown(value)}; give a hub's identifier of it, such as apache-2.0, cc-by-4.0 or {UNKNOWN}")
    return value


def is_real(value: Any) -> TypeGuard[float]:
    """Returns whether a value of a JSON file is a finite number; raises OverflowError for one that no float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> TypeGuard[int]:
    """Returns whether a value of a JSON file is a number of things."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def to_json(facts: Facts) -> dict[str, Any]:
    """Returns what config.json keeps; texts become what from_json accepts."""
    texts = {"license": facts.license, "data": _one_line(facts.data), "training": _one_line(facts.training)}
    return {**texts, "measured": [_to_json(row) for row in facts.measured[:_MOST]]}


def from_json(content: Any) -> Facts:
    """Reads the output of to_json; raises ValueError, naming the field and its value, for anything else."""
    fields = _object("facts", content, Facts._fields)
    license, rows = require_license(fields["license"]), fields["measured"]  # noqa: A001 - the hub's own word
    if not isinstance(rows, list) or len(rows) > _MOST:
        raise ValueError(f"facts.measured is {shown(rows)}, and must be a list of at most {_MOST} objects")
    measured = tuple(_measured(f"facts.measured[{number}]", row) for number, row in enumerate(rows))
    return Facts(license, _text("facts.data", fields["data"]), _text("facts.training", fields["training"]), measured)


def _to_json(row: Measured) -> dict[str, Any]:
    intervals = {name: [low, high] for name, (low, high) in row.intervals.items()}
    return {**row._asdict(), "given": _one_line(row.given), "intervals": intervals, "data": _one_line(row.data)}


def _measured(name: str, content: Any) -> Measured:
    fields = _object(name, content, Measured._fields)
    clips, pairs = fields["clips"], fields["intervals"]
    if not (clips is None or is_count(clips)):
        raise ValueError(f"{name}.clips is {shown(clips)}, and must be a number of clips, or null")
    if not isinstance(pairs, dict) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs.values()):
        raise ValueError(f"{name}.intervals is {shown(pairs)}, and must be an object of pairs of numbers")
    low, high = (_figures(f"{name}.intervals", {figure: pair[end] for figure, pair in pairs.items()}) for end in (0, 1))
    intervals = {figure: (low[figure], high[figure]) for figure in low}
    figures = _figures(f"{name}.figures", fields["figures"])
    return Measured(_text(f"{name}.given", fields["given"]), clips, figures, intervals, _text(f"{name}.data", fields["data"]))


def _figures(name: str, content: Any) -> dict[str, float]:
    if not isinstance(content, dict) or not {*content} <= {*FIGURES} or not all(map(is_real, content.values())):
        raise ValueError(f"{name} is {shown(content)}, and must be an object of finite numbers named {', '.join(FIGURES)}")
    return {figure: float(value) for figure, value in content.items()}


def _object(name: str, content: Any, fields: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(content, dict) or {*content} != {*fields}:
        raise ValueError(f"{name} is {shown(content)}, and must be an object of {', '.join(fields)}")
    return cast("Mapping[str, Any]", content)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or value != _one_line(value):
        raise ValueError(f"{name} is {shown(value)}, and must be one line of at most {_LONGEST} printable characters")
    return value


def _one_line(text: str) -> str:
    """Returns a text on one line, with spaces in place of characters that can't be printed, which YAML refuses."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:_LONGEST].rstrip()
