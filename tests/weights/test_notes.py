"""Tests what is noted beside the weights: the model's config, label names and settings of the data."""

import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import avmae_jax as av
from avmae_jax.errors import ConfigError, WeightsError
from avmae_jax.weights.io import load_pretrained, read, write
from avmae_jax.weights.notes import Notes, model_config
from avmae_jax.weights.official import to_official
from avmae_jax.weights.trained import About, load_trained
from tests.support import ODD, made
from tests.weights.files import HEADS, message


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("not JSON", "config"),
        ("[" * 100_000, "config"),
        ("[1]", "config"),
        ({"colour": 1}, "config.*colour"),
        ({"width": "16"}, r"model\.width.*'16'"),
        ({"heads": True}, r"model\.heads.*True"),
        ({"norm_eps": -1}, r"model\.norm_eps.*-1"),
        ({"width": 10**9}, r"model\.width.* 1000000000,.* 16"),
        ({"depth": 4, "decoder_depth": 1}, r"model\.depth.* 4,.* 3; .*model\.decoder_depth.* 1,.* 2"),
        ({"audio_frames": 80}, r"model\.audio_frames.* 80,.* 24"),
        ({"modality": "audio"}, r"model\.modality.* audio,.* both"),
        ({"mlp_ratio": float("nan")}, r"model\.mlp_ratio is nan"),
        ({"mlp_ratio": float("inf")}, r"model\.mlp_ratio is inf"),
    ],
)  # fmt: skip
def test_a_noted_config_is_held_against_the_tensors(
    note: str | dict[str, Any], said: str, tensors: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    text = note if isinstance(note, str) else json.dumps({"config": {"model": dataclasses.asdict(ODD) | note}})
    save_file(dict(tensors), tmp_path / "w.safetensors", {"avmae_jax.meta": text})
    assert re.search(said, message(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", ["w.safetensors", "run"])
def test_what_a_user_must_know_stays_with_the_weights(name: str, tmp_path: Path) -> None:
    notes = Notes(audio_mean=-5.5, audio_std=4.0, norm_pix=False, mode="audioonly", loss="ce", label_names=("a", "b", "Trommel, groß"))
    notes = dataclasses.replace(notes, normalise="clip")
    write(made(classes=3)._replace(notes=notes), tmp_path / name)
    assert read(tmp_path / name).notes == notes
    trained = load_trained(tmp_path / name)
    assert trained.label_names == notes.label_names
    assert (trained.config.data.audio_mean, trained.config.tune.mode, trained.config.loss.norm_pix) == (-5.5, "audioonly", False)
    assert trained.config.data.normalise == "clip"


def test_a_model_is_applied_in_float32_unless_asked_whatever_it_was_trained_in(tmp_path: Path) -> None:
    given = made(dataclasses.replace(ODD, compute_dtype="bfloat16"), classes=3)
    write(given, tmp_path / "run")
    assert read(tmp_path / "run").config.compute_dtype == "bfloat16"  # a converter keeps it

    def products(module: Any) -> set[np.dtype]:
        return {np.dtype(block.mlp.fc1.dtype) for block in module.encoder.blocks}

    assert products(load_pretrained(tmp_path / "run")) == {np.dtype("float32")}
    for asked, expected in (("float32", "float32"), ("bfloat16", "bfloat16"), ("auto", "float32")):  # this is a CPU
        trained = load_trained(tmp_path / "run", compute_dtype=asked)
        assert trained.config.model.compute_dtype == expected
        assert products(trained.module) == {jnp.dtype(expected)}
    with pytest.raises(ValueError, match=r"model\.compute_dtype.*float16"):
        load_trained(tmp_path / "run", compute_dtype="float16")


def test_a_pth_loses_nothing_by_its_dtype(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("torch", reason="writing a .pth needs PyTorch")
    write(made(dataclasses.replace(ODD, compute_dtype="bfloat16"), classes=3), tmp_path / "w.pth")
    assert "compute_dtype" not in caplog.text


def test_weights_from_before_the_dtype_was_a_choice_were_trained_in_float32() -> None:
    fields = {name: value for name, value in dataclasses.asdict(ODD).items() if name != "compute_dtype"}
    assert model_config({"config": {"model": fields}}, classifies=False).compute_dtype == "float32"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"label_names": ["a"]}, "label_names.* 3 "),
        ({"label_names": ["a", "b", 3]}, "label_names.* 3 "),
        ({"data": {"audio_std": 0}}, r"data\.audio_std.*0"),
        ({"data": {"audio_mean": "5"}}, r"data\.audio_mean.*'5'"),
        ({"data": [5]}, r"data\.audio_mean.*\[5\]"),
        ({"data": {"normalise": "batch"}}, r"data\.normalise.*'batch'"),
        ({"tune": {"mode": "both"}}, r"tune\.mode.*'both'"),
        ({"loss": {"norm_pix": 1}}, r"loss\.norm_pix.*'1'"),
    ],
)  # fmt: skip
def test_a_note_that_cannot_be_is_named(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    weights = made(classes=3)
    write(weights, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "numpy") as file:
        names = file.keys()
        tensors = {key: file.get_tensor(key) for key in names}
    labels = {"label_names": more["label_names"]} if "label_names" in more else {}
    groups = {name: value for name, value in more.items() if name != "label_names"}
    meta = {"config": {"model": dataclasses.asdict(ODD), **groups}, **labels}
    save_file(tensors, tmp_path / "other.safetensors", {"avmae_jax.meta": json.dumps(meta)})
    assert re.search(said, message(tmp_path / "other.safetensors"))


def test_a_label_file_of_other_classes_is_refused(tmp_path: Path) -> None:
    write(made(classes=3), tmp_path / "run")
    assert load_trained(tmp_path / "run").label_names == ("class 0", "class 1", "class 2")
    av.load(tmp_path / "run").save(tmp_path / "again.safetensors")
    assert read(tmp_path / "again.safetensors").notes.label_names == ()
    labels = tmp_path / "labels.csv"
    labels.write_text("index,mid,display_name\n0,/m/0,harp\n1,/m/1,oboe\n")
    with pytest.raises(WeightsError, match=r"3 classes.*labels\.csv.* 2"):
        load_trained(tmp_path / "run", about=About(labels))
    labels.write_text("index,mid,display_name\n0,/m/0,harp\n1,/m/1,oboe\n2,/m/2,lute\n")
    assert load_trained(tmp_path / "run", about=About(labels)).label_names == ("harp", "oboe", "lute")


def test_a_file_without_notes_is_what_the_user_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "w.safetensors"
    save_file(to_official(made(classes=3).params), path)
    with caplog.at_level(logging.INFO, logger="absl"):
        silent = load_trained(path, about=About(), **HEADS)
    assert (silent.config.tune.loss, str(silent.tuned), silent.label_names[0]) == ("bce", "multimodal", "class 0")
    assert all(name in caplog.text for name in ("labels_csv", "tuned_loss is bce", "tuned_mode multimodal"))
    said = load_trained(path, about=About(tuned_loss="ce", tuned_mode="audioonly"), **HEADS)
    assert (said.config.tune.loss, str(said.tuned)) == ("ce", "audioonly")
    with pytest.raises(ConfigError, match=r"tune\.loss.*mse"):
        load_trained(path, about=About(tuned_loss="mse"), **HEADS)
    with pytest.raises(ConfigError, match=r"tune\.mode.*sound"):
        load_trained(path, about=About(tuned_mode="sound"), **HEADS)


def test_a_file_with_notes_is_no_other_than_these_say(tmp_path: Path) -> None:
    write(made(classes=3)._replace(notes=Notes(loss="ce")), tmp_path / "w.safetensors")
    assert load_trained(tmp_path / "w.safetensors", about=About(tuned_loss="ce")).config.tune.loss == "ce"
    with pytest.raises(WeightsError, match=r"w\.safetensors.*tune\.loss ce.*tuned_loss is bce"):
        load_trained(tmp_path / "w.safetensors", about=About(tuned_loss="bce"))
    write(made(), tmp_path / "pretrained.safetensors")
    with pytest.raises(WeightsError, match=r"pretrained\.safetensors.*without classes.*tuned_mode"):
        load_trained(tmp_path / "pretrained.safetensors", about=About(tuned_mode="audioonly"))
