"""Tests model cards: what a hub reads of them, code that runs, and what a run says of its data and measurements."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from avmae_jax.config import Config, DataConfig
from avmae_jax.weights import box, folder
from avmae_jax.weights.io import Weights, read, write
from avmae_jax.weights.notes import Notes
from tests.media import write_clip
from tests.support import ODD, made

AUDIO = dataclasses.replace(ODD, modality="audio", mel_bins=32, audio_frames=32)
IMAGE = dataclasses.replace(ODD, modality="image")
NAMES = ('flute: "low"', "# harp | [x](y)", "<b>oboe</b>\nalto")
CLASSIFIER = made(classes=3)._replace(notes=Notes(label_names=NAMES, loss="ce"))
VIEW: dict[str, Any] = {
    "mode": "multimodal", "frames": "middle", "step": 0, "split": "test", "data": "/home/somebody/instruments", "clips": 72,
    "accuracy": 0.9583, "accuracy_interval": [0.9, 1.0], "map": 0.9832, "map_interval": [0.95, 1.0],
}  # fmt: skip


def card(weights: Weights, place: Path, source: Path | None = None, **options: Any) -> str:
    folder.save(weights, place, source or place, **options)
    return (place / "README.md").read_text(encoding="utf-8")


def run(place: Path, weights: Weights, **files: Any) -> Weights:
    """Writes a run at step 0, with JSON files beside its steps, and reads its weights."""
    write(weights, place)
    data = DataConfig(source="prepared", path="/home/somebody/instruments")
    files = {"config": dataclasses.asdict(Config(name="mine", init_from="/home/somebody/runs/pre", data=data)), **files}
    for name, content in files.items():
        path = place / f"{name}.json" if "/" not in name else place / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return read(place)


@pytest.mark.parametrize(
    ("weights", "task", "code"),
    [
        (made(), "feature-extraction", "embed"),
        (CLASSIFIER, "video-classification", "predict"),
        (CLASSIFIER._replace(notes=Notes(mode="audioonly", loss="ce")), "audio-classification", 'given="audio"'),
        (CLASSIFIER._replace(notes=Notes(mode="videoonly", loss="ce")), "image-classification", 'given="image"'),
        (made(AUDIO, classes=3), "audio-classification", 'given="audio"'),
        (made(IMAGE), "image-feature-extraction", "features"),
        (made(AUDIO), "feature-extraction", "features"),
    ],
)
@pytest.mark.slow
def test_the_code_of_a_card_runs(weights: Weights, task: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = card(weights, tmp_path / "tiny")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code in block
    assert f"pipeline_tag: {task}\n" in text
    write_clip(tmp_path / "clip.mp4", 1.0)
    monkeypatch.chdir(tmp_path)
    exec(block, {})  # noqa: S102 - what a user pastes


def test_a_hub_reads_the_header(tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    weights = run(tmp_path / "run", CLASSIFIER, **{"evaluation/evaluation.json": {"views": [VIEW]}})
    text = card(weights, tmp_path / "my: 'model'", tmp_path / "run", license="apache-2.0")
    data = huggingface_hub.ModelCard(text).data
    assert (data.library_name, data.license, data.pipeline_tag) == ("avmae-jax", "apache-2.0", "video-classification")
    assert {"avmae-jax", "jax", "cavmae_classifier", "audio", "image"} <= set(data.tags)
    assert data.model_name == "my: 'model'"
    found = {(row.metric_type, row.metric_value, row.dataset_name) for row in data.eval_results}
    assert found == {("accuracy", 0.9583, "instruments"), ("mean_average_precision", 0.9832, "instruments")}
    assert huggingface_hub.ModelCard(card(made(), tmp_path / "unknown")).data.license == "unknown"


def test_a_card_says_what_the_run_says_and_no_path(tmp_path: Path) -> None:
    weights = run(tmp_path / "run", CLASSIFIER, **{"evaluation/evaluation.json": {"views": [VIEW, VIEW | {"step": 3, "clips": 4711}]}})
    text = card(weights, tmp_path / "model", tmp_path / "run")
    for part in (
        "| audio and image, middle frame | 72 |",
        "0.958 (0.90 to 1.00)",
        "0.983 (0.95 to 1.00)",
        "the data set instruments",
        "from pre",
        "recipe mine",
        "3, one a clip",
    ):
        assert part in text, part
    assert "somebody" not in text
    assert "4711" not in text  # of another step
    assert all(part in text for part in (r"\# harp \| \[x\](y)", r"\<b\>oboe\</b\> alto"))


def test_without_an_evaluation_a_card_has_what_the_run_measured_at_its_end(tmp_path: Path) -> None:
    held_out = {"accuracy": 0.5, "map": 0.6}
    for number, (steps, expected) in enumerate(((0, True), (9, False))):
        weights = run(tmp_path / f"run{number}", CLASSIFIER, summary={"steps": steps, "held_out": held_out})
        assert ("| 0.500 | 0.600 |" in card(weights, tmp_path / f"model{number}", tmp_path / f"run{number}")) == expected
    found = {"clips": 16.0, "audio_to_image_r1": 0.25, "image_to_audio_r1": 0.125}
    weights = run(tmp_path / "pre", made(), summary={"steps": 0, "held_out": {"loss": 8.5}, "retrieval": found})
    text = card(weights, tmp_path / "pretrained", tmp_path / "pre")
    assert all(part in text for part in ("8.500", "R@1", "0.250", "0.125", "| 16 |"))


@pytest.mark.parametrize("content", [[], {"views": 3}, {"views": [3, {"step": 0}, {"step": 0, "accuracy": "high", "map": None}]}])
def test_damaged_results_are_left_out(content: Any, tmp_path: Path) -> None:
    weights = run(tmp_path / "run", CLASSIFIER, **{"evaluation/evaluation.json": content}, summary=[1])
    assert "Measured" not in card(weights, tmp_path / "model", tmp_path / "run")
    assert "Nothing is known" in card(CLASSIFIER, tmp_path / "other", tmp_path / "nowhere")


def test_a_card_installs_no_package_that_anybody_could_register(tmp_path: Path) -> None:
    text = card(made(), tmp_path / "model")
    assert re.findall("pip install .*?`", text) == ['pip install -e ".[hub]"`']


def test_the_card_of_a_model_in_the_box_has_its_figures(tmp_path: Path) -> None:
    text = card(read("instruments12"), tmp_path / "model", Path("instruments12"))
    figures = box.card_of("instruments12").figures["both"]
    assert f"| audio and image | {box.card_of('instruments12').held_out} | {figures.accuracy:.3f} (" in text
