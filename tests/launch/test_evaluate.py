"""launch.evaluate as a user calls it: options, tables, files, and one line for what is wrong."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl import app

from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.evals.classification import PLOTS
from avmae_jax.evals.intervals import shown
from avmae_jax.weights.io import read, write
from avmae_jax.weights.notes import Notes
from launch import evaluate
from launch.common import tables
from tests.support import ODD, Clips, called_here, cells, made

NAMES = ["harp [bold]", "oboe", "horn"]

Call = Callable[..., str]


def make(job: Job) -> Iterator[Clip]:
    clip = Clips(9)[job.args[0]]._replace(id=job.id, labels=(job.args[0] % 2,))
    yield clip._replace(frames=(), frame_times=()) if "blind" in job.id else clip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six test clips of two classes and one without pictures; no test clip has the third class."""
    out = tmp_path_factory.mktemp("data") / "set"
    jobs = {"train": [Job("t", (0,))], "test": [*(Job(f"e{n}", (n,)) for n in range(6)), Job("blind", (6,))]}
    write_dataset(out, DatasetSpec("clips", jobs, make, NAMES))
    return out


def saved(path: Path, classes: int = 3, names: list[str] = NAMES, mode: str = "multimodal") -> Path:
    write(made(ODD, classes)._replace(notes=Notes(mode=mode, loss="ce", label_names=tuple(names[:classes]))), path)
    return path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Calls the program in this process; gives what it prints."""
    with called_here(evaluate) as main:

        def printed(*arguments: object) -> str:
            main(*arguments)
            return capsys.readouterr().out

        yield printed


@pytest.mark.slow
def test_a_classifier_of_both_is_asked_with_both_and_with_each_missing(call: Call, data: Path, tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    printed = call(run, "--data", data, "--batch_size=6")
    views = ["multimodal_middle", "missingaudioonly_middle", "missingvideoonly_middle"]
    found = json.loads((run / "evaluation/evaluation.json").read_text())
    assert [view["view"] for view in found["views"]] == views
    assert (found["model"], found["step"], found["data"], found["lacking"]) == (str(run), 0, str(data), [])
    for view in found["views"]:
        folder = run / "evaluation" / view["view"]
        assert {file.name for file in folder.iterdir()} == {"evaluation.json", *PLOTS[:4]}
        assert view["ids"] == [f"e{n}" for n in range(6)]  # the one without pictures is asked in no mode, so that the modes compare
        assert {"view": view["view"], **json.loads((folder / "evaluation.json").read_text())} == view
        assert (view["split"], view["data"], view["crops"]) == ("test", str(data), 1)
    assert re.search("6 test clips.* 3 classes.* 1 ", printed)
    rows = cells(printed)
    first = found["views"][0]
    assert first["map_interval"][0] <= first["map_interval"][1]
    numbers = [shown(first, name) for name in ("map", "auc", "d_prime", "accuracy", "top_5_accuracy", "loss")]
    assert rows[0] == ["audio and image", "middle", *numbers, f"{first['ece_before']:.3f}"]
    assert "launch.calibrate" in printed
    assert [row[:2] for row in rows[1:3]] == [["audio, image missing", "-"], ["image, audio missing", "middle"]]
    assert {row[0] for row in rows[3:]} == {"harp [bold]", "oboe"}
    assert read(run).classes == 3  # what lies in the folder now is no step of the model's


@pytest.mark.slow
def test_a_mode_and_a_place_can_be_chosen(call: Call, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="absl")
    file = saved(tmp_path / "w.safetensors", mode="audioonly")
    call(file, f"--data={data}", "--batch_size=6")
    found = json.loads((tmp_path / "w.safetensors_evaluation/evaluation.json").read_text())
    assert [view["view"] for view in found["views"]] == ["audioonly_middle"]
    assert found["views"][0]["ids"][-1] == "blind"  # the audio is enough here
    warnings = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert warnings == [found["views"][0]["warning"]]  # few clips of a class, and nothing else
    call(file, f"--data={data}", "--batch_size=6", f"--out={tmp_path / 'o'}", "--mode=videoonly", "--frames=first", "--frames=middle")
    assert {folder.name for folder in (tmp_path / "o").iterdir()} == {"evaluation.json", "videoonly_first", "videoonly_middle"}
    assert re.search("audioonly.*videoonly", caplog.text)


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (0, NAMES, r"launch\.finetune"),
        (2, ["class 0", "class 1"], "2 classes.* 3"),
        (3, ["Harp [bold]", "tuba", "bell"], r"harp \[bold\].*tuba.*'Harp \[bold\]' and 'harp \[bold\]'.* case"),
    ],
)
def test_a_model_of_other_classes_is_one_line(call: Call, data: Path, tmp_path: Path, classes: int, names: list[str], message: str) -> None:
    path = saved(tmp_path / "w.safetensors", classes, names)
    with pytest.raises(SystemExit, match=f"ValueError: .*{message}"):
        call(path, f"--data={data}")
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_missing_data_or_models_are_named(call: Call, data: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors")
    with pytest.raises(SystemExit, match=r"DatasetError: .*w\.safetensors.*--data"):
        call(path)
    with pytest.raises(SystemExit, match=r"DatasetError: .*nowhere"):
        call(path, f"--data={tmp_path / 'nowhere'}")
    with pytest.raises(SystemExit, match=r"WeightsError: .*absent\.safetensors"):
        call(tmp_path / "absent.safetensors", f"--data={data}")


def test_wrong_usage_is_told(call: Call) -> None:
    with pytest.raises(app.UsageError, match=r"--given.*'sound'.*both, audio, image, multimodal, audioonly"):
        call("run", "--mode=multimodal,sound")
    with pytest.raises(app.UsageError, match=r"--frames.*'last'.*first, middle, all"):
        call("run", "--frames=last")
    with pytest.raises(app.UsageError, match="RUN") as error:
        call()
    assert error.value.exitcode == 1


def test_of_many_classes_the_best_and_the_worst_are_listed() -> None:
    names = ("average_precision", "auc", "d_prime", "recall", "precision")
    rows = [{"name": f"c{n}", "positives": int(n > 0), **dict.fromkeys(names, n / 40 if n else None)} for n in range(41)]
    table = tables.class_figures(rows, "audio alone")
    assert "the 10 best and the 10 worst of 40 classes" in str(table.title)
    assert list(table.columns[0].cells) == [f"c{n}" for n in (*range(40, 30, -1), *range(10, 0, -1))]
