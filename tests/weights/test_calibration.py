"""A calibration goes with its weights from place to place, and is refused with any other ones."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avmae_jax import load
from avmae_jax.errors import WeightsError
from avmae_jax.files import write_json
from avmae_jax.weights.calibration import PLAIN, Calibration, ModeCalibration, file_beside, fingerprint, from_json, of_mode, to_json
from avmae_jax.weights.io import Weights, read, read_uncalibrated, write
from avmae_jax.weights.notes import Notes
from tests.support import ODD, made

HALF = ModeCalibration(0.5, (0.1, 0.2, 0.3))


def classifier(seed: int = 0) -> Weights:
    return made(ODD, 3, seed)._replace(notes=Notes(loss="bce", label_names=("harp", "oboe", "horn")))


def of(weights: Weights) -> Calibration:
    return Calibration(fingerprint(weights.params), "clips", (("multimodal", HALF),))


def test_a_mode_that_is_not_calibrated_is_left_as_it_is() -> None:
    found = of(classifier())
    assert (found.of("multimodal"), found.of("audioonly"), of_mode(None, "multimodal")) == (HALF, PLAIN, PLAIN)
    assert from_json(json.loads(json.dumps(to_json(found))), 3) == found


@pytest.mark.parametrize("name", ["run", "w.safetensors", "w.pth"])
def test_it_is_read_from_beside_the_weights_and_kept_on_the_way(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torch")
    weights = classifier()
    write(weights, tmp_path / name)
    write_json(file_beside(tmp_path / name), to_json(of(weights)))
    model = load(tmp_path / name, heads=ODD.shape.heads, mel_bins=ODD.mel_bins) if name.endswith("pth") else load(tmp_path / name)
    assert model.calibration == of(weights)
    model.save(tmp_path / "copy.safetensors")
    write(read(tmp_path / "copy.safetensors"), tmp_path / "again")
    assert read(tmp_path / "again").notes.calibration == of(weights)
    assert read(tmp_path / "again/0").notes.calibration == of(weights)
    assert read_uncalibrated(tmp_path / "again").notes.calibration is None


def test_steps_share_the_file_of_their_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write(classifier(), tmp_path / "run/checkpoints")
    places = [file_beside(tmp_path / "run" / part) for part in ("", "checkpoints", "checkpoints/0")]
    assert places == [tmp_path / "run/checkpoints/calibration.json"] * 3


def test_half_precision_keeps_it() -> None:
    params = classifier().params
    rounded = {name: values.astype(np.float16).astype(np.float32) for name, values in params.items()}
    assert fingerprint(rounded) == fingerprint(params)


def test_that_of_other_weights_is_one_line(tmp_path: Path) -> None:
    write(classifier(1), tmp_path / "run")
    write_json(tmp_path / "run/calibration.json", to_json(of(classifier(0))))
    with pytest.raises(WeightsError, match=r"run/calibration\.json: .*launch\.calibrate .*run.* remove") as error:
        load(tmp_path / "run")
    assert "\n" not in str(error.value)
    stale = classifier(1)._replace(notes=dataclasses.replace(classifier().notes, calibration=of(classifier(0))))
    write(stale, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w\.safetensors: .*launch\.calibrate"):
        load(tmp_path / "w.safetensors")


def test_another_length_of_audio_loses_it(tmp_path: Path) -> None:
    weights = classifier()
    write(weights._replace(notes=dataclasses.replace(weights.notes, calibration=of(weights))), tmp_path / "w.safetensors")
    assert read(tmp_path / "w.safetensors", audio_frames=48).notes.calibration is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "weights"),
        ('{"weights": "a", "clips": 3}', "clips.*3"),
        ('{"weights": "a", "clips": "b", "modes": {}}', "modes"),
        ('{"weights": "a", "clips": "b", "modes": {"m": {"temperature": 0, "thresholds": []}}}', "temperature of m is '0'"),
        ('{"weights": "a", "clips": "b", "modes": {"m": {"temperature": NaN, "thresholds": []}}}', "temperature of m is 'nan'"),
        ('{"weights": "a", "clips": "b", "modes": {"m": {"temperature": 1, "thresholds": [0.5]}}}', "thresholds of m.* 3 "),
        ('{"weights": "a", "clips": "b", "modes": {"m": {"temperature": 1, "thresholds": [0.5, 2, 0]}}}', "threshold of m is '2'"),
        ('{"weights": "a", "clips": "b", "modes": {"m": 3}}', "temperature of m"),
        ("{", "JSON"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    write(classifier(), tmp_path / "run")
    (tmp_path / "run/calibration.json").write_text(content)
    with pytest.raises(WeightsError, match=rf"run/calibration\.json.*{message}"):
        load(tmp_path / "run")


def test_a_pretraining_model_has_none(tmp_path: Path) -> None:
    write(made(ODD), tmp_path / "run")
    write_json(tmp_path / "run/calibration.json", {"of": "another model"})
    assert read(tmp_path / "run").notes.calibration is None


def test_temperature_and_thresholds_change_what_is_predicted(tmp_path: Path) -> None:
    weights = classifier()
    write(weights, tmp_path / "w.safetensors")
    wave: Any = np.random.default_rng(0).standard_normal(16_000) * 0.1
    plain = load(tmp_path / "w.safetensors").predict(audio=wave)
    mode = str(plain.mode)
    likely = sorted(plain.probabilities)[1]
    thresholds = tuple(float(likely) for _ in range(3))
    own = Calibration(fingerprint(weights.params), "clips", ((mode, ModeCalibration(1.0, thresholds)),))
    write_json(tmp_path / "w.safetensors_calibration.json", to_json(own))
    model = load(tmp_path / "w.safetensors")
    found = model.predict(audio=wave)
    assert found.named == tuple(name for name, _ in found.top[:2])
    assert found.answer == f"{found.named[0]} and {found.named[1]}"
    assert plain.named == found.named[:1]
    unsure = model.predict(audio=wave, unsure_below=1.0)
    assert (unsure.named, unsure.answer) == ((), "unsure")
    assert "unsure" in repr(unsure)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="unsure_below"):
            model.predict(audio=wave, unsure_below=wrong)
    cooler = Calibration(own.weights, "clips", ((mode, ModeCalibration(2.0)),))
    write_json(tmp_path / "w.safetensors_calibration.json", to_json(cooler))
    warm = load(tmp_path / "w.safetensors").predict(audio=wave)
    logits = [np.log(row / (1 - row)) for row in (plain.probabilities, warm.probabilities)]
    assert logits[1] == pytest.approx(logits[0] / 2, rel=1e-2, abs=1e-2)
