"""Tests files that are damaged, hostile or another model's: each is refused in one line that names it."""

import contextlib
import dataclasses
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from avmae_jax.checkpoint.manager import Checkpoints
from avmae_jax.errors import WeightsError
from avmae_jax.weights import tensor_files
from avmae_jax.weights.io import read, save_torch, write
from avmae_jax.weights.tensor_files import read_tensors
from tests.support import ODD, Program, made
from tests.weights.files import HEADS, load, message, save_bytes


def bad_files(folder: Path, official: Path) -> dict[Path, str]:
    """Makes files that are no weights, with a part of what is said of each."""
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
    (folder / "w.pth?dl=1").write_bytes(content)
    (folder / "folder").mkdir()
    (folder / "folder" / "notes.txt").touch()
    (folder / "w.safetensors").mkdir()
    said = {"empty.safetensors": "empty", "integers.safetensors": "no floating-point", "twice.safetensors": "module.a"}
    said |= {"w.txt": ".pth, .pt, .bin, .ckpt, .pth.tar, .safetensors", "folder": "checkpoint", "w.safetensors": "checkpoint"}
    said |= {"w.pth?dl=1": "rename", "text.safetensors": "web page"}
    said |= dict.fromkeys(("cut.safetensors", "cut_header.safetensors", "huge.safetensors"), "damaged")
    return {folder / name: part for name, part in (said | {"nowhere.pth": ""}).items()}


def test_a_file_that_is_no_weights_gives_one_line(official: Path, tmp_path: Path) -> None:
    for path, expected in bad_files(tmp_path, official).items():
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


def test_another_model_is_named(tmp_path: Path) -> None:
    save_file(
        {"cls_token": np.zeros((1, 1, 8), np.float32), "blocks.0.attn.qkv.weight": np.zeros((24, 8), np.float32)},
        tmp_path / "vit.safetensors",
    )
    said = message(tmp_path / "vit.safetensors")
    assert re.search(r"CAV-MAE.*MAE.*AST.*blocks\.0\.attn\.qkv\.weight, cls_token", said)
    assert "\n" not in said


def test_every_missing_unexpected_and_misshapen_tensor_is_listed(tensors: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    wrong = {name: x for name, x in tensors.items() if name not in ("norm_a.bias", "blocks_u.1.attn.qkv.weight")}
    wrong |= {"cls_token": np.zeros(3, np.float32), "decoder_pred_v.weight": np.zeros((200, 8), np.float32)}
    save_file(wrong, path := tmp_path / "w.safetensors")
    expected = [
        f"{re.escape(str(path))}: 4 ",
        r"missing: blocks_u\.1\.attn\.qkv\.weight",
        r"missing: norm_a\.bias",
        r"unexpected: cls_token \(3,\)",
        r"misshapen: decoder_pred_v\.weight.*\(200, 8\).*\(192, 8\)",
    ]
    for line, part in zip(message(path, **HEADS).splitlines(), expected, strict=True):
        assert re.search(part, line)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("patch_embed_v.proj.weight", (16, 3)), ("pos_embed_a", (6, 16)), ("mlp_head.1.weight", (5,)), ("pos_embed_v", (1, 0, 16))],
)
def test_a_tensor_that_gives_a_size_and_has_the_wrong_axes_is_named(
    name: str, shape: tuple[int, ...], tensors: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    save_file({**tensors, name: np.zeros(shape, np.float32)}, tmp_path / "w.safetensors")
    assert f"{name} {shape}" in message(tmp_path / "w.safetensors", **HEADS)


def test_a_checkpoint_that_does_not_fit_its_config_is_refused(tmp_path: Path) -> None:
    def saved(name: str, meta: dict[str, Any]) -> Path:
        with Checkpoints(tmp_path / name) as checkpoints:
            params = {path: jnp.asarray(x) for path, x in made().params.items()}
            checkpoints.save(0, params=params, opt_state={}, rng={}, data={}, meta=meta)
        return tmp_path / name

    fields = dataclasses.asdict(ODD)
    assert "config" in message(saved("none", {}))
    assert "colour" in message(saved("unknown", {"config": {"model": {**fields, "colour": 1}}}))
    said = message(saved("other", {"config": {"model": {**fields, "depth": 4}}}))
    assert re.search(r"(?s)24 .*missing: encoder\.audio\.blocks\.1\.attn\.qkv\.kernel", said)
    del fields["remat"], fields["norm_eps"]  # as a run of before they existed
    assert read(saved("older", {"config": {"model": fields}})).config == ODD


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    for name in ("file.safetensors", "folder", "link.safetensors"):
        message(tmp_path / name, lambda path: write(made(), path))
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file.safetensors").read_text() == "mine"
    message(tmp_path / "nowhere" / "w.safetensors", lambda path: write(made(), path))
    assert ".pth, .pt, .bin" in message(tmp_path / "w.npz", lambda path: save_torch(load(made()), path))


def test_what_appeared_in_the_meantime_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"

    def slow(unfinished: Path) -> None:
        assert unfinished != path
        unfinished.write_text("ours")
        path.write_text("theirs")

    message(path, lambda path: tensor_files.write_new(path, slow))
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "run"])
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
except OSError as error:
    print(type(error).__name__, error)
"""
    if name.endswith("pth"):
        pytest.importorskip("torch")
    done = program("-c", script)
    assert re.fullmatch(rf"WriteError {tmp_path}/{name} .*\(File too large\).*\n", done.stdout), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"], done.stdout
