"""Tests damaged lists, labels, manifests and data sets: each is read rightly, or refused in one line.

`python -m tests.data.test_fuzz SEED COUNT` tries more.
"""

import copy
import io
import json
import random
import shutil
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avmae_jax.data.catalog import listings
from avmae_jax.data.catalog.labels import read_labels
from avmae_jax.data.catalog.media_folder import Listing
from avmae_jax.data.clip import Clip
from avmae_jax.data.sources import ManifestSource
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec, read_summary
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.data.store.tolerant import Tolerant
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import AvmaeError, CorruptRecordError, DatasetError
from tests.damage import READ, REFUSED, faults, summary

SECONDS = 30.0
IDS = ("abcdefghijk", "-_cde_12_30", "Ybcdefghijk")
LABELS = 'index,mid,display_name\n0,/m/0,"Speech, fast"\n1,/m/1,Harp\n2,/m/2,Dog\n'
TEXTS = {
    "labels": LABELS,
    "segments": f'# YTID, ...\n{IDS[0]}, 30.0, 40.0, "/m/0,/m/1"\n{IDS[1]}, 30.0, 40.0, "/m/2"\n{IDS[2]}, 0, 10, "/m/2"\n',
    "vggsound": f'{IDS[0]},30,"Speech, fast",train\n{IDS[1]},30,Harp,test\n{IDS[2]},30,Dog,train\n',
    "vgginstruments": f"{IDS[0]}_000030,harp\n{IDS[1]}_000030,violin,_fiddle\n",
    "music21": json.dumps({"videos": {"harp": [IDS[0]], "tuba": [IDS[1], IDS[2]]}}),
    "own": f"file,label\n{IDS[0]}_30.mp4,harp;oboe\n{IDS[1]}_30.mp4,harp\n{IDS[2]}_30.mp4,tuba\n",
    "manifest": json.dumps({"data": [{"video_id": v, "wav": f"{v}.wav", "video_path": "f", "labels": "/m/0, /m/1,"} for v in IDS[:2]]}),
}
JUNK = [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b",", b"\r", b"\n", b"#", b"[", b"}", b":", b";", b"9" * 400, b"9" * 5000, b"-1", b"NaN"]
JUNK += [b"1e999", b"null", b"\\ud800", b"\\u0000", b"../", b"\x1b[31m", b"[" * 100_000, b"a" * 140_000, b"=1+1", b"#NAME?", b"1.2E+10"]
ODD: list[Any] = [None, True, -1, 3, 10**400, float("inf"), float("nan"), "", "x", "\ud800", "\0", "../x", "9" * 5000]
ODD += [[], ["a", None], {}, {"a": 1}]


def clip_of(number: int) -> Clip:
    rng = np.random.default_rng(number)
    frames = tuple(b"\xff\xd8" + rng.bytes(60) for _ in range(10))
    return Clip(f"c{number}", rng.integers(-999, 999, 1600).astype(np.int16), frames, (number % 3,), "", number, tuple(range(10)))


def make(job: Job) -> Iterator[Clip]:
    yield clip_of(job.args[0])


def with_bytes_changed(rng: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([1, 2, 8, 50]))
        match rng.randint(0, 4):
            case 0:
                data[start:end] = rng.choice(JUNK)
            case 1:
                data[start:start] = rng.choice(JUNK)
            case 2:
                data[start:end] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[start : start + 1])
            case 3:
                del data[start : rng.choice([end, end, len(data)])]
            case _:
                data[start:start] = data[max(0, start - 60) : start]
    return bytes(data)


def with_value_changed(rng: random.Random, content: Any) -> Any:
    """Replaces or removes one value somewhere inside what a JSON file holds."""
    content = copy.deepcopy(content)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            places.append((value, key))
            walk(inner)

    walk(content)
    if not places:
        return rng.choice(ODD)
    holder, key = rng.choice(places)
    if rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = rng.choice(ODD)
    return content


class Fuzzer:
    """Has small whole files of each kind, and reads damaged copies of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.media, self.whole, self.broken = root, root / "media", root / "whole", root / "broken"
        self.media.mkdir()
        image = io.BytesIO()
        Image.new("RGB", (8, 8)).save(image, "JPEG")
        (root / "labels.csv").write_text(LABELS)
        for video in IDS:
            (self.media / f"{video}_30.mp4").touch()
            with wave.open(str(self.media / f"{video}.wav"), "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", ""))
                file.writeframes(bytes(3200))
            for number in range(10):
                (self.media / f"f/frame_{number}").mkdir(parents=True, exist_ok=True)
                (self.media / f"f/frame_{number}/{video}.jpg").write_bytes(image.getvalue())
        jobs = {"train": [Job(f"c{number}", (number,)) for number in range(6)], "test": [Job("c9", (9,))]}
        write_dataset(self.whole, DatasetSpec("clips", jobs, make, ["a", "b", "c"], shard_size=3))

    def text(self, kind: str, rng: random.Random) -> None:
        content = TEXTS[kind]
        if kind in ("music21", "manifest") and rng.random() < 0.5:
            content = json.dumps(with_value_changed(rng, json.loads(content)))
            changed = content.encode()
        else:
            changed = with_bytes_changed(rng, content.encode())
        file = self.root / ("list.json" if kind in ("music21", "manifest") else "list.csv")
        file.write_bytes(changed)
        labels, media = self.root / "labels.csv", self.media
        readers: dict[str, Callable[[], object]] = {
            "labels": lambda: read_labels(file),
            "segments": lambda: check_listing(listings.audioset({"train": [file]}, labels, media)),
            "vggsound": lambda: check_listing(listings.vggsound(file, labels, media)),
            "vgginstruments": lambda: check_listing(listings.vgginstruments({"train": file}, media)),
            "music21": lambda: check_listing(listings.music21(file, media)),
            "own": lambda: check_listing(listings.av_folder(media, labels=file)),
            "manifest": lambda: check_manifest(ManifestSource(file, labels, media, 1)),
        }
        readers[kind]()

    def data_set(self, rng: random.Random) -> None:
        shutil.rmtree(self.broken, ignore_errors=True)
        shutil.copytree(self.whole, self.broken)
        file = rng.choice(sorted(self.broken.iterdir()))
        if file.suffix == ".json" and rng.random() < 0.5:
            file.write_text(json.dumps(with_value_changed(rng, json.loads(file.read_text()))))
        elif rng.random() < 0.1:
            file.unlink()
        else:
            file.write_bytes(with_bytes_changed(rng, file.read_bytes()))
        try:
            source = PreparedSource(self.broken, "train")
            tolerant = Tolerant(source, 6)
            found = [tolerant[index] for index in range(len(tolerant))]
        except (DatasetError, CorruptRecordError):
            read_summary(self.broken)  # may be refused, too
            raise
        assert list(source.label_names) == ["a", "b", "c"]
        for clip in found:
            whole = clip_of(int(clip.id[1:]))
            assert clip._replace(waveform=0) == whole._replace(waveform=0)  # pyright: ignore[reportArgumentType]
            np.testing.assert_array_equal(clip.waveform, whole.waveform)

    def outcome(self, seed: int) -> tuple[str, str]:
        """Damages one file, reads it, and returns its kind with how that ended: READ, REFUSED or what is wrong."""
        rng = random.Random(seed)  # noqa: S311
        kind = rng.choice([*TEXTS, *["data_set"] * 4])
        begin = time.monotonic()
        how = READ
        try:
            if kind == "data_set":
                self.data_set(rng)
            else:
                self.text(kind, rng)
        except AvmaeError as error:
            message = str(error)
            how = f"no plain line: {message[:2000]!r}" if len(message) >= 2000 or {"\x1b", "\n"} & {*message} else REFUSED
        except BaseException as error:
            how = f"{type(error).__name__}: {error}"
        took = time.monotonic() - begin
        return kind, f"took {took:.0f} s" if how in (READ, REFUSED) and took > SECONDS else how


def check_listing(listing: Listing) -> None:
    entries = [entry for entries in listing.splits.values() for entry in entries]
    assert len({entry.id for entry in entries}) == len(entries)
    assert {entry.path for entry in entries} <= {f"{video}{end}" for video in IDS for end in ("_30.mp4", ".wav")} | {f"{IDS[0]}_30.mp4"}
    assert all(0 <= label < len(listing.label_names) for entry in entries for label in entry.labels)
    videos = {split: {entry.video for entry in entries} for split, entries in listing.splits.items()}
    assert not videos["train"] & videos["test"]
    json.dumps([listing.missing, listing.label_names], ensure_ascii=False).encode()


def check_manifest(source: ManifestSource) -> None:
    tolerant = Tolerant(source, 2)
    for index in range(len(tolerant)):
        assert len(tolerant[index].frames) == 10


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    return Fuzzer(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("seed", [7_770_257, 7_771_976])  # a split and a shard whose names are endless
def test_a_message_stays_short(fuzzer: Fuzzer, seed: int) -> None:
    assert fuzzer.outcome(seed) == ("data_set", REFUSED)


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_a_damaged_file_is_read_rightly_or_refused_in_one_line(fuzzer: Fuzzer, first: int) -> None:
    assert faults(dict(tried(fuzzer, first, 50))) == {}


def tried(fuzzer: Fuzzer, first: int, count: int) -> Iterator[tuple[str, str]]:
    """Yields the seed and kind of `count` damaged files, and how each ended."""
    for seed in range(first, first + count):
        kind, how = fuzzer.outcome(seed)
        yield f"{seed} {kind}", how


def main(first: int, count: int) -> None:
    ended = {}
    with tempfile.TemporaryDirectory() as folder:
        for what, how in tried(Fuzzer(Path(folder)), first, count):
            ended[what] = how
            if how not in (READ, REFUSED):
                sys.stdout.write(f"{what}: {how}\n")
    sys.stdout.write(summary(ended))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
