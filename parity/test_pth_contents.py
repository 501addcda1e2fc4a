"""Tests what is read from a PyTorch file, what is left out, and that damaged and hostile ones are refused in one line."""

# pyright: reportMissingImports=false
import argparse
import array
import collections
import datetime
import decimal
import enum
import fractions
import functools
import os
import pathlib
import pickle
import random
import re
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avmae_jax.errors import WeightsError
from avmae_jax.weights.io import read
from avmae_jax.weights.tensor_files import read_tensors
from parity.pth_files import made
from tests.weights.files import HEADS, assert_same, message

torch = pytest.importorskip("torch", reason='it writes the files: pip install -e ".[parity]"')


class Precision(enum.Enum):
    HALF = 16


class Named(enum.StrEnum):
    YES = "yes"


HARMLESS: dict[str, Any] = {
    "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.95), out=Path("runs"), nested=argparse.Namespace(a=[1, {"b"}])),
    "simple": types.SimpleNamespace(a=1),
    "float": np.float64(0.5),
    "int": np.int64(3),
    "half": np.float16(2),
    "flag": np.bool_(True),
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "random": np.random.RandomState(0).get_state(),  # as training programs save it
    "random state": np.random.RandomState(0),
    "generators": [np.random.default_rng(0), *(np.random.Generator(kind(1)) for kind in (np.random.Philox, np.random.SFC64))],
    "seeds": [np.random.SeedSequence(3), np.random.MT19937(1)],
    "python's random": [random.Random(1), random.getstate()],  # noqa: S311
    "torch's generator": torch.Generator(),
    "version": torch.__version__,
    "matrices": [
        np.ma.array([1.0, 2.0], mask=[False, True]),
        np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        np.datetime64("2026"),
    ],
    "times": [datetime.date(2026, 1, 1), datetime.timedelta(1), time.gmtime(0)],
    "paths": [Path("x"), pathlib.PureWindowsPath("c:/x")],
    "numbers": [decimal.Decimal("1.5"), fractions.Fraction(1, 2), np.complex64(1j), array.array("f", [1])],
    "containers": [collections.ChainMap({"a": 1}), collections.UserDict(a=1), collections.defaultdict(collections.OrderedDict, a=1), ...],
    "enum": Precision.HALF,
    "named": Named.YES,
    "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "sets": ({1, 2}, frozenset("ab"), collections.deque([1]), collections.Counter("aab"), collections.defaultdict(list, a=[1])),
    "complex": 1j,
    "bytes": bytearray(b"abc"),
    "device": torch.device("cpu"),
    "dtype": torch.bfloat16,
    "size": torch.Size([1, 2]),
    "rng": torch.get_rng_state(),
    "sparse": torch.eye(2).to_sparse(),
    "class": Precision,
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_lies_beside_the_tensors_is_left_out(protocol: int, zipped: bool, state: Mapping[str, Any], tmp_path: Path) -> None:
    content = {"model": {**state, "more": HARMLESS["args"]}, **HARMLESS}
    torch.save(content, tmp_path / "w.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert_same(read(tmp_path / "w.pth", **HEADS), made())


@pytest.mark.parametrize("name", HARMLESS)
def test_each_harmless_type_is_read_alone(name: str, tmp_path: Path) -> None:
    for protocol in (2, 4):
        torch.save({"w": torch.ones(2), "x": HARMLESS[name], name: {"y": [HARMLESS[name]]}}, tmp_path / "w.pth", pickle_protocol=protocol)
        assert read_tensors(tmp_path / "w.pth").keys() == {"w"}


def test_tensors_are_what_torch_makes_of_them(tmp_path: Path) -> None:
    grown = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    tensors = {
        "transposed": grown.permute(2, 0, 1),
        "part": grown[1, 1:, ::2],
        "column": grown[:, :, 3],
        "repeated": torch.ones(1, 3).expand(2, 3),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(grown * 2),
        "float8": torch.tensor([0.5, 448.0]).to(torch.float8_e4m3fn),
        "wider float8": torch.tensor([0.5, 448.0, 1]).to(torch.float8_e5m2),
        "double": torch.tensor([1e-3, 2], dtype=torch.float64),
    }
    tensors["parameter"].tag = "an attribute"  # changes how torch saves it
    torch.save(tensors, tmp_path / "w.pth")
    for name, found in read_tensors(tmp_path / "w.pth").items():
        np.testing.assert_array_equal(found, torch.load(tmp_path / "w.pth")[name].detach().float().numpy(), strict=True)
    assert read_tensors(tmp_path / "w.pth").keys() == tensors.keys()


def called(path: str) -> None:
    Path(path).touch()


class Settings(collections.OrderedDict[str, int]):
    """Stands for a class of a user's, which may do anything when it is made."""


CALLABLES: dict[str, Callable[[Path], Any]] = {
    "functools.partial": lambda path: functools.partial(called, str(path)),
    "parity.test_pth_contents.called": lambda path: [called, str(path)],
    "parity.test_pth_contents.Settings": lambda _: Settings(a=1),
    "numpy.mean": lambda _: np.mean,
}


@pytest.mark.parametrize("name", CALLABLES)
def test_a_callable_is_refused_by_name_and_never_called(name: str, tmp_path: Path) -> None:
    for protocol in (2, 4):
        torch.save({"w": torch.ones(2), "x": CALLABLES[name](tmp_path / "made")}, tmp_path / "w.pth", pickle_protocol=protocol)
        with pytest.raises(WeightsError, match=f"holds {re.escape(name)}, "):
            read_tensors(tmp_path / "w.pth")
    assert not (tmp_path / "made").exists()


class Code:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "pickle 2", "wrapped"])
def test_code_in_a_file_is_never_run(how: str, state: Mapping[str, Any], tmp_path: Path) -> None:
    path, made_by_it = tmp_path / "w.pth", tmp_path / "made"
    content = {"model": dict(state), "args": Code(made_by_it)} if how == "wrapped" else {**state, "x": Code(made_by_it)}
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps({"x": Code(made_by_it)}, protocol=2 if how == "pickle 2" else 5))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    said = message(path, **HEADS)
    assert "posix.mkdir" in said
    assert "\n" not in said
    assert not made_by_it.exists()
    with path.open("rb") as file:
        (torch.load if not how.startswith("pickle") else lambda file, **_: pickle.load(file))(file, weights_only=False)  # noqa: S301  # it would
    assert made_by_it.exists()


def test_a_file_that_is_no_weights_gives_one_line(state: Mapping[str, Any], tmp_path: Path) -> None:
    whole = (tmp_path / "state.pth").read_bytes()
    damaged = "damaged"
    files: dict[str, tuple[bytes | Any, str]] = {
        "empty": (b"", "empty"),
        "text": (b"hello, this is a text\n", damaged),
        "page": (b"<!DOCTYPE html><html></html>", "web page"),
        "cut": (whole[: len(whole) // 2], damaged),
        "stub": (whole[:40], damaged),
        "module": (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        "tensor": (torch.ones(3), "Tensor"),
        "list": ([torch.ones(3)], "list"),
        "none": ({"epoch": 3, "steps": torch.arange(3)}, "floating-point"),
        "nothing": ({}, "floating-point"),
        "twice": ({"a": torch.ones(1), "module.a": torch.ones(1)}, "module.a"),
        "claim": ({"pos_embed_a": torch.ones(1).expand(10**12)}, "pos_embed_a"),
        "vit": (
            {"cls_token": torch.ones(1, 1, 8), "blocks.0.attn.qkv.weight": torch.ones(24, 8)},
            "cls_token, blocks.0.attn.qkv.weight",
        ),
    }  # fmt: skip
    for name, (content, expected) in files.items():
        path = tmp_path / f"{name}.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        said = message(path, **HEADS)
        assert expected in said, said
        assert "\n" not in said
        assert "weights_only" not in said  # torch's own message explains how to run the code anyway


def test_a_file_cut_anywhere_or_with_any_bit_flipped_is_the_same_weights_or_refused(state: Mapping[str, Any], tmp_path: Path) -> None:
    """Flips single bits. One that changes nothing lies in the padding before the values, or in a field that no reader uses."""
    whole, rng = (tmp_path / "state.pth").read_bytes(), np.random.default_rng(0)
    path, refused = tmp_path / "w.pth", 0
    for _ in range(120):
        path.write_bytes(whole[: rng.integers(len(whole))])
        message(path)
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            found = read_tensors(path)
        except WeightsError:
            refused += 1
        else:
            assert {name: x.tobytes() for name, x in found.items()} == {name: x.numpy().tobytes() for name, x in state.items()}
    assert refused > 60


def test_every_flipped_bit_of_the_values_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    torch.save({"w": torch.from_numpy(values)}, tmp_path / "whole.pth")
    whole, rng = (tmp_path / "whole.pth").read_bytes(), np.random.default_rng(1)
    start = whole.index(values.tobytes())
    for _ in range(60):
        changed = bytearray(whole)
        changed[start + rng.integers(values.nbytes)] ^= 1 << rng.integers(8)
        (tmp_path / "w.pth").write_bytes(changed)
        with pytest.raises(WeightsError, match="CRC"):
            read_tensors(tmp_path / "w.pth")
