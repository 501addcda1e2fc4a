"""Weights written to every format and read again, and files that are damaged, hostile or another model's. No torch here: see parity/."""

import contextlib
import dataclasses
import json
import logging
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import avmae_jax
from avmae_jax.checkpoint.manager import Checkpoints, restore_params
from avmae_jax.errors import WeightsError
from avmae_jax.models.ast import AST
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.mae import MAE
from avmae_jax.trees import flatten
from avmae_jax.weights import tensor_files
from avmae_jax.weights.build import build
from avmae_jax.weights.io import Weights, load_pretrained, read, save_torch, write
from avmae_jax.weights.notes import Notes, to_meta
from avmae_jax.weights.official import is_unused, path_of
from avmae_jax.weights.tensor_files import read_tensors
from avmae_jax.weights.trained import load_trained
from tests.support import ODD, Program, made
from tests.weights.test_torch_files import NAMESPACE

HEADS = {"heads": 2, "decoder_heads": 2, "mel_bins": 16}
ONE_MODALITY = dataclasses.replace(ODD, modality="audio", mel_bins=32, audio_frames=32)


def assert_same(got: Weights, want: Weights) -> None:
    assert (got.config, got.classes) == (want.config, want.classes)
    assert {path: (x.shape, x.dtype, x.tobytes()) for path, x in got.params.items()} == {
        path: (x.shape, x.dtype, x.tobytes()) for path, x in want.params.items()
    }


def message(path: Path | str, how: Callable[..., object] = read, /, **sizes: int) -> str:
    """The sentence that a bad file gives; it names the file."""
    with pytest.raises(WeightsError) as error:
        how(path, **sizes)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="absl")
    return caplog


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .safetensors of random weights, with the official names; not to be changed."""
    path = tmp_path_factory.mktemp("official") / "w.safetensors"
    write(made(), path)
    return path


@pytest.fixture(scope="module")
def tensors(official: Path) -> Mapping[str, np.ndarray]:
    return load_file(official)


VARIANTS = {
    "pretraining": made(),
    "classifier": made(classes=5),
    "all joint": made(dataclasses.replace(ODD, joint_depth=3)),
    "one joint": made(dataclasses.replace(ODD, depth=4, joint_depth=1, decoder_depth=1), classes=1),
    "other settings": made(dataclasses.replace(ODD, learned_positions=True, norm_eps=1e-6, image_mask_ratio=0.5, size="tiny", remat=True)),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.slow
def test_weights_and_config_are_the_same_in_every_format(name: str, tmp_path: Path) -> None:
    want = VARIANTS[name]
    write(want, tmp_path / "run")
    assert_same(read(tmp_path / "run"), want)
    write(read(tmp_path / "run"), tmp_path / "w.safetensors")
    assert_same(read(tmp_path / "w.safetensors"), want)
    write(read(tmp_path / "w.safetensors"), tmp_path / "again")
    assert_same(read(tmp_path / "again"), want)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "run", "w.safetensors"]


@pytest.mark.parametrize("want", [made(ONE_MODALITY), made(dataclasses.replace(ONE_MODALITY, class_token=True)), made(ONE_MODALITY, 3)])
def test_models_of_one_modality_go_into_folders_only(want: Weights, tmp_path: Path) -> None:
    write(want, tmp_path / "run")
    assert_same(read(tmp_path / "run"), want)
    assert type(load_pretrained(tmp_path / "run")) is (AST if want.classes else MAE)
    with pytest.raises(WeightsError, match=r"CAV-MAE.*folder"):
        write(want, tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_a_run_is_read_from_its_folder_its_checkpoints_or_one_step(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (3, 7):
            meta = {"config": {"model": dataclasses.asdict(ODD), "train": {}}, "micro_batch": 4}
            checkpoints.save(step, params=nnx.state(load(made(seed=step)), nnx.Param), opt_state={}, rng={}, data={}, meta=meta)
    for path in (tmp_path / "run", folder, folder / "7"):
        assert_same(read(path), made(seed=7))
    assert_same(read(folder / "3"), made(seed=3))


def load(weights: Weights) -> CAVMAE:
    return build(lambda: CAVMAE(weights.config, rngs=nnx.Rngs(0)), weights.params)


def test_a_folder_is_restored_into_a_model(tmp_path: Path) -> None:
    write(made(), tmp_path / "run")
    target = nnx.state(nnx.eval_shape(lambda: CAVMAE(ODD, rngs=nnx.Rngs(1))), nnx.Param)
    restored = restore_params(tmp_path / "run", target)
    assert restored.step == 0
    assert {path: x.tobytes() for path, x in jax.device_get(flatten(restored.params)).items()} == {
        path: x.tobytes() for path, x in made().params.items()
    }


@pytest.mark.parametrize(("classes", "kind"), [(0, CAVMAE), (4, CAVMAEClassifier)])
def test_a_loaded_model_has_the_weights_and_the_settings(classes: int, kind: type, tmp_path: Path) -> None:
    weights = made(dataclasses.replace(ODD, unchained_contrastive=True, image_mask_ratio=0.25), classes)
    write(weights, tmp_path / "w.safetensors")
    model: Any = avmae_jax.load_pretrained(tmp_path / "w.safetensors")
    assert type(model) is kind
    assert classes or (model.unchained_contrastive, model.image_mask_ratio) == (True, 0.25)
    for path, leaf in flatten(model).items():
        np.testing.assert_array_equal(leaf, weights.params[path], strict=True)


def test_public_names_are_there() -> None:
    assert avmae_jax.save_torch is save_torch
    assert (avmae_jax.CAVMAEClassifier, avmae_jax.MAE, avmae_jax.AST) == (CAVMAEClassifier, MAE, AST)
    assert all(getattr(avmae_jax, name) for name in avmae_jax.__all__)


def test_a_safetensors_file_has_official_names_and_notes_the_config(official: Path, tensors: Mapping[str, np.ndarray]) -> None:
    assert {path_of(name) for name in tensors if not is_unused(name)} == set(made().params)
    assert len([name for name in tensors if is_unused(name)]) == (1 + 1 + 2) * 2 * 2 * 2
    assert {x.dtype for x in tensors.values()} == {np.dtype("float32")}
    with safe_open(official, "numpy") as file:
        assert json.loads(file.metadata()["avmae_jax.meta"]) == to_meta(ODD, Notes())


def test_a_file_of_others_needs_heads_and_mel_bins(tensors: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    save_file(dict(tensors), path := tmp_path / "w.safetensors")
    assert_same(read(path, **HEADS), made())
    assert "no published model has a decoder_width of 8, so the number of heads must be given: decoder_heads" in message(path)
    assert "model.width is 16; it must be a multiple of model.heads = 3" in message(path, heads=3, decoder_heads=2, mel_bins=16)
    assert "model.mel_bins is 12; it must be a positive multiple of model.patch = 8" in message(path, **HEADS | {"mel_bins": 12})
    assert "pos_embed_a is (1, 6, 16), the model's is (1, 5, 16)" in message(path, **HEADS | {"mel_bins": 40})
    with pytest.raises(WeightsError, match="mel_bins 0"):
        read(path, mel_bins=0)


@pytest.mark.parametrize(("given", "said"), [({"heads": 4}, "heads is 2"), ({"mel_bins": 64}, "mel_bins is 16")])
def test_sizes_that_contradict_the_file_are_refused(given: dict[str, int], said: str, official: Path, tmp_path: Path) -> None:
    write(made(), tmp_path / "run")
    for path in (official, tmp_path / "run"):
        assert f"{said} there and {next(iter(given.values()))} was given" in message(path, **given)
        assert_same(read(path, **HEADS), made())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32(dtype: str, tensors: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    rounded = {f"module.{name}": x.astype(jnp.dtype(dtype)) for name, x in tensors.items()}
    save_bytes(tmp_path / "w.safetensors", rounded)
    found = read_tensors(tmp_path / "w.safetensors")
    for name, x in tensors.items():
        np.testing.assert_array_equal(found[name], x.astype(jnp.dtype(dtype)).astype(np.float32), strict=True)


def save_bytes(path: Path, tensors: Mapping[str, np.ndarray], **notes: str) -> None:
    """A safetensors file written by hand, since the library writes no bfloat16 from NumPy."""
    kinds = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "int64": "I64"}
    header: dict[str, Any] = {"__metadata__": notes}
    end = 0
    for name, x in tensors.items():
        header[name] = {"dtype": kinds[x.dtype.name], "shape": x.shape, "data_offsets": [end, end := end + x.nbytes]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(x.tobytes() for x in tensors.values()))


def test_what_is_left_out_and_added_is_named(tensors: Mapping[str, np.ndarray], logged: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    save_bytes(tmp_path / "w.safetensors", {**tensors, "steps": np.arange(3)})
    weights = read(tmp_path / "w.safetensors", **HEADS)
    assert "1 entries that are no floating-point tensors are left out: steps" in logged.text
    assert "32 norm tensors that the original never uses are left out: blocks_a.0.norm1_a.bias, " in logged.text
    assert "and 29 more" in logged.text
    assert not [record for record in logged.records if record.levelno >= logging.WARNING]
    logged.clear()
    write(weights, tmp_path / "again.safetensors")
    assert "32 norm tensors that the original stores and never uses are added as initialised: blocks_a.0.norm1_a.bias, " in logged.text


def test_unused_norms_that_were_changed_are_warned_of(
    tensors: Mapping[str, np.ndarray], logged: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    changed = {"blocks_a.0.norm1_v.weight": np.zeros(16, np.float32), "decoder_blocks.1.norm2_a.bias": np.full(8, 1e-9, np.float32)}
    save_file({**tensors, **changed}, tmp_path / "w.safetensors")
    read(tmp_path / "w.safetensors", **HEADS)
    (warning,) = [record.getMessage() for record in logged.records if record.levelno >= logging.WARNING]
    assert "2 of them are not as they are initialised" in warning
    assert warning.endswith(": blocks_a.0.norm1_v.weight, decoder_blocks.1.norm2_a.bias")


def bad_files(folder: Path, official: Path) -> dict[str, Path]:
    """Files that are no weights, by what is said of them."""
    content = official.read_bytes()
    (folder / "empty.safetensors").touch()
    (folder / "text.safetensors").write_text("<!DOCTYPE html><title>Not found</title>")
    (folder / "cut.safetensors").write_bytes(content[: len(content) // 2])
    (folder / "cut_header.safetensors").write_bytes(content[:20])
    (folder / "huge.safetensors").write_bytes(
        b'\x60\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}'.ljust(104) + bytes(4)
    )
    save_bytes(folder / "integers.safetensors", {"steps": np.arange(3)})
    save_file({"a": np.ones(2, np.float32), "module.a": np.zeros(2, np.float32)}, folder / "twice.safetensors")
    (folder / "w.txt").write_bytes(content)
    (folder / "folder").mkdir()
    (folder / "folder" / "notes.txt").touch()
    (folder / "w.safetensors").mkdir()
    return {
        "is empty (0 bytes)": folder / "empty.safetensors",
        "is no safetensors file, or a damaged or incomplete one (SafetensorError: ": folder / "text.safetensors",
        "damaged or incomplete": folder / "cut.safetensors",
        "is no safetensors file": folder / "cut_header.safetensors",
        "a damaged or incomplete one": folder / "huge.safetensors",
        "holds no floating-point tensors": folder / "integers.safetensors",
        "twice, such as a and module.a": folder / "twice.safetensors",
        "files end in .pth, .pt, .bin, .ckpt, .pth.tar, .safetensors": folder / "w.txt",
        "can't be read: No such file or directory": folder / "nowhere.pth",
        "no checkpoint here; give a run's checkpoint folder or one step of it": folder / "folder",
        "no checkpoint here;": folder / "w.safetensors",
    }


def test_a_file_that_is_no_weights_gives_one_line(official: Path, tmp_path: Path) -> None:
    for expected, path in bad_files(tmp_path, official).items():
        said = message(path)
        assert expected in said
        assert "\n" not in said


def test_a_file_cut_anywhere_or_with_any_byte_changed_is_weights_or_refused(tmp_path: Path, official: Path) -> None:
    content, rng = official.read_bytes(), np.random.default_rng(0)
    path = tmp_path / "w.safetensors"
    for _ in range(60):
        path.write_bytes(content[: rng.integers(len(content))])
        message(path, read_tensors)
        changed = bytearray(content)
        changed[rng.integers(8 + struct.unpack("<Q", content[:8])[0])] ^= 1 << rng.integers(8)  # in the header; the data can't tell
        path.write_bytes(changed)
        with contextlib.suppress(WeightsError):
            read_tensors(path)


def test_every_flipped_bit_of_our_file_is_refused_or_changes_nothing(tmp_path: Path, official: Path) -> None:
    """Only a flip in the checksum's own name or in "format", which nobody reads, leaves a file that is read."""
    content, rng = official.read_bytes(), np.random.default_rng(0)
    header = 8 + struct.unpack("<Q", content[:8])[0]
    names = [content.index(part.encode()) for part in ("avmae_jax.sha256", '"format":"pt"')]
    want, path = read(official), tmp_path / "w.safetensors"
    for place in [*rng.integers(len(content), size=60), *rng.integers(header, size=60)]:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        if any(start <= place < start + 16 for start in names):
            with contextlib.suppress(WeightsError):
                assert_same(read(path), want)
        else:
            message(path)


def test_a_file_whose_tensors_or_note_were_changed_is_refused(tmp_path: Path, official: Path) -> None:
    with safe_open(official, "numpy") as file:
        metadata = file.metadata()
    changed = load_file(official)
    changed["norm_a.bias"] = changed["norm_a.bias"] + 1
    save_file(changed, tmp_path / "w.safetensors", metadata)
    assert "avmae_jax.sha256" in message(tmp_path / "w.safetensors")
    note = metadata["avmae_jax.meta"].replace('"audio_std": 4.4849', '"audio_std": 4.4949')
    save_file(load_file(official), tmp_path / "w.safetensors", metadata | {"avmae_jax.meta": note})
    assert "avmae_jax.sha256" in message(tmp_path / "w.safetensors")
    del metadata["avmae_jax.sha256"]  # as a file of before there was a checksum
    save_file(changed, tmp_path / "w.safetensors", metadata)
    read(tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["w.safetensors", "run"])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float, tmp_path: Path) -> None:
    weights = made()
    weights.params["encoder.norm.audio.bias"][1] = value
    write(weights, tmp_path / name)
    said = message(tmp_path / name)
    assert ("encoder.norm.audio.bias" if name == "run" else "norm_a.bias") in said
    assert "\n" not in said


def test_weights_of_the_original_raise_no_warning(logged: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    tensors = {name: 50 * tensor for name, tensor in made().params.items()}
    write(made()._replace(params=tensors), tmp_path / "w.safetensors")
    read(tmp_path / "w.safetensors")
    assert not [record for record in logged.records if record.levelno >= logging.WARNING]
    tensors["encoder.norm.audio.bias"][1] = 1e20
    write(made()._replace(params=tensors), tmp_path / "run")
    read(tmp_path / "run")
    (warning,) = [record.getMessage() for record in logged.records if record.levelno >= logging.WARNING]
    assert "encoder.norm.audio.bias (1.0e+20)" in warning


def test_another_model_is_named(tmp_path: Path) -> None:
    save_file(
        {"cls_token": np.zeros((1, 1, 8), np.float32), "blocks.0.attn.qkv.weight": np.zeros((24, 8), np.float32)},
        tmp_path / "vit.safetensors",
    )
    said = message(tmp_path / "vit.safetensors")
    assert "CAV-MAE, an MAE or an AST" in said
    assert "blocks.0.attn.qkv.weight, cls_token" in said
    assert "\n" not in said


def test_every_missing_unexpected_and_misshapen_tensor_is_listed(tensors: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    wrong = {name: x for name, x in tensors.items() if name not in ("norm_a.bias", "blocks_u.1.attn.qkv.weight")}
    wrong |= {"cls_token": np.zeros(3, np.float32), "decoder_pred_v.weight": np.zeros((200, 8), np.float32)}
    save_file(wrong, path := tmp_path / "w.safetensors")
    assert message(path, **HEADS).splitlines() == [
        f"{path}: 4 tensors don't fit the model:",
        "  missing: blocks_u.1.attn.qkv.weight",
        "  missing: norm_a.bias",
        "  unexpected: cls_token (3,)",
        "  misshapen: decoder_pred_v.weight is (200, 8), the model's is (192, 8)",
    ]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("patch_embed_v.proj.weight", (16, 3)), ("pos_embed_a", (6, 16)), ("mlp_head.1.weight", (5,)), ("pos_embed_v", (1, 0, 16))],
)
def test_a_tensor_that_gives_a_size_and_has_the_wrong_axes_is_named(
    name: str, shape: tuple[int, ...], tensors: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    save_file({**tensors, name: np.zeros(shape, np.float32)}, tmp_path / "w.safetensors")
    assert f"these are no weights of a CAV-MAE: {name} {shape}" in message(tmp_path / "w.safetensors", **HEADS)


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("not JSON", "has no model config"),
        ("[" * 100_000, "has no model config"),
        ("[1]", "has no model config"),
        ({"colour": 1}, "its config has fields unknown here: colour; it was written by a newer version"),
        ({"width": "16"}, "model.width is '16'"),
        ({"heads": True}, "model.heads is 'True'"),
        ({"norm_eps": -1}, "model.norm_eps is -1.0; it must be positive"),
        ({"width": 10**9}, "model.width is 1000000000, by its tensors 16"),
        ({"depth": 4, "decoder_depth": 1}, "model.depth is 4, by its tensors 3\n  model.decoder_depth is 1, by its tensors 2"),
        ({"audio_frames": 80}, "model.audio_frames is 80, by its tensors 24"),
        ({"modality": "audio"}, "model.modality is audio, by its tensors both"),
        ({"mlp_ratio": float("nan")}, "model.mlp_ratio is nan, by its tensors 2.0"),
        ({"mlp_ratio": float("inf")}, "model.mlp_ratio is inf, by its tensors 2.0"),
    ],
)  # fmt: skip
def test_a_noted_config_is_held_against_the_tensors(
    note: str | dict[str, Any], said: str, tensors: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    text = note if isinstance(note, str) else json.dumps({"config": {"model": dataclasses.asdict(ODD) | note}})
    save_file(dict(tensors), tmp_path / "w.safetensors", {"avmae_jax.meta": text})
    assert said in message(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["w.safetensors", "run"])
def test_what_a_user_must_know_stays_with_the_weights(name: str, tmp_path: Path) -> None:
    notes = Notes(audio_mean=-5.5, audio_std=4.0, norm_pix=False, mode="audioonly", loss="ce", label_names=("a", "b", "Trommel, groß"))
    write(made(classes=3)._replace(notes=notes), tmp_path / name)
    assert read(tmp_path / name).notes == notes
    trained = load_trained(tmp_path / name)
    assert trained.label_names == notes.label_names
    assert (trained.config.data.audio_mean, trained.config.tune.mode, trained.config.loss.norm_pix) == (-5.5, "audioonly", False)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"label_names": ["a"]}, "label_names must be a list of 3 names"),
        ({"label_names": ["a", "b", 3]}, "label_names must be a list of 3 names"),
        ({"data": {"audio_std": 0}}, "data.audio_std 0"),
        ({"data": {"audio_mean": "5"}}, "data.audio_mean is '5'"),
        ({"data": [5]}, r"data.audio_mean is '[5]'"),
        ({"tune": {"mode": "both"}}, "tune.mode is 'both'"),
        ({"loss": {"norm_pix": 1}}, "loss.norm_pix is '1'"),
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
    assert said in message(tmp_path / "other.safetensors")


def test_a_label_file_of_other_classes_is_refused(tmp_path: Path) -> None:
    write(made(classes=3), tmp_path / "run")
    assert load_trained(tmp_path / "run").label_names == ("class 0", "class 1", "class 2")
    labels = tmp_path / "labels.csv"
    labels.write_text("index,mid,display_name\n0,/m/0,harp\n1,/m/1,oboe\n")
    with pytest.raises(WeightsError, match=r"3 classes.*labels\.csv.* 2"):
        load_trained(tmp_path / "run", labels_csv=labels)
    labels.write_text("index,mid,display_name\n0,/m/0,harp\n1,/m/1,oboe\n2,/m/2,lute\n")
    assert load_trained(tmp_path / "run", labels_csv=labels).label_names == ("harp", "oboe", "lute")


def test_a_checkpoint_that_does_not_fit_its_config_is_refused(tmp_path: Path) -> None:
    def saved(name: str, meta: dict[str, Any]) -> Path:
        with Checkpoints(tmp_path / name) as checkpoints:
            params = {path: jnp.asarray(x) for path, x in made().params.items()}
            checkpoints.save(0, params=params, opt_state={}, rng={}, data={}, meta=meta)
        return tmp_path / name

    fields = dataclasses.asdict(ODD)
    assert "has no model config" in message(saved("none", {}))
    assert "fields unknown here: colour" in message(saved("unknown", {"config": {"model": {**fields, "colour": 1}}}))
    said = message(saved("other", {"config": {"model": {**fields, "depth": 4}}}))
    assert "24 tensors don't fit the model" in said
    assert "missing: encoder.audio.blocks.1.attn.qkv.kernel" in said
    del fields["remat"], fields["norm_eps"]  # as a run of before they existed
    assert read(saved("older", {"config": {"model": fields}})).config == ODD


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    for name in ("file.safetensors", "folder", "link.safetensors"):
        assert message(tmp_path / name, lambda path: write(made(), path)).endswith(
            "exists already and is not overwritten; choose another name"
        )
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file.safetensors").read_text() == "mine"
    for name in ("w.npz", "w.onnx", "w.tar", "w.safetensor"):
        assert Path(name).suffix in message(tmp_path / name, lambda path: write(made(), path))
    assert sorted(tmp_path.iterdir()) == before
    write(made(), tmp_path / "lr0.001")
    assert (tmp_path / "lr0.001" / "0").is_dir()
    assert "there is no folder" in message(tmp_path / "nowhere" / "w.safetensors", lambda path: write(made(), path))
    assert "ends in .pth, .pt, .bin" in message(tmp_path / "w.npz", lambda path: save_torch(load(made()), path))


def test_what_appeared_in_the_meantime_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"

    def slow(unfinished: Path) -> None:
        assert unfinished != path
        unfinished.write_text("ours")
        path.write_text("theirs")

    assert "exists already" in message(path, lambda path: tensor_files.write_new(path, slow))
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["w.safetensors", "run"])
@pytest.mark.slow
def test_a_full_disk_leaves_nothing(name: str, tmp_path: Path, program: Program) -> None:
    write(made(), tmp_path / "in.safetensors")
    script = f"""
import resource, signal
from avmae_jax.weights.io import read, write
weights = read("{tmp_path}/in.safetensors")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit raises, as it does on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
try:
    write(weights, "{tmp_path}/{name}")
except ValueError as error:
    print(type(error).__name__, error)
"""
    done = program("-c", script)
    assert done.stdout.startswith(f"WeightsError {tmp_path}/{name}: can't be written, and nothing was left there: "), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"], done.stdout


def test_without_torch_its_files_are_read_and_writing_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert read_tensors(NAMESPACE)["patch_embed_v.proj.weight"].shape == (1,)
    expected = 'w.pth: PyTorch files need torch to be written, which isn\'t installed: pip install -e ".[torch]"'
    assert message(tmp_path / "w.pth", lambda path: write(made(), path)).endswith(expected)
    assert message(tmp_path / "w.pth", lambda path: save_torch(load(made()), path)).endswith(expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_module_needs_torch_or_tensorflow(program: Program) -> None:
    """Nor does one of ours ask for them; that tensorboardX takes torch where it finds it can't be helped."""
    script = """
import importlib, pathlib, pkgutil, sys
import avmae_jax, launch

asked = set()

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "tensorflow"):
            frame = sys._getframe()
            while "importlib" in frame.f_code.co_filename or frame.f_code.co_name == "find_spec":
                frame = frame.f_back
            asked.add((pathlib.Path(frame.f_code.co_filename).parent.name, name))
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refusing())
names = [module.name for package in (avmae_jax, launch) for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
for name in names:
    importlib.import_module(name)
assert all(getattr(avmae_jax, name) for name in avmae_jax.__all__)
print(len(names), sorted(asked - {("tensorboardX", "torch")}))
"""
    done = program("-c", script)
    assert done.returncode == 0, done.stderr
    count, found = done.stdout.split(" ", 1)
    assert int(count) > 40
    assert found.strip() == "[]"
