"""Tests pretrained folders: the same model to the last bit, config.json held against the tensors, and what is refused in one line."""

import dataclasses
import json
import logging
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import avmae_jax as av
from avmae_jax.errors import AvmaeError, WeightsError
from avmae_jax.models.registry import KINDS
from avmae_jax.trees import flatten
from avmae_jax.weights import folder
from avmae_jax.weights.calibration import Calibration, ModeCalibration, fingerprint
from avmae_jax.weights.init_from import initialise_from
from avmae_jax.weights.io import Weights, read, write
from avmae_jax.weights.io import made as built
from avmae_jax.weights.notes import Notes
from avmae_jax.weights.tensor_files import read_tensors
from tests.damage import CHANGES
from tests.support import ODD, made
from tests.weights.files import assert_same, message

AUDIO = dataclasses.replace(ODD, modality="audio", mel_bins=32, audio_frames=32)
IMAGE = dataclasses.replace(ODD, modality="image")
LATE = dataclasses.replace(ODD, kind="late_classifier", head_pool="mean_std", image_factor=0.25)


def noted(weights: Weights) -> Weights:
    """Gives weights notes of which none is a default, and a calibration if they are a classifier's."""
    notes = Notes(audio_mean=-5.5, audio_std=4.0, channels="mean", norm_pix=False)
    if weights.classes:
        names = tuple(f"class {number}: é\n\"'`" for number in range(weights.classes))
        modes = (("audioonly", ModeCalibration(1.5, tuple(np.linspace(0.1, 0.9, weights.classes).tolist()))),)
        notes = dataclasses.replace(
            notes, label_names=names, mode="audioonly", calibration=Calibration(fingerprint(weights.params), "c", modes)
        )
    return weights._replace(notes=notes, step=7)


EVERY = {
    "cavmae": noted(made()),
    "cavmae, small": noted(made(dataclasses.replace(ODD, size="tiny", learned_positions=True, norm_eps=1e-6))),
    "cavmae_classifier": noted(made(classes=5)),
    "cavmae_classifier, attentive": noted(made(dataclasses.replace(ODD, kind="cavmae_classifier", head_pool="attentive"), classes=2)),
    "late_classifier": noted(made(LATE, classes=3)),
    "mae": noted(made(IMAGE)),
    "mae with a class token": noted(made(dataclasses.replace(IMAGE, class_token=True))),
    "mae of audio": noted(made(dataclasses.replace(AUDIO, class_token=True))),
    "ast": noted(made(AUDIO, classes=3)),
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a folder of a classifier, which tests must not change."""
    path = tmp_path_factory.mktemp("folders") / "model"
    folder.save(EVERY["cavmae_classifier"], path, path)
    return path


@pytest.fixture
def copy(classifier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier, tmp_path / "copy"))


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((path / "config.json").read_text())
    how(content)
    (path / "config.json").write_text(json.dumps(content))


def refused(path: Path, file: str = "config.json") -> str:
    said = message(path)
    assert str(path / file) in said
    assert "\n" not in said
    return said


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


@pytest.mark.parametrize("name", ["cavmae", "cavmae_classifier", "late_classifier", "mae", "ast"])
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
        both = [jax.tree.leaves(one.module.features(inputs)) for one in (model, loaded)]
        assert [x.tobytes() for x in both[0]] == [x.tobytes() for x in both[1]]
        return
    if name == "cavmae":
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


LIES = [
    ("model", "width", 32, r"model\.width is 32, .* 16 \(patch_embed_v\.proj\.weight is \(16, 3, 8, 8\), expected \(32, 3, 8, 8\)\)"),
    ("model", "width", 10**9, r"model\.width is 1000000000"),
    ("model", "depth", 10**9, r"model\.depth is 1000000000, .* 3"),
    ("model", "heads", 4, r"model\.heads is 4, .* 2"),
    ("model", "audio_frames", 80, r"model\.audio_frames is 80, .*pos_embed_a is \(1, 6, 16\), expected \(1, 20, 16\)"),
    ("model", "image_size", 32, r"model\.image_size is 32, .*pos_embed_v is \(1, 4, 16\), expected \(1, 16, 16\)"),
    ("model", "mlp_ratio", 3.0, r"model\.mlp_ratio is 3\.0, .*blocks_u\.0\.mlp\.fc1\.weight is \(32, 16\)"),
    ("model", "mlp_ratio", float("nan"), r"model\.mlp_ratio is nan"),
    ("model", "joint_depth", 1, r"model\.joint_depth is 1, .* 2"),
    ("model", "norm_eps", 1e-3, r"model\.norm_eps is 0\.001, .*1e-05"),
    ("model", "norm_eps", float("nan"), r"model\.norm_eps is nan"),
    ("model", "width", "16", r"model\.width is '16'"),
    ("model", "heads", 3, r"model\.width is 16.*heads = 3"),
    ("model", "colour", 3, r"unknown.*colour"),
    ("model", "kind", "mae", r"model\.kind is 'mae'"),
    ("model", "modality", "audio", r"model\.modality is audio, .* both"),
    ("data", "audio_mean", -4, r"data\.audio_mean is -4\.0, .*-5\.5"),
    ("data", "audio_std", 0, r"data\.audio_std 0"),
    ("data", "gain", 1, r"unknown.*data\.gain"),
    ("tune", "mode", "both", r"tune\.mode.*'both'"),
    ("window", "seconds", 10, r"window is .*10.* 0\.24"),
    (None, "kind", "cavmae", r"model\.kind is cavmae, .*cavmae_classifier"),
    (None, "kind", "mae", r"model\.kind is mae, .*CAV-MAE"),
    (None, "kind", "transformer", r"kind is 'transformer'.*cavmae_classifier.*ast"),
    (None, "kind", ["mae"], r"kind is \['mae'\]"),
    (None, "classes", 7, r"classes is 7, .* 5 \(mlp_head\.1\.weight \(5, 16\)\)"),
    (None, "label_names", ["a"], r"label_names .* 5 "),
    (None, "label_names", "abcde", r"label_names .* 5 "),
    (None, "calibration", None, r"calibration"),
    (None, "format", 2, r"format is 2, .*newer.*update"),
    (None, "format", "1", r"format is '1'"),
    (None, "format", True, r"format is True"),
    (None, "auto_map", {"AutoModel": "modeling.Evil"}, r"unknown.*auto_map"),
    (None, "library_name", "transformers", r"library_name is 'transformers'.*model\.safetensors"),
    (None, "model", [1], r"model is \[1\]"),
]  # fmt: skip


@pytest.mark.parametrize(("group", "field", "value", "said"), LIES)
def test_a_config_that_lies_is_refused_by_field_and_tensor(group: str | None, field: str, value: Any, said: str, copy: Path) -> None:
    change(copy, lambda content: (content if group is None else content[group]).update({field: value}))
    assert re.search(said, refused(copy))


@pytest.mark.parametrize("name", ["mae", "mae of audio", "ast"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 32), ("depth", 2), ("patch", 4), ("decoder_width", 4), ("decoder_depth", 1), ("image_size", 32), ("audio_frames", 64),
     ("mel_bins", 24), ("mlp_ratio", 4.0), ("class_token", None), ("heads", 1), ("modality", None),
     ("width", 2**40), ("audio_frames", 2**40)],
)  # fmt: skip
def test_a_config_of_another_mae_or_ast_is_refused(name: str, field: str, value: Any, tmp_path: Path) -> None:
    folder.save(EVERY[name], tmp_path / "folder", tmp_path)
    before = getattr(folder.resolved(EVERY[name]).config, field)
    other = {"modality": "audio" if before == "image" else "image", "class_token": not before}.get(field, value)
    change(tmp_path / "folder", lambda content: content["model"].update({field: other}))
    assert f"model.{field}" in refused(tmp_path / "folder")


@pytest.mark.parametrize("field", ["library_name", "format", "kind", "classes", "label_names", "model", "data", "window", "model.width",
                                   "data.audio_mean", "model.heads", "tune.loss", "loss.norm_pix", "versions"])  # fmt: skip
def test_a_field_that_lacks_is_named(field: str, copy: Path) -> None:
    *group, name = field.split(".")
    change(copy, lambda content: (content[group[0]] if group else content).pop(name))
    assert field in refused(copy)


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
    named = {name: value for name, value in read_tensors(copy / "model.safetensors").items() if name != "pos_embed_v"}
    save_file(named, copy / "model.safetensors")
    assert "pos_embed_v" in refused(copy)


def test_names_of_classes_can_be_translated(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["Flöte", "Harfe", "Horn", "Laute", "Oboe"]
    change(copy, lambda content: content.update(label_names=names))
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert read(copy).notes.label_names == tuple(names)
    assert "label_names" in caplog.text


def test_nothing_else_in_the_folder_is_opened(copy: Path, tmp_path: Path) -> None:
    for name in ("modeling.py", "__init__.py", "conftest.py"):
        (copy / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    assert read(copy).classes == 5
    assert not (tmp_path / "ran").exists()


def test_nothing_is_overwritten_and_nothing_half_is_left(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name, options, said in (
        ("there", {}, "there"),
        ("no/folder", {}, "create"),
        ("x.safetensors", {}, r"\.safetensors"),
        ("x", {"license": "My own!"}, "license.*My own!"),
    ):
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


def test_damage_of_any_kind_ends_in_the_model_or_a_line(copy: Path) -> None:
    rng, content, want = random.Random(0), (copy / "config.json").read_bytes(), read(copy)  # noqa: S311
    for _ in range(150):
        (copy / "config.json").write_bytes(rng.choice(CHANGES)(content, rng))
        said, found = outcome(copy)
        assert "\n" not in said
        assert found or str(copy) in said
        if found:
            assert_same(found, want)
            assert dataclasses.replace(found.notes, label_names=()) == dataclasses.replace(want.notes, label_names=())


def outcome(path: Path) -> tuple[str, Weights | None]:
    try:
        return "", read(path)
    except AvmaeError as error:
        return str(error), None
