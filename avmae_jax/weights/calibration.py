"""Keeps what makes a classifier's probabilities mean what they say: a temperature for each mode, and a threshold for each class.

A run keeps them as calibration.json beside the steps of the weights that they belong to (checkpoints/, best/, averaged/, ema/), a file of
weights as FILE_calibration.json or in its own notes. evals/calibration/temperature.py fits them.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from avmae_jax.data.text_files import read_json
from avmae_jax.errors import DatasetError, WeightsError

FILE = "calibration.json"


@dataclasses.dataclass(frozen=True)
class ModeCalibration:
    """Holds the calibration of one mode; the defaults change nothing."""

    temperature: float = 1.0  # that the logits are divided by
    thresholds: tuple[float, ...] = ()  # C probabilities from which on a class is named; (): the likeliest class alone is


PLAIN = ModeCalibration()


@dataclasses.dataclass(frozen=True, repr=False)
class Calibration:
    """Holds the calibration of a classifier."""

    weights: str  # fingerprint of the parameters that it belongs to
    clips: str  # hash_of_ids of the clips that it was fitted to
    modes: tuple[tuple[str, ModeCalibration], ...]  # by the name of the mode

    def of(self, mode: object) -> ModeCalibration:
        """Returns the calibration of a mode, by its name; one that changes nothing where it isn't calibrated."""
        return dict(self.modes).get(str(mode), PLAIN)

    def __repr__(self) -> str:
        return f"<Calibration of {', '.join(name for name, _ in self.modes)}>"


def of_mode(calibration: Calibration | None, mode: object) -> ModeCalibration:
    """Returns the calibration of a mode of a classifier that may have none."""
    return PLAIN if calibration is None else calibration.of(mode)


def fingerprint(params: Mapping[str, Any]) -> str:
    """Identifies parameters by the SHA-256 of their values, rounded to half precision, so that a file of that precision keeps it."""
    digest = hashlib.sha256()
    for name, values in sorted(params.items()):
        with np.errstate(over="ignore"):
            rounded = np.ascontiguousarray(np.asarray(values, np.float32).astype(np.float16))
        digest.update(f"{name} {rounded.shape}".encode())
        digest.update(rounded.tobytes())
    return digest.hexdigest()


def hash_of_ids(ids: Iterable[str]) -> str:
    """Computes the SHA-256 of the ids of clips, in whatever order."""
    return hashlib.sha256("\n".join(sorted(ids)).encode("utf-8", "surrogatepass")).hexdigest()


def to_json(calibration: Calibration) -> dict[str, Any]:
    """Returns what is stored in the notes of a file."""
    modes = {name: {"temperature": mode.temperature, "thresholds": list(mode.thresholds)} for name, mode in calibration.modes}
    return {"weights": calibration.weights, "clips": calibration.clips, "modes": modes}


def from_json(content: Any, classes: int) -> Calibration:
    """Reads the output of to_json; other fields beside it, which people read, have no effect.

    Raises:
      ValueError: naming the field and its value, if one is missing or can't be what it is.
    """
    fields = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    for name in ("weights", "clips"):
        if not isinstance(fields.get(name), str):
            raise ValueError(f"its calibration says that {name} is {str(fields.get(name))[:40]!r}, which it can't be")
    modes = fields.get("modes")
    if not isinstance(modes, dict) or not modes:
        raise ValueError(f"its calibration says that modes is {str(modes)[:40]!r}, which it can't be")
    return Calibration(fields["weights"], fields["clips"], tuple((str(name), _mode(name, row, classes)) for name, row in modes.items()))


def _mode(name: str, row: Any, classes: int) -> ModeCalibration:
    fields = cast("dict[str, Any]", row) if isinstance(row, dict) else {}
    temperature: Any = fields.get("temperature")
    thresholds: Any = fields.get("thresholds")
    if not _is_number(temperature) or temperature <= 0:
        raise ValueError(f"its calibration says that the temperature of {name} is {str(temperature)[:40]!r}; it must be above 0")
    if not isinstance(thresholds, list) or len(thresholds) not in (0, classes):
        raise ValueError(
            f"its calibration says that the thresholds of {name} are {str(thresholds)[:40]!r}; there must be {classes} or none"
        )
    if wrong := [value for value in thresholds if not _is_number(value) or not 0 <= value <= 1]:
        raise ValueError(f"its calibration says that a threshold of {name} is {str(wrong[0])[:40]!r}; it must lie in [0, 1]")
    return ModeCalibration(float(temperature), tuple(map(float, thresholds)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def file_beside(path: Path) -> Path:
    """Returns the place of the calibration of the weights at a path: a run's folder, a folder of checkpoints, one step, or a file."""
    if path.is_file():
        return path.with_name(f"{path.name}_{FILE}")
    if (path / "checkpoints").is_dir():
        return path / "checkpoints" / FILE
    return (path.parent if path.name.isdigit() and (path / "meta").exists() else path) / FILE


def read_beside(path: Path, classes: int) -> Calibration | None:
    """Reads the calibration of the weights at a path; None if there is none. Raises WeightsError naming the file if it is damaged."""
    file = file_beside(path)
    if not file.exists():
        return None
    try:
        return from_json(read_json(file), classes)
    except (DatasetError, ValueError) as error:
        place = "" if str(error).startswith(str(file)) else f"{file}: "
        raise WeightsError(f"{place}{error}; fit it again with launch.calibrate, or remove the file") from error


def require_of(calibration: Calibration, params: Mapping[str, Any], path: Path) -> None:
    """Raises WeightsError if a calibration belongs to other weights than those at a path."""
    if calibration.weights == fingerprint(params):
        return
    file = file_beside(path)
    where, remove = (file, " or remove the file") if file.exists() else (path, "")
    raise WeightsError(
        f"{where}: its calibration was fitted to other weights (another step, or changed ones); "
        f"fit it again, python -m launch.calibrate {path},{remove or ' or save the model anew'}"
    )
