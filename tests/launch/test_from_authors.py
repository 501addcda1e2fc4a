"""Follows the README's recipe "From the authors' weights" at a small size, from a .pth as DataParallel of PyTorch writes it."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import avmae_jax as av
import launch.calibrate
import launch.convert
import launch.evaluate
import launch.predict
from avmae_jax.config import Config, ModelConfig
from avmae_jax.config_files import shipped
from avmae_jax.models import registry
from avmae_jax.trees import flatten
from avmae_jax.weights.official import to_official
from tests.support import ROOT, TINY, apply, completed
from tests.weights.torch_file import torch_file

SMALL = {name: value for name, value in TINY.items() if name.startswith("model.")}
HEADS = ("--heads=4", "--decoder_heads=4")
CLIP = ROOT / "tests/old/clip.mp4"


def authors_file(path: Path, kind: str, classes: int = 0) -> dict[str, np.ndarray]:
    """Writes random weights of a small model under the official names with "module." before them; returns ours."""
    config: ModelConfig = apply(Config(), SMALL | {"model.kind": kind}).model
    params = flatten(nnx.state(registry.build(config, classes, rngs=nnx.Rngs(3)), nnx.Param))
    params = {name: np.asarray(leaf) for name, leaf in params.items()}
    path.write_bytes(torch_file({f"module.{name}": np.ascontiguousarray(x) for name, x in to_official(params).items()}))
    return params


def tuned(folder: Path, **changes: Any) -> Path:
    """Tunes folder/authors.pth by the shipped recipe, at the small size and on the built-in set."""
    small = TINY | {
        "data.source": "builtin",
        "data.path": "",
        "data.cache_dir": str(folder / "cache"),
        "augment.specaug_time": 16,
        "mesh.data": 1,
    }
    small |= {
        "init_from": str(folder / "authors.pth"),
        "train.steps": 6,
        "tune.average_first": 1,
        "tune.average_last": 1,
        "train.workdir": str(folder / "run"),
    }
    config = apply(shipped("finetune_pretrained"), small | {name.replace("__", "."): value for name, value in changes.items()})
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
        summary = av.finetune(config)
    assert summary
    assert summary["steps"] == 6
    return folder / "run/averaged"


@pytest.mark.slow
def test_the_authors_pretrained_file_becomes_a_calibrated_classifier(tmp_path: Path) -> None:
    given = authors_file(tmp_path / "authors.pth", "cavmae")
    run = tuned(tmp_path)
    model = av.load(run)
    assert (model.kind, model.config.tune.loss, model.config.data.normalisation) == ("cavmae_classifier", "ce", (-5.081, 4.4849))
    after = flatten(nnx.state(model.module, nnx.Param))
    moved = {name for name, leaf in after.items() if name in given and not np.array_equal(leaf, given[name])}
    assert "encoder.blocks.0.attn.qkv.kernel" in moved
    for program, arguments in ((launch.evaluate, [run]), (launch.calibrate, [run]), (launch.predict, [CLIP, f"--model={run}"])):
        done = completed(program, *arguments)
        assert done.returncode == 0, done.stderr
    assert av.load(run).calibration


@pytest.mark.slow
def test_a_frozen_encoder_stays_that_of_the_file(tmp_path: Path) -> None:
    given = authors_file(tmp_path / "authors.pth", "cavmae")
    after = flatten(nnx.state(av.load(tuned(tmp_path, tune__freeze_base=True)).module, nnx.Param))
    for name in given.keys() & after.keys():
        np.testing.assert_array_equal(after[name], given[name], err_msg=name)
    assert np.abs(after["head.linear.bias"]).max() > 0


@pytest.mark.slow
def test_a_tuned_file_of_the_authors_answers_as_it_was_tuned(tmp_path: Path) -> None:
    names = ["accordion, free reed", "harp", "lute"]
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n" + "".join(f'{n},/m/{n},"{name}"\n' for n, name in enumerate(names)))
    authors_file(tmp_path / "vgg.pth", "cavmae_classifier", classes=3)
    about = (f"--labels_csv={tmp_path}/labels.csv", "--tuned_loss=ce")

    def probabilities(*options: object) -> dict[str, float]:
        done = completed(launch.predict, CLIP, f"--json={tmp_path}/out.json", "--top=3", *options)
        assert done.returncode == 0, done.stderr
        (record,) = json.loads((tmp_path / "out.json").read_text())["files"]
        return {row["class"]: row["probability"] for row in record["classes"]}

    found = probabilities(f"--model={tmp_path}/vgg.pth", *HEADS, *about)
    assert found.keys() == {*names}
    assert sum(found.values()) == pytest.approx(1, abs=1e-3)  # by a softmax, not each class by itself
    assert probabilities(f"--model={tmp_path}/vgg.pth", *HEADS).keys() == {"class 0", "class 1", "class 2"}
    done = completed(launch.convert, tmp_path / "vgg.pth", tmp_path / "vgg.safetensors", *HEADS, *about)
    assert done.returncode == 0, done.stderr
    assert probabilities(f"--model={tmp_path}/vgg.safetensors") == pytest.approx(found)
