"""python -m launch.convert as a user runs it, without torch: folders and .safetensors. For .pth see parity/test_convert_files.py."""

import dataclasses
import re
from pathlib import Path

import pytest

from avmae_jax.weights.io import read, write
from launch.convert import describe
from tests.support import ODD, Program, made


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
