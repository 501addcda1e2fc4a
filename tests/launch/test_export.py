"""python -m launch.export as a user runs it; what is exported is tested in tests/export."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from avmae_jax.weights.io import write
from launch import export
from tests.inference.tiny_models import NAMES, SMALL, SYNC, weights
from tests.support import completed, made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write(weights(4, loss="ce", label_names=NAMES, mode="audioonly"), root / "run.safetensors")
    write(weights(0), root / "pre.safetensors")
    write(made(SMALL.__class__(**{**vars(SMALL), "kind": "mae", "modality": "image"})), root / "mae.safetensors")
    write(weights(0, config=SYNC), root / "sync.safetensors")
    return root


@pytest.mark.slow
def test_a_classifier_becomes_a_folder_that_names_its_classes(models: Path, tmp_path: Path) -> None:
    done = completed(export, models / "run.safetensors", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert re.search(r"audio\.onnx differs .* by \d\.\de-0[5-9]", done.stdout)
    assert f"python {tmp_path}/out/run.py" in done.stdout
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["what"], tuple(config["label_names"])) == ("classify", NAMES)
    again = completed(export, models / "run.safetensors", tmp_path / "out")
    assert again.returncode == 1
    assert f"{tmp_path}/out" in again.stderr


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pre.safetensors", ["--what=classify"], "pre.safetensors.* cavmae.*--what=embed"),
        ("mae.safetensors", [], "mae.safetensors.* mae.*vectors"),
        ("sync.safetensors", [], "sync.safetensors.* Sync.* can't be exported; .*give a CAV-MAE"),
        ("nowhere", [], "nowhere"),
    ],
)
def test_what_a_model_cannot_do_is_one_line_and_leaves_nothing(
    models: Path, tmp_path: Path, name: str, options: list[str], words: str
) -> None:
    done = completed(export, models / name, tmp_path / "out", *options)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert re.search(words, line)
    assert not [*tmp_path.iterdir()]
