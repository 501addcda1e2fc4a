"""Several instruments at once, from a folder with a label CSV to "low and high"; and launch.calibrate as a user calls it."""

import csv
import json
import wave
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import avmae_jax as av
import launch.calibrate
import launch.convert
import launch.evaluate
import launch.predict
import launch.prepare
from avmae_jax.config import Config
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.weights.io import write
from avmae_jax.weights.notes import Notes
from tests.support import ODD, TINY, Clips, apply, completed, made

TONES = {"low": 300.0, "high": 2500.0}
SPARE = "never"  # a class of training clips alone


def write_tones(path: Path, names: list[str], seed: int) -> None:
    rng, time = np.random.default_rng(seed), np.arange(10_240) / 16_000
    mixed = sum(np.sin(2 * np.pi * TONES[name] * rng.uniform(0.9, 1.1) * time) for name in names) + 0.05 * rng.standard_normal(len(time))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((6000 * mixed).astype("<i2").tobytes())


def tuned_on_tones(folder: Path) -> Path:
    """Prepares clips of one tone or two by a label CSV, and tunes a classifier from scratch."""
    (folder / "media").mkdir()
    rows, kinds = [("file", "labels")], (["low"], ["high"], ["low", "high"])
    for number in range(72):
        names, name = kinds[number % 3], f"{'held' if number % 4 == 0 else 'train'}{number}.wav"
        write_tones(folder / "media" / name, names, number)
        rows.append((name, ";".join([*names, *([SPARE] if number in (1, 5) else [])])))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    options = [f"--videos={folder}/media", f"--labels={folder}/labels.csv", f"--out={folder}/set", "--allow_missing", "--workers=0"]
    done = completed(launch.prepare, *options, "--test_pattern=^held", "--clip_seconds=0.64")
    assert done.returncode == 0, done.stderr
    changes = TINY | {"model.kind": "cavmae_classifier", "tune.mode": "audioonly", "tune.loss": "bce", "train.epochs": 12, "train.steps": 0}
    changes |= {"data.source": "prepared", "data.path": str(folder / "set"), "train.workdir": str(folder / "run")}
    changes |= {"optim.learning_rate": 2e-3, "train.eval_every": 0, "train.checkpoint_every": 0, "mesh.data": 1}
    changes = {name: value for name, value in changes.items() if not name.startswith("data.builtin")}
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
        av.finetune(apply(Config(), changes))
    return folder / "run/best"


@pytest.mark.slow
def test_several_classes_a_clip_from_the_csv_to_the_answer(tmp_path: Path) -> None:
    model = tuned_on_tones(tmp_path)
    done = completed(launch.calibrate, model)
    assert done.returncode == 0, done.stderr
    assert SPARE in done.stdout
    found = json.loads((model / "calibration.json").read_text())
    row = found["modes"]["audioonly"]
    assert (found["classes_without_clip"], found["count"], found["split"]) == ([SPARE], 18, "test")
    thresholds = dict(zip(found["label_names"], row["thresholds"], strict=True))
    assert thresholds[SPARE] == pytest.approx((thresholds["low"] + thresholds["high"]) / 2)
    assert row["mean_f1"] > 0.9
    assert dict(zip(found["label_names"], row["f1"], strict=True))[SPARE] is None
    done = completed(launch.evaluate, model)
    assert done.returncode == 0, done.stderr
    (view,) = json.loads((model / "evaluation/evaluation.json").read_text())["views"]
    assert (view["fitted_to_these_clips"], view["accuracy"]) == (True, None)
    assert view["mean_f1"] == pytest.approx(row["mean_f1"])
    assert view["ece_after"] == pytest.approx(row["ece_after"])
    assert {"reliability.png", "f1.png"} <= {file.name for file in (model / "evaluation/audioonly_middle").iterdir()}
    assert completed(launch.convert, model, tmp_path / "w.safetensors").returncode == 0
    for names in (["low", "high"], ["high"]):
        write_tones(tmp_path / "new.wav", names, 99)
        arguments = [tmp_path / "new.wav", f"--model={tmp_path}/w.safetensors", f"--json={tmp_path}/x.json", f"--csv={tmp_path}/x.csv"]
        done = completed(launch.predict, *arguments)
        (entry,) = json.loads((tmp_path / "x.json").read_text())["files"]
        assert set(entry["named"]) == set(names)
        assert entry["answer"] in ("low and high", "high and low", "high")
        assert entry["answer"] in done.stdout
        assert next(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))["answer"] == entry["answer"]


def make(job: Job) -> Any:
    yield Clips(12)[job.args[0]]._replace(id=job.id, labels=(job.args[0] % 3,))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "set"
    jobs = {"train": [Job("t", (0,))], "test": [Job(f"e{n}", (n,)) for n in range(12)]}
    write_dataset(out, DatasetSpec("clips", jobs, make, ["harp", "oboe", "horn"]))
    return out


def saved(path: Path, **notes: Any) -> Path:
    write(made(ODD, 3)._replace(notes=Notes(**{"loss": "ce", "label_names": ("harp", "oboe", "horn"), **notes})), path)
    return path


def test_each_mode_gets_a_temperature_and_one_class_each_no_thresholds(data: Path, tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    done = completed(launch.calibrate, run, f"--data={data}", "--batch_size=6")
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "calibration.json").read_text())
    assert [*found["modes"]] == ["multimodal", "missingaudioonly", "missingvideoonly"]
    assert all(row["thresholds"] == [] and row["ece_before"] is not None for row in found["modes"].values())
    assert av.load(run).calibration is not None
    (run / "calibration.json").write_text("{")
    assert completed(launch.calibrate, run, f"--data={data}", "--batch_size=6", "--given=both").returncode == 0  # a damaged one is replaced


def test_what_cannot_be_calibrated_is_one_line(data: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    write_dataset(none, DatasetSpec("clips", {"train": [Job("t", (0,))], "test": []}, make, ["harp", "oboe", "horn"]))
    pretrained = tmp_path / "pre"
    write(made(ODD), pretrained)
    for model, options, words in (
        (saved(tmp_path / "run"), [f"--data={none}"], ("EmptySplitError", "none", "test")),
        (pretrained, [f"--data={data}"], ("ValueError", "pre", "launch.finetune")),
        (saved(tmp_path / "other", label_names=("a", "b", "c")), [f"--data={data}"], ("ValueError", "harp", "other")),
    ):
        done = completed(launch.calibrate, model, *options)
        assert done.returncode == 1
        assert all(word in done.stderr for word in words), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (model / "calibration.json").exists()


def test_clips_of_other_classes_are_left_out_of_an_evaluation(data: Path, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", label_names=("oboe", "tuba", "harp"))
    done = completed(launch.evaluate, run, f"--data={data}", "--batch_size=6", "--given=both")
    assert done.returncode == 0, done.stderr
    (view,) = json.loads((run / "evaluation/evaluation.json").read_text())["views"]
    assert (view["unknown_classes"], view["missing_classes"], view["clips_of_unknown_classes"]) == (["horn"], ["tuba"], 4)
    assert [row["positives"] for row in view["per_class"]] == [4, 0, 4]
    assert "horn" in view["warning"]
    assert "4 clips of other classes" in " ".join(done.stdout.split())
