"""Stores the calibration of a model's offsets beside the model: launch.sync_check writes it, and whatever finds offsets reads it."""

import dataclasses
from pathlib import Path

from avmae_jax.data.text_files import read_json
from avmae_jax.errors import DatasetError
from avmae_jax.files import write_json
from avmae_jax.inference.embed import fingerprint
from avmae_jax.inference.offset import UNCALIBRATED, Calibration
from avmae_jax.weights.places import results_folder
from avmae_jax.weights.trained import Trained

FOLDER, CALIBRATION = "sync_check", "offset.json"


def write_calibration(path: Path, calibration: Calibration, fingerprint: str) -> None:
    """Writes a calibration and the fingerprint of its encoder as JSON; raises OSError."""
    write_json(path, {"fingerprint": fingerprint, **dataclasses.asdict(calibration)})


def read_calibration(path: Path, fingerprint: str) -> Calibration:
    """Reads what write_calibration wrote.

    Raises:
      DatasetError: if it can't be read, or belongs to another encoder.
    """
    found = read_json(path)
    try:
        constant, score, lead = map(float, found["weights"])
        rate = float(found.get("rate", UNCALIBRATED.rate))  # older files don't say
        read = Calibration((constant, score, lead), float(found["threshold"]), rate)
        own = found["fingerprint"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is no calibration of launch.sync_check: {error}; write it again, or remove it") from error
    if own != fingerprint:
        raise DatasetError(f"{path} belongs to other weights; run launch.sync_check again, or remove it")
    return read


def calibration_of(trained: Trained) -> Calibration | None:
    """Reads the calibration that lies beside a model; None if there is none.

    Raises:
      DatasetError: if it can't be read, or belongs to other weights.
    """
    file = file_of(trained)
    return read_calibration(file, fingerprint(trained)) if file.is_file() else None


def file_of(trained: Trained) -> Path:
    """Returns where the calibration of a model lies if it has one."""
    return results_folder(trained.path, FOLDER) / CALIBRATION
