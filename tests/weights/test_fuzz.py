"""Changes small files of weights in every way that chance offers: each reads as what it was, or is refused in a line.

`python -m tests.weights.test_fuzz COUNT [SEED]` tries more of them and prints what none of this is true of.
"""

import io
import json
import random
import shutil
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from avmae_jax.checkpoint.manager import restore_params
from avmae_jax.checkpoint.step import _digest
from avmae_jax.errors import AvmaeError
from avmae_jax.inference.embed import Part
from avmae_jax.inference.embedding_files import read_embeddings, write_embeddings
from avmae_jax.weights.tensor_files import read_tensors, save_tensors
from tests.damage import CHANGES, READ, REFUSED, faults, summary
from tests.support import ROOT
from tests.weights.torch_file import archive, described, mapping, number, stored, tensor, text, torch_file

SECONDS = 30.0
RUN = ROOT / "tests/old/pretrained/checkpoints/2"
NOTE = {
    "width": 4,
    "what": ["audio", "image"],
    "label_names": ["one"],
    "model": "m",
    "fingerprint": "f",
    "data": "",
    "split": "",
    "needs": "both",
}


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("a.weight", (4, 6)), ("a.bias", (4,)), ("b", (2, 3, 5)))
    }


def seeds(folder: Path) -> dict[str, bytes]:
    """Writes one small file of each kind and returns them by name."""
    save_tensors(arrays(), folder / "w.safetensors", json.dumps({"config": {"model": {"width": 4}}}))
    rows = arrays()["a.weight"][:, :4]
    parts = [Part([f"clip {n}"], [n], [(0,)], {"audio": rows[n : n + 1]}) for n in range(3)]
    for suffix in ("npz", "array_record"):
        write_embeddings(folder / f"e.{suffix}", parts, NOTE)
    deflated = archive(described(arrays()), stored(arrays()), method=zipfile.ZIP_DEFLATED)
    made = {name: (folder / name).read_bytes() for name in ("w.safetensors", "e.npz", "e.array_record")}
    return made | {"w.pth": torch_file(arrays()), "deflated.pth": deflated}


# --- changes -----------------------------------------------------------------------------------------------------------------------------


def inside(content: bytes, rng: random.Random) -> bytes:
    """Changes a member of a zip archive, and stores it with its right CRC, so that what is inside must be checked for itself."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as whole,
        zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as out,
    ):
        chosen = rng.choice(whole.namelist())
        for name in whole.namelist():
            member = whole.read(name)
            out.writestr(name, rng.choice(CHANGES)(member, rng) if name == chosen and member else member)
    return file.getvalue()


def header(content: bytes, rng: random.Random) -> bytes:
    """Changes the header of a safetensors file and its length with it."""
    length = struct.unpack("<Q", content[:8])[0]
    changed = rng.choice(CHANGES)(content[8 : 8 + length], rng)
    return struct.pack("<Q", len(changed)) + changed + content[8 + length :]


def pickled(rng: random.Random) -> bytes:
    """Makes a file of PyTorch whose pickle is nearly right."""
    huge = [0, 1, -1, 2, 5, 2**31, 2**63, 2**70]
    entries = {}
    for name in "abc":
        shape = [rng.choice(huge) for _ in range(rng.randrange(5))]
        entries[name] = tensor(
            rng.choice("01x"),
            rng.choice([6, *huge]),
            shape,
            shape[::-1],
            rng.choice(huge),
            rng.choice(["FloatStorage", "LongStorage", "XStorage"]),
        )
    content = mapping(entries)
    for _ in range(rng.randrange(3)):
        content = rng.choice(
            [
                mapping({"model": content}),
                b"]" + content + b"a",
                content + b"2\x86",
                mapping({"x": content, "y": number(2**100)}),
                content + text("x"),
            ]
        )
    return archive(content, {"0": np.arange(6, dtype="f4").tobytes(), "1": np.arange(2, dtype="i8").tobytes()})


# --- what must be true -------------------------------------------------------------------------------------------------------------------


def values(path: Path) -> Mapping[str, bytes]:
    """Returns the content of a file in a form that can be compared."""
    if path.suffix in (".npz", ".array_record"):
        found = read_embeddings(path)
        return {kind: rows.tobytes() for kind, rows in found.vectors.items()} | {"ids": repr((found.ids, found.labels, found.has)).encode()}
    return {name: x.tobytes() for name, x in read_tensors(path).items()}


def outcome(path: Path, expected: Mapping[str, bytes] | None, read: Callable[[Path], Mapping[str, bytes]] = values) -> str:
    """Reads a file and returns how that ended: READ, REFUSED or what is wrong.

    What is read must be what is expected; anything if that is None.
    """
    begin = time.monotonic()
    try:
        found = read(path)
        how = "wrong values without a word" if expected is not None and found != expected else READ
    except AvmaeError as error:
        how = f"more than a line: {error}" if "\n" in str(error) else REFUSED
    except BaseException as error:
        how = f"{type(error).__name__}: {error}"
    took = time.monotonic() - begin
    return f"took {took:.0f} s" if how in (READ, REFUSED) and took > SECONDS else how


def tried(folder: Path, count: int, seed: int) -> Iterator[tuple[str, bytes, str]]:
    """Yields the name, the content and the outcome of `count` changed files."""
    rng, whole = random.Random(seed), seeds(folder)  # noqa: S311 - no secret
    expected = {}
    for name, content in whole.items():
        (folder / name).write_bytes(content)
        expected[name] = values(folder / name)
    for turn in range(count):
        name = list(whole)[turn % len(whole)]
        kind = rng.randrange(4)
        if kind == 0 and not name.endswith(("safetensors", "record")):
            content, right = inside(whole[name], rng), None
        elif kind == 0 and name.endswith("safetensors"):
            content, right = header(whole[name], rng), None
        elif kind == 1 and name.endswith("pth"):
            content, right = pickled(rng), None
        else:
            content, right = rng.choice(CHANGES)(whole[name], rng), expected[name]
        (path := folder / name).write_bytes(content)
        yield name, content, outcome(path, right)


def params(folder: Path) -> Mapping[str, bytes]:
    return {name: np.asarray(leaf).tobytes() for name, leaf in restore_params(folder).params.items()}


def tried_runs(folder: Path, count: int, seed: int) -> Iterator[tuple[str, bytes, str]]:
    """Yields the same for a step of a run, one of whose files is changed."""
    rng, step = random.Random(seed), folder / "2"  # noqa: S311 - no secret
    files = sorted(path.relative_to(RUN) for path in RUN.rglob("*") if path.is_file() and "opt_state" not in path.parts)
    right = params(RUN)
    for _ in range(count):
        shutil.copytree(RUN, step)
        name = rng.choice(files)
        before = (RUN / name).read_bytes()
        content = resealed(before, rng) if str(name) == "meta/metadata" and rng.randrange(2) else rng.choice(CHANGES)(before, rng)
        (step / name).write_bytes(content)
        yield f"2/{name}", content, outcome(step, right, params)
        shutil.rmtree(step)


def resealed(content: bytes, rng: random.Random) -> bytes:
    """Changes what a step says of itself, and its checksum with it."""
    saved = json.loads(content)["content"]
    path, hostile = rng.choice(list(saved["tensors"]["params"])), [None, [], {}, "", "x", 3, ["float32[999999999999]", 0], ["void[2]", 1]]
    place, key = rng.choice([(saved, rng.choice(list(saved))), (saved["tensors"], "params"), (saved["tensors"]["params"], path)])
    place[key] = rng.choice(hostile)
    saved = rng.choice([saved] * 9 + [[], None])
    return json.dumps({"sha256": _digest(saved), "content": saved}).encode()


@pytest.mark.parametrize("seed", range(3))
def test_a_changed_file_is_read_rightly_or_refused_in_a_line(seed: int, tmp_path: Path) -> None:
    assert faults({f"{turn} {name}": how for turn, (name, _, how) in enumerate(tried(tmp_path, 100, seed))}) == {}


@pytest.mark.slow
def test_a_changed_step_of_a_run_is_read_rightly_or_refused(tmp_path: Path) -> None:
    assert faults({f"{turn} {name}": how for turn, (name, _, how) in enumerate(tried_runs(tmp_path, 15, 0))}) == {}


def main(count: int, seed: int) -> None:
    ended = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn, (name, content, how) in enumerate(chain(tried(Path(folder), count, seed), tried_runs(Path(folder), count // 5, seed))):
            ended[f"{turn} {name}"] = how
            if how not in (READ, REFUSED):
                sys.stdout.write(f"{turn} {name}: {how}\n")
                Path(f"fault-{seed}-{turn}-{Path(name).name}").write_bytes(content)
    sys.stdout.write(summary(ended))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
