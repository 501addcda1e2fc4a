"""Tests pretrained folders: the same model to the last bit, damaged files, and everything that takes a folder."""

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import avmae_jax as av
from avmae_jax.errors import WeightsError
from avmae_jax.models.registry import KINDS
from avmae_jax.trees import flatten
from avmae_jax.weights import folder
from avmae_jax.weights.calibration import fingerprint
from avmae_jax.weights.init_from import initialise_from
from avmae_jax.weights.io import made as built
from avmae_jax.weights.io import read, write
from avmae_jax.weights.tensor_files import read_tensors
from tests.support import ODD, made
from tests.weights.files import assert_same, message
from tests.weights.folders import EVERY, change, refused


def test_every_kind_is_here() -> None:
    assert {weights.config.kind for weights in EVERY.values()} == set(KINDS)


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_is_the_same_after_there_and_back(name: str, tmp_path: Path) -> None:
    want = EVERY[name]
    params = {path: np.where(value > 1, np.float32(-0.0), value) for path, value in want.params.items()}  # bits that adding 0 would change
    want = want._replace(params=params, notes=dataclasses.replace(want.notes, calibration=None))
    folder.save(want, tmp_path / "first", tmp_path)
    found = read(tmp_path / "first")
    assert_same(found, folder.resolved(want))
    assert found.notes == want.notes
    folder.save(found, tmp_path / "second", tmp_path / "first")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]
    assert_same(read(tmp_path / "first/model.safetensors"), folder.resolved(want))  # the file alone says all


@pytest.mark.parametrize("name", ["cavmae", "cavmae_classifier", "late_classifier", "sync", "sync_classifier", "mae", "ast"])
@pytest.mark.slow
def test_every_kind_answers_the_same_after_there_and_back(name: str, tmp_path: Path) -> None:
    write(EVERY[name], tmp_path / "run")
    model = av.load(tmp_path / "run")
    model.save_pretrained(tmp_path / "folder")
    loaded = av.load(tmp_path / "folder")
    assert (loaded.kind, loaded.label_names, loaded.calibration) == (model.kind, model.label_names, model.calibration)
    assert (loaded.config.data, loaded.config.tune, loaded.config.loss) == (model.config.data, model.config.tune, model.config.loss)
    audio = np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    if name == "mae":
        inputs = {"image": jax.random.normal(jax.random.key(0), (2, 16, 16, 3))}
        modules: list[Any] = [model.module, loaded.module]
        both = [jax.tree.leaves(module.features(inputs)) for module in modules]
        assert [x.tobytes() for x in both[0]] == [x.tobytes() for x in both[1]]
        return
    if name in ("cavmae", "sync"):
        both = [one.embed(audio=audio, image=image) for one in (model, loaded)]
        assert all(np.array_equal(getattr(both[0], kind), getattr(both[1], kind)) for kind in ("audio", "image", "joint"))
        return
    both = [one.predict(audio=audio) for one in (model, loaded)]
    assert (both[0].probabilities.tobytes(), both[0].named) == (both[1].probabilities.tobytes(), both[1].named)


def test_float16_is_half_the_size(tmp_path: Path) -> None:
    want = EVERY["cavmae_classifier"]
    for half in (False, True):
        folder.save(want, tmp_path / str(half), tmp_path, half=half)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("True", "False")]
    assert sizes[0] < 0.6 * sizes[1]
    assert read(tmp_path / "True").notes == want.notes


def test_a_file_that_lacks_or_is_damaged_is_named(copy: Path) -> None:
    tensors, config = copy / "model.safetensors", copy / "config.json"
    whole, text = tensors.read_bytes(), config.read_text()
    for content in ("", "[]", "{", "[" * 100_000, '{"library_name": NaN}', '{"library_name": "avmae-jax", "format": ' + "9" * 5000 + "}"):
        config.write_text(content)
        refused(copy)
    config.unlink()
    refused(copy)
    config.mkdir()
    refused(copy)
    config.rmdir()
    config.write_text(text)
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "checksum" in refused(copy, "model.safetensors")
    tensors.write_bytes(whole[:1000])
    refused(copy, "model.safetensors")
    tensors.unlink()
    assert "missing" in refused(copy, "model.safetensors")


def test_tensors_of_another_program_are_read_by_the_config_alone(copy: Path) -> None:
    save_file(read_tensors(copy / "model.safetensors"), copy / "model.safetensors")
    want = EVERY["cavmae_classifier"]
    assert (read(copy).notes, read(copy).config) == (want.notes, folder.resolved(want).config)
    for note in ("[1]", "null", "{}", "[" * 100_000, '{"config": {"model": {"mlp_ratio": 1' + "0" * 400 + "}}}"):
        save_file(read_tensors(copy / "model.safetensors"), copy / "model.safetensors", {"avmae_jax.meta": note})
        assert "model.safetensors" in refused(copy)
    named = {name: value for name, value in read_tensors(copy / "model.safetensors").items() if name != "pos_embed_v"}
    save_file(named, copy / "model.safetensors")
    assert "pos_embed_v" in refused(copy)


def test_names_of_classes_can_be_translated(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["Flöte", "Harfe", "Horn", "Laute", "Oboe"]
    change(copy, lambda content: content.update(label_names=names))
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert read(copy).notes.label_names == tuple(names)
    assert "label_names" in caplog.text


def test_names_that_are_no_translation_are_refused(copy: Path) -> None:
    stored = list(EVERY["cavmae_classifier"].notes.label_names)
    for names, said in (
        ([stored[1], stored[0], *stored[2:]], "for class 0.* for class 1"),
        (["Flöte", "Harfe", "Horn", "Laute", stored[0]], "for class 4.* for class 0"),
        (["Flöte", "Harfe", "Flöte", "Laute", "Oboe"], "'Flöte' for the classes 0 and 2"),
    ):
        change(copy, lambda content, names=names: content.update(label_names=names))
        assert re.search(f"label_names .*{said}", refused(copy))


def test_names_that_several_classes_of_a_list_share_are_kept(tmp_path: Path) -> None:
    weights = EVERY["cavmae_classifier"]
    names = ("oboe", "oboe", "harp", "horn", "lute")
    folder.save(weights._replace(notes=dataclasses.replace(weights.notes, label_names=names)), tmp_path / "folder", tmp_path)
    assert read(tmp_path / "folder").notes.label_names == names


def test_an_export_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"library_name": "avmae-jax", "export_format": 1, "what": "classify"}))
    assert all(part in refused(tmp_path) for part in ("launch.export", "run.py", "pretrained folder"))


def test_nothing_else_in_the_folder_is_opened(copy: Path, tmp_path: Path) -> None:
    for name in ("modeling.py", "__init__.py", "conftest.py"):
        (copy / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    assert read(copy).classes == 5
    assert not (tmp_path / "ran").exists()


def test_nothing_is_overwritten_and_nothing_half_is_left(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("there", {}, "there"),
        ("no/folder", {}, "create"),
        ("x.safetensors", {}, r"\.safetensors"),
        ("x", {"license": "My own!"}, "license.*My own!"),
    )
    for name, options, said in cases:
        with pytest.raises(WeightsError, match=said):
            folder.save(EVERY["cavmae"], tmp_path / name, tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_calibration_beside_the_folder_counts_first(copy: Path) -> None:
    other = {
        "weights": fingerprint(EVERY["cavmae_classifier"].params),
        "clips": "d",
        "modes": {"audioonly": {"temperature": 3, "thresholds": []}},
    }
    (copy / "calibration.json").write_text(json.dumps(other))
    calibration = read(copy).notes.calibration
    assert calibration is not None
    assert calibration.of("audioonly").temperature == 3
    (copy / "calibration.json").write_text(json.dumps(other | {"weights": "0"}))
    assert "calibration.json" in message(copy)


@pytest.mark.parametrize("name", ["cavmae", "cavmae_classifier", "mae"])
def test_a_run_starts_from_a_folder(name: str, tmp_path: Path) -> None:
    folder.save(EVERY[name], tmp_path / "folder", tmp_path)
    config = dataclasses.replace(ODD, kind="cavmae_classifier", norm_eps=EVERY[name].config.norm_eps)
    model = built(made(config, classes=2, seed=9))
    initialise_from(config, model, tmp_path / "folder")
    there = EVERY[name].params
    here = flatten(nnx.state(model, nnx.Param))
    path = "tower.blocks.0.mlp.fc1.kernel" if name == "mae" else "encoder.audio.blocks.0.mlp.fc1.kernel"
    np.testing.assert_array_equal(here["encoder.audio.blocks.0.mlp.fc1.kernel"], there[path])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("registers", 5, r"model\.registers is 5, by its tensors 3"),
        ("class_token", False, r"model\.class_token is False, by its tensors True"),
    ],
)
def test_a_config_of_other_learned_tokens_is_refused(field: str, value: object, said: str, tmp_path: Path) -> None:
    folder.save(EVERY["sync"], tmp_path / "sync", tmp_path)
    change(tmp_path / "sync", lambda content: content["model"].update({field: value}))
    assert re.search(said, refused(tmp_path / "sync"))


@pytest.mark.parametrize(("name", "other"), [("sync", "cavmae"), ("cavmae", "sync"), ("sync_classifier", "cavmae_classifier")])
def test_a_model_of_pairs_and_one_without_are_not_taken_for_each_other(name: str, other: str, tmp_path: Path) -> None:
    folder.save(EVERY[name], tmp_path / "folder", tmp_path)
    change(tmp_path / "folder", lambda content: content.update(kind=other))
    assert f"model.kind is {other}, by its tensors {name}" in refused(tmp_path / "folder")


def test_how_many_images_a_model_of_pairs_was_trained_with_is_compared_too(tmp_path: Path) -> None:
    folder.save(EVERY["sync"], tmp_path / "sync", tmp_path)
    change(tmp_path / "sync", lambda content: content["data"].pop("frames"))
    assert "data.frames is" in refused(tmp_path / "sync")
    folder.save(EVERY["cavmae"], tmp_path / "cavmae", tmp_path)
    assert "frames" not in json.loads((tmp_path / "cavmae/config.json").read_text())["data"]
