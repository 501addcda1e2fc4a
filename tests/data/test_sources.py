"""Sources hand over the clips that were stored, and name what is wrong with a manifest."""

import dataclasses
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avmae_jax.config import DataConfig
from avmae_jax.data import instruments
from avmae_jax.data.batches import frames_a_clip
from avmae_jax.data.clip import Clip
from avmae_jax.data.instruments import builtin_set
from avmae_jax.data.sources import ManifestSource, PreparedSource, open_source, read_labels
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.reader import labels_of
from avmae_jax.data.store.tolerant import Tolerant
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import ClipError, DatasetError
from tests.media import loudest_hertz, tone, write_media
from tests.support import time_limit


def assert_same(left: Clip, right: Clip) -> None:
    assert (left.id, left.frames, left.labels) == (right.id, right.frames, right.labels)
    assert left.waveform.dtype == right.waveform.dtype == np.int16
    np.testing.assert_array_equal(left.waveform, right.waveform)


def stored(number: int) -> Clip:
    rng = np.random.default_rng(number)
    frames = tuple(b"\xff\xd8" + rng.bytes(number) for _ in range(10))
    return Clip(f"ä/{number}.mp4", rng.integers(-32768, 32768, 500).astype(np.int16), frames, (0,) * number)


def make_stored(job: Job) -> Iterator[Clip]:
    yield stored(job.args[0])


def prepare(out: Path) -> Path:
    jobs = {"train": [Job(str(number), (number,)) for number in range(5)], "test": []}
    write_dataset(out, DatasetSpec("clips", jobs, make_stored, ["x", "y"], shard_size=2))
    return out


def test_a_prepared_source_gives_what_was_stored_with_frames_still_encoded(tmp_path: Path) -> None:
    source = open_source(DataConfig(source="prepared", path=str(prepare(tmp_path / "out"))), "train")
    assert list(source.label_names) == ["x", "y"]
    assert len(source) == 5
    for number in range(5):
        assert_same(source[number], stored(number))
    for outside in (-1, 5):
        with pytest.raises(IndexError, match=str(outside)):
            source[outside]


def test_a_prepared_source_can_be_pickled_and_shown(tmp_path: Path) -> None:
    source = PreparedSource(prepare(tmp_path / "out"), "train")
    assert_same(pickle.loads(pickle.dumps(source))[3], stored(3))  # noqa: S301 - made on this line
    assert repr(source) == f"PreparedSource({str(tmp_path / 'out')!r}, 'train', 5 clips)"


def unfinish(out: Path) -> None:
    (out / "summary.json").unlink()
    (out / "progress").mkdir()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (shutil.rmtree, "launch.prepare"),
        (lambda out: (out / "summary.json").unlink(), "launch.prepare"),
        (unfinish, "unfinished"),
        (lambda out: next(out.glob("*-00001-of-*")).unlink(), "1 shard.*-00001-of-00003"),
    ],
)
def test_a_spoilt_data_set_is_named(tmp_path: Path, spoil: Callable[[Path], object], problem: str) -> None:
    out = prepare(tmp_path / "out")
    spoil(out)
    with pytest.raises(DatasetError, match=rf"{re.escape(str(out))}.*{problem}"):
        PreparedSource(out, "train")


def test_a_split_without_clips_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'test'.*5 in 'train'"):
        PreparedSource(prepare(tmp_path / "out"), "test")


@pytest.mark.parametrize(
    ("config", "split", "problem"),
    [
        (DataConfig(source="webcam"), "train", r"data\.source.*webcam.*builtin.*prepared.*manifest"),
        (DataConfig(source="prepared"), "train", r"data\.path"),
        (DataConfig(source="manifest"), "train", r"data\.path"),
        (DataConfig(source="manifest", path="a.json"), "test", r"data\.eval_path"),
        (DataConfig(source="manifest", path="a.json"), "train", r"data\.labels_csv"),
    ],
)
def test_a_config_that_names_no_source_is_an_error(config: DataConfig, split: Any, problem: str) -> None:
    with pytest.raises(DatasetError, match=problem):
        open_source(config, split)


def encoded(name: str, number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, len(name), 0)).save(buffer, "JPEG")
    return buffer.getvalue()


class Manifest:
    """A folder with an official manifest of two clips."""

    def __init__(self, root: Path) -> None:
        self.root, self.path, self.csv = root, root / "train.json", root / "labels.csv"
        self.csv.write_text('index,mid,display_name\n0,/m/a,"Oboe, played"\n1,/m/b,Harp\n')
        self.entries = [self.add("one", 500, "/m/b,/m/a"), self.add("two", 900, "")]

    def add(self, name: str, hertz: float, labels: str) -> dict[str, Any]:
        write_media(self.root / f"audio/{name}.flac", sound=tone(hertz, 0.5, 8000), sample_rate=8000, audio_codec="flac")
        for number in range(10):
            frame = self.root / f"frames/frame_{number}/{name}.jpg"
            frame.parent.mkdir(parents=True, exist_ok=True)
            frame.write_bytes(encoded(name, number))
        return {"video_id": name, "wav": f"audio/{name}.flac", "video_path": str(self.root / "frames/"), "labels": labels}

    def open(self, root: str = "") -> ManifestSource:
        self.path.write_text(json.dumps({"data": self.entries}))
        return ManifestSource(self.path, self.csv, root)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest(tmp_path)


def test_a_manifest_gives_audio_at_16_khz_frames_and_labels(manifest: Manifest) -> None:
    source = pickle.loads(pickle.dumps(manifest.open()))  # noqa: S301 - made on this line
    assert source.label_names == ("Oboe, played", "Harp")
    first, second = source[0], source[1]
    assert (first.id, first.labels, second.labels) == ("one", (1, 0), ())
    assert first.frames == tuple(encoded("one", number) for number in range(10))
    assert len(first.waveform) == 8000
    assert first.frame_times == pytest.approx([index / 20 for index in range(10)])
    assert abs(loudest_hertz(first.waveform) - 500) < 3
    assert repr(source) == f"ManifestSource({str(manifest.path)!r}, 2 clips)"
    assert source.ids == [source[index].id for index in range(2)]
    assert [source.labels_of(index) for index in range(2)] == [source[index].labels for index in range(2)]


def test_a_manifest_has_as_many_frames_as_there_are_folders_of_them(manifest: Manifest) -> None:
    for number in range(10, 16):
        for name in ("one", "two"):
            frame = manifest.root / f"frames/frame_{number}/{name}.jpg"
            frame.parent.mkdir(exist_ok=True)
            frame.write_bytes(encoded(name, number))
    source = manifest.open()
    assert source[1].frames == tuple(encoded("two", number) for number in range(16))
    assert source[1].frame_times == pytest.approx([index / 32 for index in range(16)])
    assert frames_a_clip(source, DataConfig(frames=16)) == frames_a_clip(source, DataConfig()) == 16
    shutil.rmtree(manifest.root / "frames/frame_5")
    with pytest.raises(DatasetError, match=r"frame_5/one\.jpg"):
        manifest.open()


@pytest.mark.parametrize("key", ["video_id", "wav", "video_path", "labels"])
def test_a_missing_key_is_named(manifest: Manifest, key: str) -> None:
    del manifest.entries[1][key]
    with pytest.raises(DatasetError, match=rf"train\.json: entry 1 .*{key}"):
        manifest.open()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"labels": "/m/a,/m/z"}, "entry 1 .*two.*labels.*/m/z"),
        ({"video_id": "one"}, "entry 1.*video_id 'one'.*entry 0"),
        ({"wav": "audio/none.flac"}, r"1 file.*\n.*entry 1 .*two.*wav: .*audio/none\.flac"),
        ({"video_path": "elsewhere"}, r"10 files.*\n.*entry 1 .*video_path: .*elsewhere/frame_0/two\.jpg"),
        ({"wav": "../two.flac"}, r"entry 1 .*two.*wav.*two\.flac.*data\.root"),
        ({"wav": "/etc/passwd"}, r"wav.*/etc/passwd.*data\.root"),
        ({"video_path": "/"}, r"video_path.*/frame_0/two\.jpg.*data\.root"),
        ({"video_id": "../../../x"}, r"video_id.*x\.jpg.*data\.root"),
    ],
)
def test_a_wrong_entry_is_named(manifest: Manifest, change: dict[str, str], problem: str) -> None:
    manifest.entries[1].update(change)
    with pytest.raises(DatasetError, match=problem):
        manifest.open()


def test_a_link_that_leaves_the_root_is_refused(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    shutil.move(manifest.root / "audio/two.flac", outside / "two.flac")
    (manifest.root / "audio/two.flac").symlink_to(outside / "two.flac")
    with pytest.raises(DatasetError, match=r"wav.*outside.*/two\.flac.*data\.root"):
        manifest.open()


def test_root_may_be_another_folder(manifest: Manifest) -> None:
    for entry in manifest.entries:
        entry["wav"] = str(manifest.root / entry["wav"])
    assert len(manifest.open(root=str(manifest.root))) == 2
    with pytest.raises(DatasetError, match=r"entry 0 .*/frames.*data\.root"):
        manifest.open(root=str(manifest.root / "frames"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"data": [', ""),
        ("[]", '.*"data"'),
        ('{"data": []}', ".*empty"),
        ('{"data": [3]}', "entry 0.* 3"),
    ],
)
def test_a_file_that_is_no_manifest_is_named(manifest: Manifest, text: str, problem: str) -> None:
    manifest.path.write_text(text)
    with pytest.raises(DatasetError, match=rf"train\.json.*{problem}"):
        ManifestSource(manifest.path, manifest.csv)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("index,mid\n0,/m/a\n", r"labels\.csv.*index,mid,display_name"),
        ("index,mid,display_name\n0,/m/a,A\n2,/m/b,B\n", r"labels\.csv.*/m/b.*'2'"),
        ("index,mid,display_name\n0,/m/a,A\n1,/m/a,B\n", "/m/a"),
        ("index,mid,display_name\nx,/m/a,A\n", r"labels\.csv.*/m/a.*'x'"),
    ],
)
def test_a_label_table_that_breaks_the_rules_is_named(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DatasetError, match=problem):
        read_labels(tmp_path / "labels.csv")


def builtin(cache: Path, **changed: Any) -> DataConfig:
    sizes = {"builtin_train": 3, "builtin_test": 2, "builtin_seconds": 0.5, "builtin_image_size": 32}
    return DataConfig(cache_dir=str(cache), **{**sizes, **changed})


def test_the_builtin_set_is_generated_once_for_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []

    def fake(split: str, index: int, *, seed: int, seconds: float, image_size: int, frames: int) -> Clip:
        made.append((split, index))
        return Clip(f"{split}{index}", np.full(int(seconds * 16_000), seed, np.int16), (bytes([image_size]),) * frames, (index,))

    monkeypatch.setattr(builtin_set, "make_clip", fake)
    open_source(builtin(tmp_path), "train", workers=0)
    train, test = (open_source(builtin(tmp_path), split, workers=0) for split in ("train", "test"))
    assert made == [("train", 0), ("train", 1), ("train", 2), ("test", 0), ("test", 1)]
    assert (len(train), len(test)) == (3, 2)
    assert train.label_names == instruments.INSTRUMENTS
    assert_same(train[1], Clip("train1", np.full(8000, DataConfig().builtin_seed, np.int16), (b" ",) * 10, (1,)))
    open_source(builtin(tmp_path, builtin_seed=7), "train", workers=0)
    assert len(made) == 10
    assert len(list(tmp_path.iterdir())) == 2
    assert len(open_source(builtin(tmp_path, builtin_frames=3), "test", workers=0)[0].frames) == 3
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_may_ask_for_the_builtin_set_at_once(tmp_path: Path) -> None:
    program = (
        "from avmae_jax.config import DataConfig\nfrom avmae_jax.data.sources import open_source\nfrom test_sources import builtin\n"
        "from pathlib import Path\n"
        f"source = open_source(builtin(Path({str(tmp_path)!r})), 'test', workers=0)\nprint(len(source), source[1].id)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    started = [subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=time_limit(60))[0] for process in started]
    expected = instruments.make_clip("test", 1, seconds=0.5, image_size=32)
    assert outputs == [f"2 {expected.id}\n"] * 2


@pytest.mark.parametrize("limit", [1, 0.4])
def test_an_entry_of_a_manifest_without_its_files_is_left_out_up_to_a_limit(
    manifest: Manifest, limit: float, caplog: pytest.LogCaptureFixture
) -> None:
    manifest.entries.append(manifest.add("three", 700, " /m/a , ,/m/b,"))
    manifest.entries[1]["wav"] = "audio/none.flac"
    manifest.path.write_text(json.dumps({"data": manifest.entries}))
    config = DataConfig(source="manifest", path=str(manifest.path), labels_csv=str(manifest.csv), max_damaged=limit)
    source = open_source(config, "train")
    assert [clip.id for clip in (source[0], source[1])] == ["one", "three"]
    assert labels_of(source, 1) == (0, 1)
    assert "entry 1 (video_id 'two'), wav" in caplog.text
    for fewer in (0, 0.3):
        with pytest.raises(DatasetError, match=rf"1 files of 1 entries .*data.max_damaged is {fewer}"):
            open_source(dataclasses.replace(config, max_damaged=fewer), "train")
    shutil.rmtree(manifest.root / "audio")
    with pytest.raises(DatasetError, match="3 files of 3 entries"):
        open_source(dataclasses.replace(config, max_damaged=10), "train")


def test_a_clip_of_a_manifest_that_dies_later_is_skipped(manifest: Manifest) -> None:
    source = Tolerant(manifest.open(), 1)
    frame = manifest.root / "frames/frame_3/one.jpg"
    whole = frame.read_bytes()
    frame.unlink()
    assert source[0].id == "two"
    for damaged in (b"", whole[:-20], b"no image", whole[: len(whole) // 2] + whole[-2:], whole[:100] + whole[200:]):
        frame.write_bytes(damaged)
        assert source[0].id == "two"
        with pytest.raises(ClipError, match=r"one\.jpg .*'one'"):
            ManifestSource(manifest.path, manifest.csv)[0]


def test_a_manifest_and_its_labels_may_begin_with_a_byte_order_mark(manifest: Manifest) -> None:
    manifest.open()
    for file in (manifest.path, manifest.csv):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert ManifestSource(manifest.path, manifest.csv).ids == ["one", "two"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"data": [' + "9" * 5000 + "]}", '{"data": [{"video_id": "\\ud800"}]}'])
def test_a_manifest_that_no_reader_can_take_is_one_line(manifest: Manifest, text: str) -> None:
    manifest.path.write_text(text)
    with pytest.raises(DatasetError, match=r"train\.json") as caught:
        ManifestSource(manifest.path, manifest.csv)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("key", "value"), [("video_id", "a\0b"), ("wav", "\ud800"), ("video_path", "\0")])
def test_a_name_that_no_file_can_have_is_named(manifest: Manifest, key: str, value: str) -> None:
    manifest.entries[0][key] = value
    with pytest.raises(DatasetError, match=rf"entry 0 .*{key}"):
        manifest.open()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (name, content)
            for name in ("dataset_info.json", "features.json", "metadata.json", "summary.json")
            for content in ("", "{", "[]", "{}")
        ),
        ("metadata.json", '{"label_names": ["x", "z"]}'),
        ("dataset_info.json", "[" * 100_000),
        ("summary.json", '{"plan": 3}'),
    ],
)
def test_a_damaged_description_of_a_data_set_is_named(tmp_path: Path, name: str, content: str) -> None:
    out = prepare(tmp_path / "out")
    (out / name).write_text(content)
    with pytest.raises(DatasetError, match=rf"{name}.*prepare .*again"):
        PreparedSource(out, "train")
