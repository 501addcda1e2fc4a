"""Offers what tests of pretrained folders share: weights of every kind with notes, and ways to change and to refuse a folder."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from avmae_jax.models.registry import kind_of
from avmae_jax.weights.calibration import Calibration, ModeCalibration, fingerprint
from avmae_jax.weights.io import Weights
from avmae_jax.weights.notes import Notes
from tests.support import ODD, made
from tests.weights.files import message

AUDIO = dataclasses.replace(ODD, modality="audio", mel_bins=32, audio_frames=32)
IMAGE = dataclasses.replace(ODD, modality="image")
LATE = dataclasses.replace(ODD, kind="late_classifier", head_pool="mean_std", image_factor=0.25)
# As wide as it is trained, on clips longer than its windows.
SYNC = dataclasses.replace(
    ODD, kind="sync", class_token=True, registers=3, mel_bins=32, audio_frames=32, clip_frames=64, window_rate=102.4, image_size=32
)


def noted(weights: Weights) -> Weights:
    """Gives weights notes of which none is a default, and a calibration if they are a classifier's."""
    notes = Notes(audio_mean=-5.5, audio_std=4.0, channels="mean", norm_pix=False)
    if kind_of(weights.config).pairs:
        notes = dataclasses.replace(notes, frames=16)
    if weights.classes:
        names = tuple(f"class {number}: é\n\"'`" for number in range(weights.classes))
        modes = (("audioonly", ModeCalibration(1.5, tuple(np.linspace(0.1, 0.9, weights.classes).tolist()))),)
        notes = dataclasses.replace(
            notes, label_names=names, mode="audioonly", calibration=Calibration(fingerprint(weights.params), "c", modes)
        )
    return weights._replace(notes=notes, step=7)


EVERY = {
    "cavmae": noted(made()),
    "cavmae, small": noted(made(dataclasses.replace(ODD, size="tiny", learned_positions=True, norm_eps=1e-6))),
    "cavmae_classifier": noted(made(classes=5)),
    "cavmae_classifier, attentive": noted(made(dataclasses.replace(ODD, kind="cavmae_classifier", head_pool="attentive"), classes=2)),
    "late_classifier": noted(made(LATE, classes=3)),
    "sync": noted(made(SYNC)),
    "sync, with blocks for the contrast": noted(made(dataclasses.replace(SYNC, contrast_depth=2))),
    "sync_classifier": noted(made(dataclasses.replace(SYNC, kind="sync_classifier"), classes=3)),
    "sync_classifier, late": noted(made(dataclasses.replace(SYNC, kind="sync_classifier", pair_pool="late", pair_depth=1), classes=2)),
    "mae": noted(made(IMAGE)),
    "mae with a class token": noted(made(dataclasses.replace(IMAGE, class_token=True))),
    "mae of audio": noted(made(dataclasses.replace(AUDIO, class_token=True))),
    "ast": noted(made(AUDIO, classes=3)),
}


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((path / "config.json").read_text())
    how(content)
    (path / "config.json").write_text(json.dumps(content))


def refused(path: Path, file: str = "config.json") -> str:
    said = message(path)
    assert str(path / file) in said
    assert "\n" not in said
    return said
