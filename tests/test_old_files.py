"""Opens, applies and resumes what the version before model kinds wrote: a run, a classifier, a .safetensors file, a prepared data set.

tests/old holds them. `predicted.json` is what that version predicted for clip.mp4, and `whole_metrics.jsonl` are its losses in the
uninterrupted run of which `pretrained` holds the first two of four steps.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import avmae_jax
from avmae_jax.config_history import config_from_dict
from avmae_jax.data.decode.many_clips import cut_timed
from avmae_jax.inference.predict import Prediction, Predictor
from avmae_jax.inference.windows import Medium
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.trees import flatten

OLD = Path(__file__).parent / "old"


def losses(path: Path) -> dict[int, float]:
    """Reads the training loss of each step from a metrics.jsonl."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


def test_the_run_and_the_file_written_from_it_open_as_the_same_model() -> None:
    run, file = avmae_jax.load(OLD / "pretrained"), avmae_jax.load(OLD / "pretrained.safetensors")
    assert (run.kind, run.step, run.classes) == ("cavmae", 2, 0)
    assert (file.kind, file.config.model) == ("cavmae", run.config.model)
    assert isinstance(run.module, CAVMAE)
    ours, theirs = flatten(run.module), flatten(file.module)
    for path, value in ours.items():
        np.testing.assert_array_equal(value, theirs[path])


@pytest.mark.slow
def test_the_classifier_predicts_what_it_predicted() -> None:
    model = avmae_jax.load(OLD / "finetuned")
    (recorded,) = json.loads((OLD / "predicted.json").read_text())["files"]
    assert (model.kind, str(model.tuned)) == ("cavmae_classifier", recorded["mode"])
    as_then = Medium("clip.mp4", lambda form, stride: cut_timed(OLD / "clip.mp4", clip_id="clip", stride=stride, form=form))
    ((_, found),) = Predictor(model)([as_then], top=2, fill="zeros")  # a last window was shorter, and padded with zeros
    assert isinstance(found, Prediction)
    assert [name for name, _ in found.top] == [row["class"] for row in recorded["classes"]]
    np.testing.assert_allclose([value for _, value in found.top], [row["probability"] for row in recorded["classes"]], rtol=0, atol=1e-4)
    assert (found.windows, found.start) == (recorded["windows"], recorded["strongest_window"])
    assert found.match == pytest.approx(recorded["match"], abs=1e-4)


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.slow
def test_the_run_resumes_with_the_losses_of_the_uninterrupted_one(tmp_path: Path) -> None:
    shutil.copytree(OLD / "pretrained", tmp_path / "run")
    config = config_from_dict(json.loads((OLD / "pretrained" / "config.json").read_text()))
    config.train.workdir, config.train.steps, config.data.path = str(tmp_path / "run"), 4, str(OLD / "prepared")
    summary = avmae_jax.pretrain(config)
    assert summary is not None
    assert summary["steps"] == 4
    found, expected = losses(tmp_path / "run" / "metrics.jsonl"), losses(OLD / "whole_metrics.jsonl")
    assert found.keys() == expected.keys() == {1, 2, 3, 4}
    np.testing.assert_allclose([found[step] for step in (3, 4)], [expected[step] for step in (3, 4)], rtol=1e-4)
