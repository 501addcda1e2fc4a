"""Tests weights written to every format and read again. No torch here: see parity/."""

import dataclasses
import json
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import save_file

import avmae_jax
from avmae_jax.checkpoint.manager import Checkpoints, restore_params
from avmae_jax.errors import WeightsError
from avmae_jax.models.ast import AST
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.mae import MAE
from avmae_jax.trees import flatten
from avmae_jax.weights.io import Weights, load_pretrained, read, save_torch, write
from avmae_jax.weights.notes import Notes, to_meta
from avmae_jax.weights.official import is_unused, path_of
from avmae_jax.weights.tensor_files import read_tensors
from tests.support import ODD, Program, made
from tests.weights.files import HEADS, assert_same, load, message, save_bytes
from tests.weights.test_torch_files import NAMESPACE

ONE_MODALITY = dataclasses.replace(ODD, modality="audio", mel_bins=32, audio_frames=32)


VARIANTS = {
    "pretraining": made(),
    "classifier": made(classes=5),
    "all joint": made(dataclasses.replace(ODD, joint_depth=3)),
    "one joint": made(dataclasses.replace(ODD, depth=4, joint_depth=1, decoder_depth=1), classes=1),
    "late fusion": made(dataclasses.replace(ODD, kind="late_classifier", head_pool="mean_std", image_factor=0.25), classes=3),
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


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for turn in range(5):
        write(made(ODD, 3), tmp_path / f"{turn}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_float16_is_half_the_size_and_rounds_each_value(tmp_path: Path) -> None:
    want = VARIANTS["late fusion"]
    write(want, tmp_path / "whole.safetensors")
    write(want, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    found = read(tmp_path / "half.safetensors")
    assert (found.config, found.notes) == (want.config, want.notes)
    assert all((found.params[name] == value.astype(np.float16).astype(np.float32)).all() for name, value in want.params.items())
    large = want._replace(params={name: value * 1e6 for name, value in want.params.items()})
    with pytest.raises(WeightsError, match=r"large\.safetensors.*float16"):
        write(large, tmp_path / "large.safetensors", half=True)
    with pytest.raises(WeightsError, match=r"half\b.*float16.*\.safetensors"):
        write(want, tmp_path / "half", half=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.safetensors", "whole.safetensors"]


@pytest.mark.parametrize("want", [made(ONE_MODALITY), made(dataclasses.replace(ONE_MODALITY, class_token=True)), made(ONE_MODALITY, 3)])
def test_models_of_one_modality_keep_every_bit_in_folders_and_safetensors(want: Weights, tmp_path: Path) -> None:
    write(want, tmp_path / "run")
    assert_same(read(tmp_path / "run"), want)
    assert type(load_pretrained(tmp_path / "run")) is (AST if want.classes else MAE)
    write(want, tmp_path / "w.safetensors")
    assert_same(read(tmp_path / "w.safetensors"), want)
    with pytest.raises(WeightsError, match=r"w\.pth.*CAV-MAE.*\.safetensors.*folder"):
        write(want, tmp_path / "w.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "w.safetensors"]


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
    assert classes or (model.unchained_contrastive, model.mask_ratios["image"]) == (True, 0.25)
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
    assert re.search("decoder_width.* 8.*decoder_heads", message(path))
    assert re.search(r"model\.width.* 16.*model\.heads.* 3", message(path, heads=3, decoder_heads=2, mel_bins=16))
    assert re.search(r"model\.mel_bins.* 12.*model\.patch.* 8", message(path, **HEADS | {"mel_bins": 12}))
    assert re.search(r"pos_embed_a.*\(1, 6, 16\).*\(1, 5, 16\)", message(path, **HEADS | {"mel_bins": 40}))
    with pytest.raises(WeightsError, match=r"mel_bins.* 0"):
        read(path, mel_bins=0)


@pytest.mark.parametrize(("given", "said"), [({"heads": 4}, "heads.* 2.* 4"), ({"mel_bins": 64}, "mel_bins.* 16.* 64")])
def test_sizes_that_contradict_the_file_are_refused(given: dict[str, int], said: str, official: Path, tmp_path: Path) -> None:
    write(made(), tmp_path / "run")
    for path in (official, tmp_path / "run"):
        assert re.search(said, message(path, **given))
        assert_same(read(path, **HEADS), made())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32(dtype: str, tensors: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    rounded = {f"module.{name}": x.astype(jnp.dtype(dtype)) for name, x in tensors.items()}
    save_bytes(tmp_path / "w.safetensors", rounded)
    found = read_tensors(tmp_path / "w.safetensors")
    for name, x in tensors.items():
        np.testing.assert_array_equal(found[name], x.astype(jnp.dtype(dtype)).astype(np.float32), strict=True)


def test_what_is_left_out_and_added_is_named(tensors: Mapping[str, np.ndarray], logged: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    save_bytes(tmp_path / "w.safetensors", {**tensors, "steps": np.arange(3)})
    weights = read(tmp_path / "w.safetensors", **HEADS)
    assert re.search("1 .*steps", logged.text)
    assert re.search(r"32 .*blocks_a\.0\.norm1_a\.bias", logged.text)
    assert not [record for record in logged.records if record.levelno >= logging.WARNING]
    logged.clear()
    write(weights, tmp_path / "again.safetensors")
    assert re.search(r"32 .*blocks_a\.0\.norm1_a\.bias", logged.text)


def test_unused_norms_that_were_changed_are_warned_of(
    tensors: Mapping[str, np.ndarray], logged: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    changed = {"blocks_a.0.norm1_v.weight": np.zeros(16, np.float32), "decoder_blocks.1.norm2_a.bias": np.full(8, 1e-9, np.float32)}
    save_file({**tensors, **changed}, tmp_path / "w.safetensors")
    read(tmp_path / "w.safetensors", **HEADS)
    (warning,) = [record.getMessage() for record in logged.records if record.levelno >= logging.WARNING]
    assert re.search(r"2 .*: blocks_a\.0\.norm1_v\.weight, decoder_blocks\.1\.norm2_a\.bias$", warning)


def test_without_torch_its_files_are_read_and_writing_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert read_tensors(NAMESPACE)["patch_embed_v.proj.weight"].shape == (1,)
    expected = 'pip install -e ".[torch]"'
    assert message(tmp_path / "w.pth", lambda path: write(made(), path)).endswith(expected)
    assert message(tmp_path / "w.pth", lambda path: save_torch(load(made()), path)).endswith(expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_module_needs_torch_or_tensorflow(program: Program) -> None:
    """Nor does one of ours ask for them, nor a library of ours, where PyTorch is installed: it takes seconds of every start."""
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
print(len(names), sorted(asked))
"""
    done = program("-c", script)
    assert done.returncode == 0, done.stderr
    count, found = done.stdout.split(" ", 1)
    assert int(count) > 40
    assert found.strip() == "[]"


POOLING = dataclasses.replace(ODD, kind="cavmae_classifier")


@pytest.mark.parametrize("head_pool", ["mean_std", "attentive"])
@pytest.mark.parametrize("name", ["w.safetensors", "run"])
def test_a_head_with_another_pooling_keeps_it(name: str, head_pool: str, tmp_path: Path) -> None:
    want = made(dataclasses.replace(POOLING, head_pool=head_pool), 5)
    assert ("head.query" in want.params) == (head_pool == "attentive")
    write(want, tmp_path / name)
    found = read(tmp_path / name)
    assert (found.config.head_pool, found.classes) == (head_pool, 5)
    assert found.params.keys() == want.params.keys()
    for path, value in want.params.items():
        np.testing.assert_array_equal(found.params[path], value)
    load_pretrained(tmp_path / name)


@pytest.mark.parametrize(
    ("stored", "written", "said"),
    [
        ("attentive", "mean", r"model\.head_pool is mean, by its tensors attentive"),
        ("mean", "attentive", r"model\.head_pool is attentive, by its tensors mean"),
        ("mean_std", "mean", r"model\.head_pool is mean, by its tensors mean_std"),
    ],
)
def test_a_head_that_contradicts_the_config_is_refused(stored: str, written: str, said: str, tmp_path: Path) -> None:
    write(made(dataclasses.replace(POOLING, head_pool=stored), 5), tmp_path / "w.safetensors")
    meta = to_meta(dataclasses.replace(POOLING, head_pool=written), Notes())
    save_file(read_tensors(tmp_path / "w.safetensors"), tmp_path / "other.safetensors", {"avmae_jax.meta": json.dumps(meta)})
    assert re.search(said, message(tmp_path / "other.safetensors"))


def test_a_head_as_wide_as_no_pooling_is_refused(tmp_path: Path) -> None:
    write(made(POOLING, 5), tmp_path / "w.safetensors")
    tensors = {
        name: value[:, :12] if name == "mlp_head.1.weight" else value for name, value in read_tensors(tmp_path / "w.safetensors").items()
    }
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, tmp_path / "other.safetensors")
    assert re.search(r"mlp_head\.1\.weight.*\(5, 12\).*\(5, 16\)", message(tmp_path / "other.safetensors", **HEADS | {"decoder_heads": 0}))
