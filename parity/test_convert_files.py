"""Tests weights in PyTorch files: conversion to and from every other format, and damaged, hostile or foreign files."""

# pyright: reportMissingImports=false
import dataclasses
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from tests.support import ODD, ROOT, time_limit

pytest.importorskip("timm", reason='files of PyTorch and its reference model need PyTorch and timm: pip install -e ".[parity]"')

import torch

from avmae_jax import load_pretrained, save_torch
from avmae_jax.errors import WeightsError
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.mae import MAE
from avmae_jax.trees import flatten
from avmae_jax.weights.build import described, fill
from avmae_jax.weights.io import Weights, read, write
from avmae_jax.weights.official import is_unused
from avmae_jax.weights.tensor_files import read_tensors
from parity import reference
from parity.pth_files import made
from tests.weights.files import HEADS, assert_same, message
from tests.weights.folders import EVERY


def sizes(weights: Weights) -> dict[str, int]:
    return {name: value for name, value in HEADS.items() if not (weights.classes and name == "decoder_heads")}


def reference_model(weights: Weights) -> Any:
    return reference.CAVMAEClassifier(weights.config, weights.classes) if weights.classes else reference.CAVMAE(weights.config)


def stored(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="absl")
    return caplog


VARIANTS = {
    "pretraining": made(),
    "classifier": made(classes=5),
    "all joint": made(dataclasses.replace(ODD, joint_depth=3)),
    "one joint": made(dataclasses.replace(ODD, depth=4, joint_depth=1, decoder_depth=1), classes=1),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.slow
def test_there_and_back_is_the_same_to_the_last_bit_in_every_format(name: str, tmp_path: Path) -> None:
    want = VARIANTS[name]
    write(want, tmp_path / "run")
    write(read(tmp_path / "run"), tmp_path / "w.pth")
    assert_same(read(tmp_path / "w.pth", **sizes(want)), want)
    write(read(tmp_path / "w.pth", **sizes(want)), tmp_path / "again")
    assert_same(read(tmp_path / "again"), want)
    write(read(tmp_path / "w.pth", **sizes(want)), tmp_path / "w.safetensors")
    write(read(tmp_path / "w.safetensors"), tmp_path / "again.pt")
    assert_same(read(tmp_path / "again.pt", **sizes(want)), want)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_pth_is_a_state_dict_of_the_reference(name: str, tmp_path: Path) -> None:
    want = VARIANTS[name]
    write(want, tmp_path / "w.pth")
    content, model = stored(tmp_path / "w.pth"), reference_model(want)
    assert content.keys() == model.state_dict().keys()
    assert {(type(x), x.dtype) for x in content.values()} == {(torch.Tensor, torch.float32)}
    for unused in filter(is_unused, content):
        assert torch.equal(content[unused], model.state_dict()[unused]), unused
    model.load_state_dict(content)  # names and shapes, strictly
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    assert_same(read(tmp_path / "theirs.pth", **sizes(want)), want)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "encoder.", "module.model._orig_mod.", "net.backbone."])
@pytest.mark.parametrize("wrapper", ["", "model", "state_dict", "model_state_dict", "module", "encoder"])
def test_prefix_and_wrapper_come_off(prefix: str, wrapper: str, state: Mapping[str, Any], tmp_path: Path, logged: Any) -> None:
    content: dict[str, Any] = {f"{prefix}{name}": torch.nn.Parameter(x) for name, x in state.items()}
    if wrapper:
        content = {wrapper: content, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}}
    torch.save(content, tmp_path / "w.pth")
    assert_same(read(tmp_path / "w.pth", **HEADS), made())
    assert bool(re.search(f"'{wrapper}'.*epoch, optimizer", logged.text)) == bool(wrapper)


@pytest.mark.parametrize("zipped", [True, False])
def test_other_precisions_and_entries_that_are_no_tensors(zipped: bool, state: Mapping[str, Any], tmp_path: Path, logged: Any) -> None:
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.float32]
    content: dict[str, Any] = {name: x.to(kinds[i % 4]) for i, (name, x) in enumerate(state.items())}
    extra = {"epoch": 3, "steps": torch.arange(3), "sparse": torch.eye(2).to_sparse(), 5: "five"}
    torch.save({**content, **extra}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "w.pth")
    assert found.keys() == content.keys()
    for name, x in content.items():
        np.testing.assert_array_equal(found[name], x.float().numpy(), strict=True)
    assert re.search("4 .*epoch, steps, sparse", logged.text)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_model_is_saved_and_loaded(classes: int, tmp_path: Path) -> None:
    want = made(classes=classes)
    save_torch(fill(described(want.config, classes), want.params), tmp_path / "w.pth")
    reference_model(want).load_state_dict(stored(tmp_path / "w.pth"))
    model = load_pretrained(tmp_path / "w.pth", **sizes(want))
    assert type(model) is (CAVMAEClassifier if classes else CAVMAE)
    for path, leaf in flatten(model).items():
        np.testing.assert_array_equal(leaf, want.params[path], strict=True)


@pytest.mark.slow
def test_what_the_original_has_no_names_for_is_refused(tmp_path: Path) -> None:
    model: Any = MAE(dataclasses.replace(ODD, kind="mae", modality="image", depth=1, joint_depth=1), rngs=nnx.Rngs(0))
    with pytest.raises(WeightsError, match="CAV-MAE"):
        save_torch(model, tmp_path / "w.pth")
    assert not list(tmp_path.iterdir())


def test_what_a_pth_does_not_keep_is_said(tmp_path: Path, logged: Any) -> None:
    write(made(), tmp_path / "w.pth")
    assert re.search(r"w\.pth.*heads=2, decoder_heads=2, mel_bins=16", logged.text)
    assert "norm_eps" not in logged.text
    write(made(dataclasses.replace(ODD, learned_positions=True, norm_eps=1e-6)), tmp_path / "other.pth")
    assert re.search(r"other\.pth.*norm_eps=1e-06, learned_positions=True", logged.text)


def test_every_missing_unexpected_and_misshapen_tensor_is_listed(state: Mapping[str, Any], tmp_path: Path) -> None:
    wrong = {name: x for name, x in state.items() if name not in ("norm_a.bias", "blocks_u.1.attn.qkv.weight")}
    torch.save(wrong | {"cls_token": torch.zeros(3), "norm.weight": torch.zeros(3)}, path := tmp_path / "w.pth")
    first, *lines = message(path, **HEADS).splitlines()
    assert f"{path}: 4 " in first
    missing, other, *rest = sorted(lines, key=lambda line: "missing" not in line)
    assert {missing.split()[-1], other.split()[-1]} == {"blocks_u.1.attn.qkv.weight", "norm_a.bias"}
    for line, part in zip(sorted(rest), (r"norm\.weight.*\(3,\).*\(16,\)", r"cls_token \(3,\)"), strict=True):
        assert re.search(part, line)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-m", "launch.convert", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=time_limit(120), check=False)


@pytest.mark.slow
@pytest.mark.process
def test_the_command_reads_and_writes_pth(tmp_path: Path) -> None:
    write(made(), tmp_path / "run")
    done = command(tmp_path / "run", tmp_path / "w.pth")
    assert done.returncode == 0, done.stderr
    assert "heads=2, decoder_heads=2, mel_bins=16" in done.stderr
    done = command(tmp_path / "w.pth", tmp_path / "again")
    assert (done.returncode, done.stdout) == (1, "")
    assert "decoder_heads" in done.stderr
    done = command("--heads=2", tmp_path / "w.pth", tmp_path / "again", "--decoder_heads", 2, "--mel_bins=16")
    assert done.returncode == 0, done.stderr
    assert " 32 " in f" {done.stderr}"
    assert_same(read(tmp_path / "again"), made())


@pytest.mark.slow
@pytest.mark.process
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    write(made(), tmp_path / "in.safetensors")
    script = f"""
import resource, signal
import torch
from avmae_jax.errors import AvmaeError
from avmae_jax.weights.io import read, write
weights = read("{tmp_path}/in.safetensors")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit raises, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
try:
    write(weights, "{tmp_path}/w.pth")
except AvmaeError as error:
    print(type(error).__name__, error)
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=time_limit(120), check=False
    )
    assert done.stdout.startswith(f"WriteError {tmp_path}/w.pth "), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


@pytest.mark.parametrize("kind", ["cavmae_classifier", "late_classifier"])
@pytest.mark.parametrize("head_pool", ["mean_std", "attentive"])
def test_a_head_that_the_original_has_not_goes_through_a_pth(kind: str, head_pool: str, tmp_path: Path) -> None:
    config = dataclasses.replace(ODD, kind=kind, head_pool=head_pool)
    want = made(config, 5)
    write(want, tmp_path / "w.pth")
    found = read(tmp_path / "w.pth", **sizes(want))
    assert (found.config.kind, found.config.head_pool, found.classes) == (kind, head_pool, 5)
    assert found.params.keys() == want.params.keys()
    assert all((found.params[path] == value).all() for path, value in want.params.items())


@pytest.mark.parametrize("name", ["sync", "sync_classifier"])
def test_a_model_of_pairs_is_written_as_its_authors_publish_it(name: str, tmp_path: Path) -> None:
    want = EVERY[name]
    write(want, tmp_path / "w.pth", prefix="module.")
    assert all(name.startswith("module.") for name in stored(tmp_path / "w.pth"))
    assert stored(tmp_path / "w.pth")["module.register_tokens"].shape == (6, 16)
    given = {"heads": 2, "mel_bins": 32} | ({} if want.classes else {"decoder_heads": 2})
    found = read(tmp_path / "w.pth", **given)
    assert {path: value.tobytes() for path, value in found.params.items()} == {path: value.tobytes() for path, value in want.params.items()}
    with pytest.raises(WeightsError, match=r"module\."):
        write(want, tmp_path / "w.safetensors", prefix="module.")
