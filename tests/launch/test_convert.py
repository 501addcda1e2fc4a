"""python -m launch.convert as a user runs it, without torch: folders and .safetensors. For .pth see parity/test_convert_files.py."""

import dataclasses
import re
from pathlib import Path

import pytest

from avmae_jax.weights.io import read, write
from launch import convert
from launch.convert import describe
from tests.media import write_clip
from tests.support import ODD, Program, completed, made


def test_a_folder_becomes_a_file_and_it_is_said_what_was_read_added_and_written(program: Program, tmp_path: Path) -> None:
    write(made(), tmp_path / "run")
    done = program("-m", "launch.convert", tmp_path / "run", tmp_path / "w.safetensors", "--heads=2", "--mel_bins", 16)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert f"{tmp_path}/run" in first
    assert describe(made()) in first
    assert f"{tmp_path}/w.safetensors" in last
    assert re.search(r"32 .*blocks_a\.0\.norm1_a\.bias", done.stderr)
    found = read(tmp_path / "w.safetensors")
    assert {path: x.tobytes() for path, x in found.params.items()} == {path: x.tobytes() for path, x in made().params.items()}


@pytest.mark.slow
def test_a_model_can_be_converted_to_sounds_of_another_length(program: Program, tmp_path: Path) -> None:
    write(made(), tmp_path / "run")
    done = program("-m", "launch.convert", tmp_path / "run", tmp_path / "w.safetensors", "--audio_frames=40")
    assert done.returncode == 0, done.stderr
    assert re.search(" 3 to 5 .*24 to 40 ", done.stderr)
    assert read(tmp_path / "w.safetensors").config == dataclasses.replace(ODD, audio_frames=40)


def test_a_bad_input_is_one_line_and_status_1(program: Program, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("a web page")
    done = program("-m", "launch.convert", tmp_path / "w.safetensors", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path}/w.safetensors" in line
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_an_existing_out_is_refused_before_anything_is_read(program: Program, tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").write_text("mine")
    done = program("-m", "launch.convert", tmp_path / "nowhere", tmp_path / "out.safetensors")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path}/out.safetensors" in line
    assert (tmp_path / "out.safetensors").read_text() == "mine"


def test_a_suffix_that_is_no_format_is_refused_before_anything_is_read(program: Program, tmp_path: Path) -> None:
    done = program("-m", "launch.convert", tmp_path / "nowhere", tmp_path / "out.unknown")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert ".unknown" in line
    assert ".safetensors" in line
    assert not list(tmp_path.iterdir())


def test_out_must_be_given(program: Program, tmp_path: Path) -> None:
    done = program("-m", "launch.convert", tmp_path)
    assert done.returncode == 1
    assert "IN and OUT" in done.stderr + done.stdout


def test_a_description_names_kind_sizes_and_parameters() -> None:
    count = sum(x.size for x in made().params.values()) / 1e6
    parts = ["CAV-MAE", "3 blocks", "2 joint", "width 16, 2 heads", "width 8, 2 heads", "24 frames x 16 mel", "16 x 16", f"{count:.3f} M"]
    assert [part for part in parts if part not in describe(made())] == []
    assert "7 classes" in describe(made(classes=7))
    assert "decoder" not in describe(made(classes=7))
    alone = describe(made()._replace(config=dataclasses.replace(ODD, modality="image")))
    assert "16 x 16" in alone
    assert "mel" not in alone


def test_a_run_becomes_a_pretrained_folder_that_every_program_takes(program: Program, tmp_path: Path) -> None:
    write(made(classes=3), tmp_path / "run")
    done = program("-m", "launch.convert", tmp_path / "run", f"{tmp_path}/folder/", "--pretrained", "--license=mit")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "license: mit" in (tmp_path / "folder/README.md").read_text()
    want = read(tmp_path / "run")
    found = read(tmp_path / "folder")
    assert {path: x.tobytes() for path, x in found.params.items()} == {path: x.tobytes() for path, x in want.params.items()}
    assert found.config.compute_dtype == want.config.compute_dtype
    clip = write_clip(tmp_path / "clip.mp4", 1.0)
    done = program("-m", "launch.predict", clip, "--model", tmp_path / "folder")
    assert done.returncode == 0, done.stderr
    assert "class " in done.stdout
    for name, said in (("evaluate", "--data"), ("report", "no config of a run"), ("calibrate", "--data")):
        done = program("-m", f"launch.{name}", tmp_path / "folder")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert said in done.stderr
    done = program("-m", "launch.convert", tmp_path / "folder", tmp_path / "back")
    assert done.returncode == 0, done.stderr
    assert {path: x.tobytes() for path, x in read(tmp_path / "back").params.items()} == {
        path: x.tobytes() for path, x in want.params.items()
    }


@pytest.mark.parametrize(("out", "options", "said"), [("x.safetensors", [], ".safetensors"), ("x", ["--license=My own"], "license")])
def test_a_pretrained_folder_that_cannot_be_is_refused(out: str, options: list[str], said: str, tmp_path: Path) -> None:
    write(made(), tmp_path / "run")
    done = completed(convert, tmp_path / "run", tmp_path / out, "--pretrained", *options)
    assert done.returncode == 1
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
