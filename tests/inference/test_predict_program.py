"""Tests launch.predict as a user runs it: folders with broken files, outputs, and wrong usage."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl import app

from avmae_jax import predict
from avmae_jax.inference.api import Model
from launch import predict as program_predict
from tests.inference.tiny_models import NAMES
from tests.support import Program, called_here

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Calls the program in this process; gives the exit status and what it prints."""
    with called_here(program_predict) as main:

        def printed(*arguments: object) -> tuple[int, str, str]:
            with pytest.raises(SystemExit) as ended:
                main(*arguments)
            code, said = ended.value.code, capsys.readouterr()
            return (code, said.out, said.err) if isinstance(code, int) else (1, said.out, str(code))

        yield printed


@pytest.mark.slow
def test_a_folder_with_broken_files_is_predicted_but_for_them(call: Call, folder: Path, tmp_path: Path, trained: Model) -> None:
    out = [f"--json={tmp_path}/out.json", f"--csv={tmp_path}/out.csv", f"--explain={tmp_path}/pictures"]
    status, printed, _ = call(folder / "media", f"--model={folder}/run.safetensors", "--top=2", "--timeline", *out)
    assert status == 3
    found = json.loads((tmp_path / "out.json").read_text())
    names = [Path(told["file"]).relative_to(folder / "media").as_posix() for told in found["files"]]
    assert names == ["broken.mp4", "deep/short.mp4", "empty.wav", "film.mp4", "picture.png", "sound.wav"]
    assert (found["failed"], [name for name, told in zip(names, found["files"], strict=True) if "error" in told]) == (
        2,
        ["broken.mp4", "empty.wav"],
    )
    film, expected = found["files"][3], predict(trained, folder / "media/film.mp4", top=2)
    assert [row["class"] for row in film["classes"]] == [name for name, _ in expected.top]
    assert [row["probability"] for row in film["classes"]] == pytest.approx([value for _, value in expected.top], abs=1e-5)
    assert (film["windows"], film["mode"], film["match_among"], film["match_rank"] in (1, 2)) == (4, "multimodal", 2, True)
    assert [row["second"] for row in film["timeline"]] == list(range(5))
    assert all(len(row["classes"]) == 2 for row in film["timeline"])
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["file"] for row in rows if not row["second"]] == [told["file"] for told in found["files"]]
    assert [row["error"] for row in rows if row["file"].endswith("empty.wav")] == [found["files"][2]["error"]]
    assert next(float(row["probability_1"]) for row in rows if row["file"] == film["file"]) == film["classes"][0]["probability"]
    assert [row["second"] for row in rows if row["file"] == film["file"]] == ["", "0", "1", "2", "3", "4"]
    pictures = {"short.png", "film.png", "picture.png", "sound.png"}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == pictures
    for word in ("film.mp4", "broken.mp4", "empty.wav", "2 of 6", expected.top[0][0]):
        assert word in printed


def test_one_file_needs_no_more_than_its_name(call: Call, folder: Path) -> None:
    status, printed, _ = call(folder / "media/film.mp4", "--model", folder / "run.safetensors")
    assert status == 0
    assert all(name in printed for name in NAMES)
    status, printed, shown = call(folder / "media/sound.wav", "--model", folder / "run.safetensors", "--json=-")
    assert (status, json.loads(printed)["files"][0]["mode"]) == (0, "missingaudioonly")
    assert "sound.wav" in shown


def test_a_pretraining_checkpoint_says_how_to_get_classes(
    call: Call, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "absl"):
        status, printed, _ = call(
            folder / "media/film.mp4", folder / "media/sound.wav", "--model", folder / "pre.safetensors", f"--csv={tmp_path}/x.csv"
        )
    assert status == 3
    assert f"--config.init_from={folder}/pre.safetensors" in caplog.text
    assert "sound.wav" in printed
    film, sound = csv.DictReader((tmp_path / "x.csv").read_text().splitlines())
    assert -1 <= float(film["match"]) <= 1
    assert sound["error"]


def test_all_failed_is_another_status(call: Call, folder: Path) -> None:
    status, printed, _ = call(folder / "media/empty.wav", "nowhere.mp4", "--model", folder / "run.safetensors")
    assert status == 1
    assert "2 of 2" in printed
    assert "nowhere.mp4" in printed


def test_errors_are_one_line(call: Call, folder: Path, tmp_path: Path) -> None:
    film = folder / "media/film.mp4"
    (tmp_path / "none").mkdir()
    for arguments, said in (
        ([film, f"--model={tmp_path}/none"], "WeightsError: "),
        ([tmp_path / "none", f"--model={folder}/run.safetensors"], "DatasetError: .*none"),
        ([film, f"--model={folder}/pre.safetensors", "--timeline"], "ValueError: .*timeline"),
    ):
        status, _, error = call(*arguments)
        assert status == 1
        assert "\n" not in error
        assert re.search(said, error), error


def test_wrong_usage_is_told_before_anything_is_loaded(call: Call, folder: Path) -> None:
    film, run = folder / "media/film.mp4", f"--model={folder}/run.safetensors"
    for arguments in ([run], [film, run, "--json=-", "--csv=-"], [film, run, "--json=/nowhere/x.json"]):
        with pytest.raises(app.UsageError) as error:
            call(*arguments)
        assert error.value.exitcode == 1


def test_the_command_works_as_a_user_gives_it(program: Program, folder: Path) -> None:
    done = program("-m", "launch.predict", folder / "media/sound.wav", "--model", folder / "run.safetensors", "--top", 1, "--csv", "-")
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader(done.stdout.splitlines())
    assert (row["file"], row["mode"], row["error"]) == (str(folder / "media/sound.wav"), "missingaudioonly", "")
