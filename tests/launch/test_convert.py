"""python -m launch.convert as a user runs it, without torch: folders and .safetensors. For .pth see parity/test_convert_files.py."""

import dataclasses
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
    assert first == f"read {tmp_path}/run: {describe(made())}"
    assert last == f"wrote {tmp_path}/w.safetensors"
    assert "32 norm tensors that the original stores and never uses are added as initialised: blocks_a.0.norm1_a.bias, " in done.stderr
    found = read(tmp_path / "w.safetensors")
    assert {path: x.tobytes() for path, x in found.params.items()} == {path: x.tobytes() for path, x in made().params.items()}


@pytest.mark.slow
def test_a_model_can_be_converted_to_sounds_of_another_length(program: Program, tmp_path: Path) -> None:
    write(made(), tmp_path / "run")
    done = program("-m", "launch.convert", tmp_path / "run", tmp_path / "w.safetensors", "--audio_frames=40")
    assert done.returncode == 0, done.stderr
    assert "audio positions interpolated from 3 to 5 columns of time (24 to 40 frames)" in done.stderr
    assert "; audio of 40 frames x 16 mel bins; " in done.stdout
    assert read(tmp_path / "w.safetensors").config == dataclasses.replace(ODD, audio_frames=40)


def test_a_bad_input_is_one_line_and_status_1(program: Program, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("a web page")
    done = program("-m", "launch.convert", tmp_path / "w.safetensors", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{tmp_path}/w.safetensors: is no safetensors file, or a damaged or incomplete one")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_an_existing_out_is_refused_before_anything_is_read(program: Program, tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").write_text("mine")
    done = program("-m", "launch.convert", tmp_path / "nowhere", tmp_path / "out.safetensors")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{tmp_path}/out.safetensors: exists already and is not overwritten; choose another name\n"
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
    assert "give IN and OUT, two paths; there are 1" in done.stderr + done.stdout


def test_a_description_names_kind_sizes_and_parameters() -> None:
    count = sum(x.size for x in made().params.values()) / 1e6
    assert describe(made()) == (
        "CAV-MAE, pretraining model; 3 blocks (2 joint); width 16, 2 heads; decoder of 2 blocks, width 8, 2 heads; "
        f"audio of 24 frames x 16 mel bins; images of 16 x 16; patches of 8; {count:.3f} M parameters"
    )
    assert describe(made(classes=7)).startswith("CAV-MAE, classifier with 7 classes; 3 blocks (2 joint); width 16, 2 heads; audio")
    alone = made()._replace(config=dataclasses.replace(ODD, modality="image"))
    assert describe(alone).startswith("image model, pretraining model; 3 blocks; width 16, 2 heads; decoder")
    assert "; images of 16 x 16; patches" in describe(alone)
    assert "audio of" not in describe(alone)
