"""Tests that changed bytes and values that no weights have are found."""

import contextlib
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from avmae_jax.errors import WeightsError
from avmae_jax.weights.io import read, write
from tests.support import made
from tests.weights.files import assert_same, message


def test_every_flipped_bit_of_our_file_is_refused_or_changes_nothing(tmp_path: Path, official: Path) -> None:
    """Flips bits; only one in "format", which nobody reads, leaves a file that is read."""
    content, rng = official.read_bytes(), np.random.default_rng(0)
    header = 8 + struct.unpack("<Q", content[:8])[0]
    unread, named = content.index(b'"format":"pt"'), content.index(b"avmae_jax.sha256")
    want, path = read(official), tmp_path / "w.safetensors"
    for place in [*rng.integers(len(content), size=60), *rng.integers(header, size=60), *range(named, named + 16)]:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        if unread <= place < unread + 16:
            with contextlib.suppress(WeightsError):
                assert_same(read(path), want)
        else:
            message(path)


def test_a_file_whose_tensors_or_note_were_changed_is_refused(tmp_path: Path, official: Path) -> None:
    with safe_open(official, "numpy") as file:
        metadata = file.metadata()
    changed = load_file(official)
    changed["norm_a.bias"] = changed["norm_a.bias"] + 1
    save_file(changed, tmp_path / "w.safetensors", metadata)
    assert "avmae_jax.sha256" in message(tmp_path / "w.safetensors")
    note = metadata["avmae_jax.meta"].replace('"audio_std": 4.4849', '"audio_std": 4.4949')
    save_file(load_file(official), tmp_path / "w.safetensors", metadata | {"avmae_jax.meta": note})
    assert "avmae_jax.sha256" in message(tmp_path / "w.safetensors")
    del metadata["avmae_jax.sha256"]  # as a file of before there was a checksum
    save_file(changed, tmp_path / "w.safetensors", metadata)
    read(tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["w.safetensors", "run"])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float, tmp_path: Path) -> None:
    weights = made()
    weights.params["encoder.norm.audio.bias"][1] = value
    write(weights, tmp_path / name)
    said = message(tmp_path / name)
    assert ("encoder.norm.audio.bias" if name == "run" else "norm_a.bias") in said
    assert "\n" not in said


def test_weights_of_the_original_raise_no_warning(logged: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    tensors = {name: 50 * tensor for name, tensor in made().params.items()}
    write(made()._replace(params=tensors), tmp_path / "w.safetensors")
    read(tmp_path / "w.safetensors")
    assert not [record for record in logged.records if record.levelno >= logging.WARNING]
    tensors["encoder.norm.audio.bias"][1] = 1e20
    write(made()._replace(params=tensors), tmp_path / "run")
    read(tmp_path / "run")
    (warning,) = [record.getMessage() for record in logged.records if record.levelno >= logging.WARNING]
    assert "encoder.norm.audio.bias (1.0e+20)" in warning
