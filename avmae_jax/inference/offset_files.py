"""Stores the calibration of a model's offsets beside the model: launch.sync_check writes it, and whatever finds offsets reads it."""

import io
from pathlib import Path

import numpy as np

from avmae_jax.errors import DatasetError
from avmae_jax.files import replacing
from avmae_jax.inference.embed import fingerprint
from avmae_jax.inference.offset import Calibration
from avmae_jax.weights.places import results_folder
from avmae_jax.weights.trained import Trained

FOLDER, CALIBRATION = "sync_check", "offset.npz"
_FORMAT = 2  # one more where the scores change that a calibration was fitted to
_FIELDS = ("audio", "image", "weights", "threshold")


def write_calibration(path: Path, calibration: Calibration, fingerprint: str) -> None:
    """Writes an .npz with a calibration and the fingerprint of its encoder; raises OSError."""
    buffer = io.BytesIO()
    arrays = {name: np.asarray(getattr(calibration, name)) for name in _FIELDS}
    np.savez(buffer, format=np.array(_FORMAT), fingerprint=np.array(fingerprint), **arrays)  # pyright: ignore[reportArgumentType] - arrays, whatever their names
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_calibration(path: Path, fingerprint: str) -> Calibration:
    """Reads what write_calibration wrote.

    Raises:
      DatasetError: if it can't be read, belongs to another encoder, or was fitted to scores of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in (*_FIELDS, "fingerprint")}
            version = int(arrays["format"]) if "format" in arrays else 1
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DatasetError(f"{path} is no calibration of launch.sync_check: {error}; write it again, or remove it") from error
    if str(found.pop("fingerprint")) != fingerprint:
        raise DatasetError(f"{path} belongs to other weights; run launch.sync_check again, or remove it")
    if version != _FORMAT:
        raise DatasetError(f"{path} was written by another version of this library; run launch.sync_check again, or remove it")
    constant, score, lead = found["weights"].tolist()
    maps = found["audio"].astype(np.float32), found["image"].astype(np.float32)
    return Calibration(*maps, (constant, score, lead), float(found["threshold"]))


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
