"""Tests what is written beside the programs: run.py and what it imports, in processes that can't import this project."""

import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from avmae_jax.export import folder
from avmae_jax.inference.predict import Predictor
from avmae_jax.inference.windows import of_file, rows_of
from avmae_jax.weights import folder as pretrained
from tests.data.decode.tracks import Audio, Video, write_tracks
from tests.export.conftest import model
from tests.media import numbered, tone, write_media
from tests.support import made, time_limit
from tests.weights.folders import change

# Runs a file as if nothing but what it may need were installed.
ALONE = """
import runpy, sys
missing = sys.argv[1].split(",")
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
OURS = "avmae_jax,launch,parity,flax,torch,soxr,PIL,onnx,safetensors,orbax,absl,matplotlib"


def run(exported: Path, *arguments: Any, without: str = f"{OURS},scipy,jax,jaxlib") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", ALONE, without, str(exported / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=time_limit(60), check=False, cwd="/")


def template(name: str) -> dict[str, Any]:
    """Runs a module that is copied beside the programs."""
    return runpy.run_path(str(Path(folder.__file__).parent / f"template/{name}.py"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    folder.export(model("cavmae_classifier", loss="ce"), root / "classify", "classify")
    folder.export(model("cavmae_classifier", loss="ce", mode="audioonly"), root / "audio", "classify")
    folder.export(model("cavmae"), root / "embed", "embed")
    return root


@pytest.mark.process
def test_it_predicts_a_film_without_this_project_as_predict_does(exported: Path, film: Path) -> None:
    done = run(exported / "classify", film)
    assert done.returncode == 0, done.stderr
    found = {line.split("%")[1].strip(): float(line.split("%")[0]) / 100 for line in done.stdout.splitlines()}
    ((_, prediction),) = Predictor(model("cavmae_classifier", loss="ce"))([of_file(film)])
    assert not isinstance(prediction, Exception)
    assert [*found] == [name for name, _ in prediction.top]
    np.testing.assert_allclose([*found.values()], [probability for _, probability in prediction.top], atol=0.01)


@pytest.mark.process
def test_it_prints_the_vectors_of_a_pretraining_model(exported: Path, film: Path) -> None:
    done = run(exported / "embed", film)
    assert done.returncode == 0, done.stderr
    vectors = json.loads(done.stdout)
    assert {name: len(vector) for name, vector in vectors.items()} == {"audio_vector": 16, "image_vector": 16, "joint_vector": 16}
    assert np.linalg.norm(vectors["joint_vector"]) == pytest.approx(1)


@pytest.mark.process
def test_a_model_of_audio_takes_a_film_and_refuses_an_image(exported: Path, film: Path, tmp_path: Path) -> None:
    assert run(exported / "audio", film).returncode == 0
    silent = write_media(tmp_path / "silent.mp4", frames=[np.zeros((32, 32, 3), np.uint8)] * 20)
    done = run(exported / "audio", silent)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert str(silent) in line


@pytest.mark.process
@pytest.mark.parametrize("damage", ["config.json", "both.onnx", "weights.bin", "truncated", "overwritten"])
def test_files_of_another_export_are_refused_in_a_line(exported: Path, film: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(exported / "classify", tmp_path / "mixed")
    if damage in ("truncated", "overwritten"):
        content = bytearray((tmp_path / "mixed/weights.bin").read_bytes())
        content[len(content) // 2 :] = bytes(range(64)) + content[len(content) // 2 + 64 :] if damage == "overwritten" else b""
        (tmp_path / "mixed/weights.bin").write_bytes(content)
    else:
        shutil.copy(exported / "embed" / damage, tmp_path / "mixed")
    done = run(tmp_path / "mixed", film)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "config.json" in line
    assert (damage if damage in ("config.json", "both.onnx") else "weights.bin") in line


@pytest.mark.process
@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_a_program_that_cannot_be_opened_is_refused_in_a_line(film: Path, tmp_path: Path, form: folder.Format) -> None:
    """Gives config.json the checksum of the damaged program, so that only opening it can tell."""
    out = tmp_path / "out"
    folder.export(model("cavmae_classifier", loss="ce", mode="audioonly"), out, "classify", form=form)
    content = (out / f"audio.{form}").read_bytes()[:-100]
    (out / f"audio.{form}").write_bytes(content)
    change(out, lambda config: config["entries"]["audio"].update(sha256=hashlib.sha256(content).hexdigest()))
    done = run(out, film, without=OURS)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert f"audio.{form}" in line


@pytest.mark.process
def test_a_missing_library_is_named(exported: Path, film: Path) -> None:
    done = run(exported / "classify", film, without=f"{OURS},scipy,jax,jaxlib,onnxruntime")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "pip install onnxruntime" in line


LIES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda config: config.update(export_format=2), "export_format is 2.* 1"),
    (lambda config: config.pop("export_format"), "export_format"),
    (lambda config: config.pop("channels"), "'channels'"),
    (lambda config: config.update(channels="last"), "channels is 'last'"),
    (lambda config: config.update(what="sing"), "what is 'sing'"),
    (lambda config: config.update(program="torch"), "program is 'torch'"),
    (lambda config: config["window"].update(samples=config["window"]["samples"] + 1), "window.samples is 25841"),
    (lambda config: config["window"].update(samples=31200 - 240, seconds=1.92), "window.samples is 30960.* 25840"),
    (lambda config: config["window"].update(seconds=0), "window.samples.* 0 seconds"),
    (lambda config: config["window"].update(sample_rate=float("nan")), "window.samples|NaN"),
    (lambda config: config["label_names"].pop(), "label_names.* 5 "),
    (lambda config: config.update(label_names="abcde"), "label_names.* 5 "),
    (lambda config: config["entries"].clear(), "entries"),
    (lambda config: config["entries"]["both"].pop("sha256"), "sha256"),
    (lambda config: config["weights"].update(file=3), "weights has no file"),
]


@pytest.mark.parametrize(("how", "said"), LIES, ids=[said for _, said in LIES])
def test_a_config_that_contradicts_itself_is_refused_by_field(
    exported: Path, tmp_path: Path, how: Callable[[dict[str, Any]], object], said: str
) -> None:
    shutil.copy(exported / "classify/config.json", tmp_path)
    change(tmp_path, how)
    with pytest.raises(SystemExit, match=said) as error:
        template("programs")["read"](tmp_path / "config.json")
    assert str(tmp_path / "config.json") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.process
def test_the_config_of_a_pretrained_folder_is_refused_in_a_line(exported: Path, film: Path, tmp_path: Path) -> None:
    shutil.copytree(exported / "classify", tmp_path / "mixed")
    pretrained.save(made(classes=3), tmp_path / "pretrained", tmp_path)
    shutil.copy(tmp_path / "pretrained/config.json", tmp_path / "mixed")
    done = run(tmp_path / "mixed", film)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "config.json: export_format is missing" in line


def test_a_cover_is_not_taken_for_the_image(tmp_path: Path) -> None:
    window = {"samples": 15600, "seconds": 0.96, "sample_rate": 16_000}
    sound = Audio(tone(440, 1.0, 44_100), 44_100, "libmp3lame")
    song = write_tracks(tmp_path / "song.mp3", Video([numbered(7)], cover=True), sound)
    assert [{*arrays} for arrays in template("media")["windows"](str(song), window, "first")] == [{"waveform"}] * 2


@pytest.mark.process
def test_what_is_no_media_is_refused_in_a_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no media")
    (tmp_path / "empty.mp4").touch()
    for name in ("notes.mp4", "empty.mp4", "missing.mp4"):
        done = run(exported / "classify", tmp_path / name)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert name in line


@pytest.mark.process
def test_stablehlo_needs_jax_alone(film: Path, tmp_path: Path) -> None:
    folder.export(model("cavmae_classifier", loss="ce", mode="audioonly"), tmp_path / "out", "classify", form="stablehlo")
    done = run(tmp_path / "out", film, without=f"{OURS},onnxruntime")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


@pytest.mark.parametrize("seconds", [0.7, 1.6, 5.0])
@pytest.mark.parametrize("rotation", [0, 90])
def test_windows_are_those_of_predict(tmp_path: Path, seconds: float, rotation: int) -> None:
    """Compares the middle frame up to what the codec loses, and the audio up to what the resampler changes."""
    rng = np.random.default_rng(0)
    frames = [np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8) for _ in range(round(10 * seconds))]
    sound = np.stack([tone(500, seconds, 44_100), tone(900, seconds, 44_100)])
    path = write_media(tmp_path / "clip.mp4", frames=frames, sound=sound, sample_rate=44_100, layout="stereo", rotation=rotation)
    config = model("cavmae_classifier").config
    rows = [*rows_of(of_file(path), 0, config)]
    window = {"samples": 160 * config.model.audio_frames + 240, "seconds": config.model.audio_frames / 100, "sample_rate": 16_000}
    found = [*template("media")["windows"](str(path), window, "first")]
    assert len(found) == len(rows)
    for ours, theirs in zip(rows, found, strict=True):
        apart = ours.arrays["waveform"].astype(float) - theirs["waveform"][0]
        assert np.sqrt(np.mean(apart**2)) < 0.02 * np.sqrt(np.mean(ours.arrays["waveform"].astype(float) ** 2))
        (image,) = theirs["image"]
        side = min(image.shape[:2])
        top, left = ((size - side) // 2 for size in image.shape[:2])
        square = image[top : top + side, left : left + side].reshape(8, side // 8, 8, side // 8, 3).mean((1, 3))
        small = ours.arrays["image"].reshape(8, 4, 8, 4, 3).mean((1, 3))
        assert np.abs(square - small).mean() < 12


def test_the_config_says_how_to_use_the_programs(exported: Path) -> None:
    config = json.loads((exported / "classify/config.json").read_text())
    assert config["label_names"] == [f"class {number}" for number in range(5)]
    assert {given: entry["mode"] for given, entry in config["entries"].items()} == {
        "both": "multimodal",
        "audio": "missingaudioonly",
        "image": "missingvideoonly",
    }
    assert config["entries"]["both"]["inputs"]["image"] == {"dtype": "uint8", "shape": ["batch", "height", "width", 3]}
