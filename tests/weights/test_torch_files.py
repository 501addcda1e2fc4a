"""Reads PyTorch files without PyTorch, and refuses what is damaged, hostile or code. Those of torch are in parity/test_convert_files.py."""

import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest

from avmae_jax.errors import WeightsError
from avmae_jax.weights.tensor_files import read_tensors
from tests.weights.torch_file import archive, described, mapping, named, number, stored, tensor, text, torch_file

NAMESPACE = Path(__file__).parent / "checkpoint_with_namespace.pth"  # weights beside an argparse.Namespace, written by PyTorch
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
ONE = np.ones(1, np.float32).tobytes()


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as error:
        read_tensors(path)
    said = str(error.value)
    assert said.startswith(f"{path}: ")
    assert said.isprintable()
    return said


def test_weights_beside_a_namespace_are_read() -> None:
    (found,) = read_tensors(NAMESPACE).items()
    assert found[0] == "patch_embed_v.proj.weight"
    np.testing.assert_array_equal(found[1], np.zeros(1, np.float32), strict=True)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".CKPT"])
def test_every_suffix_of_theirs_is_read(suffix: str, tmp_path: Path) -> None:
    (path := tmp_path / f"w{suffix}").write_bytes(torch_file({"w": VALUES}))
    np.testing.assert_array_equal(read_tensors(path)["w"], VALUES, strict=True)


def call(name: str, *arguments: bytes) -> bytes:
    return named(name) + b"(" + b"".join(arguments) + b"tR"


CODE = {
    "posix.system": call("posix.system", text("touch made")),
    "builtins.eval": call("builtins.eval", text("1")),
    "builtins.getattr": call("builtins.getattr", named("collections.OrderedDict"), text("x"), text("y")),
    "subprocess.Popen": call("subprocess.Popen", text("touch made")),
    "torch.hub.load": call("torch.hub.load", text("x")),
    "mine.Settings": named("mine.Settings") + b")\x81}b",
    "mine.helper": call("mine.helper", text("x")),
    "numpy.load": call("numpy.load", text("x")),
    "torch.nn.modules.linear.Linear": named("torch.nn.modules.linear.Linear") + b")\x81}b",
    "mine.Wrapped": call("copyreg._reconstructor", named("mine.Wrapped"), named("builtins.object"), b"N"),
    "os.path.join": named("os.path.join"),
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_refused_by_name(name: str, tmp_path: Path) -> None:
    entries = {"w": tensor("0", 1, [1], [1]), "x": CODE[name]}
    (path := tmp_path / "w.pth").write_bytes(archive(mapping(entries), {"0": ONE}))
    assert f"holds {name}, which is no tensor but code, and was not run" in refusal(path)


def nested(depth: int) -> bytes:
    return b"(" * depth + b"t" * depth


HOSTILE = {
    "a shape that its storage can't have": archive(mapping({"w": tensor("0", 1, [2, 3], [3, 1])}), {"0": ONE}),
    "a length of 2**100": archive(mapping({"w": tensor("0", 2**100, [1], [1])}), {"0": ONE}),
    "an axis of 2**100": archive(mapping({"w": tensor("0", 1, [2**100], [0])}), {"0": ONE}),
    "a negative axis": archive(mapping({"w": tensor("0", 1, [-1], [1])}), {"0": ONE}),
    "a negative offset": archive(mapping({"w": tensor("0", 1, [1], [1], -1)}), {"0": ONE}),
    "an offset beyond its storage": archive(mapping({"w": tensor("0", 1, [1], [1], 2**70)}), {"0": ONE}),
    "a thousand axes": archive(mapping({"w": tensor("0", 1, [1] * 1000, [1] * 1000)}), {"0": ONE}),
    "a number as its shape": archive(mapping({"w": tensor("0", 1, [1], [1])}).replace(b"(" + number(1) + b"t", number(1), 1), {"0": ONE}),
    "many views of one number": archive(
        mapping({f"w{n}": tensor("0", 1, [1000], [0]) for n in range(1000)}), {"0": ONE}
    ),
    "a tensor in a tensor": archive(
        mapping({"w": tensor("0", 1, [1], [1]).replace(named("torch.FloatStorage"), tensor("0", 1, [1], [1]))}), {"0": ONE}
    ),
    "a storage that is missing": archive(mapping({"w": tensor("7", 1, [1], [1])}), {"0": ONE}),
    "a storage outside": archive(mapping({"w": tensor("../version", 1, [1], [1])}), {"0": ONE}),
    "an unknown type": archive(mapping({"w": tensor("0", 1, [1], [1], kind="OtherStorage")}), {"0": ONE}),
    "lists in lists": archive(nested(200_000), {}),
    "lists in lists as a key": archive(b"}" + nested(200_000) + tensor("0", 1, [1], [1]) + b"s", {"0": ONE}),
    "wrappers in wrappers": archive(b"".join(b"}(" + text("model") for _ in range(5000)) + b"N" + b"u" * 5000, {}),
    "wrappers that share what they hold": archive(
        b"}q\x00" + b"".join(b"}(" + text("model") + b"h\x00" + text("module") + b"h\x00uq\x00" for _ in range(200)), {}
    ),
    "pairs that are copied again and again": archive(
        b"](" + b"(KaNtq\x01" + b"h\x01" * 300_000 + b"eq\x00" + named("collections.OrderedDict") + b"q\x02"
        + b"h\x02h\x00\x85R0" * 100_000, {}
    ),
    "a shape that is used again and again": archive(
        named("torch._utils._rebuild_tensor_v2") + b"q\x02((" + b"N" * 300_000 + b"tq\x00h\x00h\x00h\x00tq\x03"
        + b"h\x02h\x03R0" * 100_000, {}
    ),
    "a name with control characters": archive(mapping({"\x1b[31mw": tensor("0", 1, [1], [1])}), {"0": ONE}),
    "a storage with control characters": archive(mapping({"w": tensor("\x1b[31m\n", 1, [1], [1])}), {"0": ONE}),
    "a cycle": archive(b"}q\x00" + text("model") + b"h\x00s", {}),
    "a large index": archive(b"}r\xff\xff\xff\x7f", {}),
    "a long text": archive(b"\x8d" + b"\xff" * 7 + b"\x7f", {}),
    "a call of a text": archive(text("posix.system") + b")R", {}),
    "nothing on the stack": archive(b"0", {}),
    "no end": archive(b"}", {}).replace(b"}.", b"}N"),
    "two pickles": archive(described({"w": VALUES}), stored({"w": VALUES}) | {"../../v/data.pkl": b"x"}).replace(b"w/data/../../v", b"v"),
    "no pickle": archive(b"}", {}).replace(b"data.pkl", b"data.pkk"),
}  # fmt: skip


def test_an_entry_that_holds_itself_is_read_once(tmp_path: Path) -> None:
    content = b"}q\x00(" + text("model") + b"h\x00" + text("w") + tensor("0", 1, [1], [1]) + b"u"
    (path := tmp_path / "w.pth").write_bytes(archive(content, {"0": ONE}))
    assert read_tensors(path).keys() == {"w"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    (path := tmp_path / "w.pth").write_bytes(HOSTILE[name])
    refusal(path)


def test_a_member_that_inflates_to_more_than_the_file_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("w/data.pkl", b"\x80\x02" + mapping({"w": tensor("0", 1 << 24, [4], [1])}) + b".")
        members.writestr("w/data/0", bytes(1 << 26))
    opened: list[str] = []
    read = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, member: opened.append(member.filename) or read(self, member))
    assert f"'data/0' claims {1 << 26} bytes" in refusal(path)
    assert opened == ["w/data.pkl"]


def test_a_small_deflated_archive_is_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    (path := tmp_path / "w.pth").write_bytes(archive(described({"w": values}), stored({"w": values}), method=zipfile.ZIP_DEFLATED))
    np.testing.assert_array_equal(read_tensors(path)["w"], values)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    whole, path = torch_file({"w": VALUES}), tmp_path / "w.pth"
    start = whole.index(VALUES.tobytes())
    for bit in range(8 * VALUES.nbytes):
        changed = bytearray(whole)
        changed[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert "CRC" in refusal(path)


def test_a_file_without_checksums_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "w.pth", "w") as file:
        file.writestr("w/data.pkl", b"")  # the only content whose CRC is 0, which those files have everywhere
    assert "set_crc32_options" in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_name(value: float, tmp_path: Path) -> None:
    (path := tmp_path / "w.pth").write_bytes(torch_file({"fine": VALUES, "broken": np.where(VALUES == 2, np.float32(value), VALUES)}))
    assert "broken" in refusal(path)
    (path := tmp_path / "double.pth").write_bytes(torch_file({"large": np.array([1e300])}))
    assert "large" in refusal(path)


def test_a_magnitude_that_no_model_has_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="absl")
    (path := tmp_path / "w.pth").write_bytes(torch_file({"fine": 1000 * VALUES, "odd": 2e4 * VALUES}))
    read_tensors(path)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "odd (1.0e+05)" in warning
    assert "fine" not in warning


@pytest.mark.parametrize("names", [["module.a", "a"], ["student.patch_embed.proj.weight", "teacher.patch_embed.proj.weight"]])
def test_names_that_are_not_one_models_are_refused(names: list[str], tmp_path: Path) -> None:
    (path := tmp_path / "w.pth").write_bytes(torch_file(dict.fromkeys(names, VALUES)))
    assert names[0].split("patch")[0] in refusal(path)
