"""launch.baseline and launch.probe as a user calls them, and what launch.evaluate prints of the baselines."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.evals.baselines.classifiers import LOGISTIC, NEIGHBOURS
from avmae_jax.evals.baselines.cross_validation import Family
from avmae_jax.weights.io import write
from avmae_jax.weights.notes import Notes
from launch import baseline, evaluate, probe
from tests.support import ODD, Clips, completed, made

pytest.importorskip("sklearn")
NAMES = ["harp", "oboe", "horn [bold]"]


def make(job: Job) -> Iterator[Clip]:
    """Clip n has the class n % 3 and the pitch of its class; its images are of one colour."""
    number = job.args[0]
    wave = 8_000 * np.sin(np.arange(8_000) * (0.1 + 0.4 * (number % 3)) + number)
    clip = Clips(20)[number]._replace(id=job.id, labels=(number % 3,), waveform=wave.astype(np.int16))
    if "silent" in job.id:
        clip = clip._replace(waveform=clip.waveform[:0])
    yield clip._replace(frames=(), frame_times=()) if "blind" in job.id else clip


def prepared(folder: Path, prefix: str = "", names: list[str] = NAMES) -> Path:
    jobs = {"train": [Job(f"{prefix}t{n}", (n,)) for n in range(9)], "test": [Job(f"{prefix}e{n}", (n,)) for n in range(9, 15)]}
    write_dataset(folder, DatasetSpec("clips", jobs, make, names))
    return folder


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Family(LOGISTIC.name, LOGISTIC.settings[5:7], LOGISTIC.predict)
    monkeypatch.setattr("avmae_jax.evals.baselines.baseline.FAMILIES", (quick,))
    near = Family(NEIGHBOURS.name, NEIGHBOURS.settings[-2:], NEIGHBOURS.predict)
    monkeypatch.setattr("avmae_jax.evals.baselines.probe.PROBES", {"linear": quick, "neighbours": near})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data") / "set")


def saved(path: Path, classes: int = 3) -> Path:
    notes = Notes(mode="multimodal", loss="ce", label_names=tuple(NAMES)) if classes else Notes()
    write(made(ODD, classes)._replace(notes=notes), path)
    return path


@pytest.mark.slow
def test_baselines_are_written_into_the_data_and_printed_beside_a_model(tmp_path: Path) -> None:
    data, model = prepared(tmp_path / "set"), saved(tmp_path / "w.safetensors")
    before = completed(evaluate, model, f"--data={data}", "--batch_size=6", "--given=audio")
    assert re.search("no baseline.*launch.baseline", before.stdout)
    done = completed(baseline, data)
    assert (done.returncode, "horn [bold]" in done.stdout) == (0, True), done.stderr
    found = json.loads((data / "baseline.json").read_text())
    assert (found["given"], found["ids"], found["label_names"]) == ("both", [f"e{n}" for n in range(9, 15)], NAMES)
    assert found["baselines"][0]["accuracy"] == 1.0
    after = completed(evaluate, model, f"--data={data}", "--batch_size=6", "--given=audio")
    assert "The model doesn't beat the baselines (audio, image missing)" in after.stdout
    assert re.search(r"against 1\.000 .*of\s+audio:\s+logistic\s+regression", after.stdout.replace("\n", " "))
    other = completed(evaluate, model, f"--data={data}", "--batch_size=6", "--given=audio", "--split=train")
    assert "other clips" in other.stdout
    (data / "baseline.json").write_text("{}")
    assert re.search("no baseline", completed(evaluate, model, f"--data={data}", "--batch_size=6", "--given=audio").stdout)
    named = completed(evaluate, model, f"--data={data}", f"--baseline={data / 'baseline.json'}")
    assert re.search(r"DatasetError: .*baseline\.json.*launch\.baseline", named.stderr)


@pytest.mark.parametrize(("prefix", "given"), [("blind", "audio"), ("silent", "image")])
def test_clips_of_one_modality_have_its_baselines(tmp_path: Path, prefix: str, given: str) -> None:
    data = prepared(tmp_path / "set", prefix)
    done = completed(baseline, data, f"--out={tmp_path / 'b.json'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "b.json").read_text())
    assert {row["given"] for row in found["baselines"]} == {given} == {found["given"]}
    refused = completed(baseline, data, "--given=both", f"--out={tmp_path / 'c.json'}")
    assert re.search("DatasetError|EmptySplitError", refused.stderr)


def test_what_is_wrong_is_one_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in (((tmp_path / "nowhere",), "DatasetError.*nowhere"), ((), "one DATASET"), ((data, data), "one DATASET")):
        assert re.search(message, completed(baseline, *arguments).stderr)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    refused = completed(baseline, data, f"--out={tmp_path / 'b.json'}")
    assert re.search(r"^AvmaeError: .*\[baseline\]", refused.stderr, re.M)
    assert refused.returncode == 1


@pytest.mark.slow
def test_probes_keep_their_features(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved(tmp_path / "run", 0)
    call = (run, f"--data={data}", "--probes=linear,neighbours", "--batch_size=4")
    done = completed(probe, *call)
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "probe/probe.json").read_text())
    names = [row["name"] for row in found["probes"]]
    assert names[:5] == [
        "audio: linear, whole",
        "audio: linear, centre",
        "audio: neighbours, whole",
        "audio: neighbours, centre",
        "image: linear, whole",
    ]
    assert names[-1].startswith("both: product of")
    assert {file.name for file in (run / "probe").iterdir()} == {"probe.json", "train_separate.npz", "test_separate.npz"}
    stored = run / "probe/train_separate.npz"
    age = stored.stat().st_mtime_ns
    assert completed(probe, *call, "--pool=mean").returncode == 0
    assert stored.stat().st_mtime_ns == age
    saved(tmp_path / "other", 3)
    assert completed(probe, tmp_path / "other", *call[1:], f"--out={run / 'probe'}").returncode == 0
    assert stored.stat().st_mtime_ns > age
    assert re.search("--probes.*'deep'.*linear", completed(probe, *call[:2], "--probes=deep").stderr)
