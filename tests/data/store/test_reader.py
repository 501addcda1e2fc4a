"""Reading prepared data sets: what is left out, and what happens when a record turns out damaged."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.reader import PreparedSource, clips_by_id, damaged_shards, ids_of, labels_of, open_splits
from avmae_jax.data.store.tolerant import Tolerant, number_of
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import CorruptRecordError, DatasetError
from tests.support import Clips


def make(job: Job) -> Iterator[Clip]:
    number = job.args[0]
    waveform = np.full(0 if "silent" in job.id else 16_000, 100 * number, np.int16)
    frames = () if "blind" in job.id else (np.random.default_rng(number).bytes(5000),) * 10
    yield Clip(job.id, waveform, frames, (number % 2,), job.id)


def prepare(out: Path, names: list[str], shard_size: int = 4) -> Path:
    jobs = {"train": [Job(name, (number,)) for number, name in enumerate(names)], "test": []}
    write_dataset(out, DatasetSpec("clips", jobs, make, ["x", "y"], shard_size=shard_size))
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("whole") / "out", [f"c{number}" for number in range(8)])


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """Raises an error for the clip c2 and returns the others."""
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    shard = next(out.glob("*-00000-of-*"))
    content = bytearray(shard.read_bytes())
    start = content.find(np.random.default_rng(2).bytes(5000)[:40])
    if start < 0:  # compressed
        start = len(content) * 5 // 8
    content[start : start + 64] = bytes(64)
    shard.write_bytes(content)
    return out


@pytest.mark.parametrize(("needs", "expected"), [("both", "ad"), ("audio", "acd"), ("image", "abd")])
def test_clips_that_lack_what_is_needed_are_left_out(tmp_path: Path, needs: str, expected: str) -> None:
    source = PreparedSource(prepare(tmp_path / "out", ["a", "silent b", "blind c", "d"]), "train", needs)  # pyright: ignore[reportArgumentType]
    assert [source[index].id[-1] for index in range(len(source))] == list(expected)
    assert all(source[index].modality in ("both", needs) for index in range(len(source)))


def test_a_split_in_which_nothing_is_whole_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"1 .*'train'"):
        PreparedSource(prepare(tmp_path / "out", ["blind a"]), "train")


def test_a_damaged_record_is_named_and_the_others_can_be_read(damaged: Path) -> None:
    source = PreparedSource(damaged, "train")
    assert [source[index].id for index in (0, 1, 3, 4, 5, 6, 7)] == [f"c{index}" for index in (0, 1, 3, 4, 5, 6, 7)]
    shard = next(damaged.glob("*-00000-of-*"))
    with pytest.raises(CorruptRecordError, match=f"'c2'.*record 2 .*{shard}"):
        source[2]


def test_a_damaged_record_is_passed_over_up_to_a_limit(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Tolerant(PreparedSource(damaged, "train"), limit=1)
    for _ in range(2):  # counted once
        assert [source[index].id for index in range(8)] == ["c0", "c1", "c3", "c3", "c4", "c5", "c6", "c7"]
    with pytest.raises(CorruptRecordError, match=r"'c2'.* 1.*data\.max_damaged.* 0"):
        Tolerant(PreparedSource(damaged, "train"), limit=0)[2]


def test_clips_are_found_by_their_ids_and_a_damaged_one_is_not_another(damaged: Path) -> None:
    source = Tolerant(PreparedSource(damaged, "train"), limit=1)
    last, broken = clips_by_id(source, ["c7", "c2"], "train")
    assert last().id == "c7"
    with pytest.raises(CorruptRecordError, match="'c2'"):
        broken()
    with pytest.raises(DatasetError, match=r"train.*'c9'.*'c0'"):
        clips_by_id(source, ["c1", "c9"], "train")


def test_splits_with_clips_are_opened_and_their_damaged_shards_named(whole: Path, damaged: Path) -> None:
    assert list(open_splits(whole)) == ["train"]
    assert damaged_shards(whole, lambda *_: None) == []
    assert damaged_shards(damaged, lambda *_: None) == list(damaged.glob("*-00000-of-*"))
    for folder in (whole.parent, whole / "nowhere"):
        with pytest.raises(DatasetError, match=rf"{folder}\b"):
            open_splits(folder)


def test_ids_and_labels_are_known_without_reading(tmp_path: Path) -> None:
    out = prepare(tmp_path / "out", ["a", "silent b", "c", "d"])
    source = PreparedSource(out, "train", "audio")
    for shard in out.glob("*.array_record*"):
        shard.write_bytes(b"")
    for known in (source, Tolerant(source, 0)):
        assert ids_of(known) == known.ids == ["a", "c", "d"]
        assert [labels_of(known, index) for index in range(3)] == [(0,), (0,), (1,)]


def test_a_source_that_does_not_know_its_ids_is_read() -> None:
    for source in (Clips(3), Tolerant(Clips(3), 0)):
        assert ids_of(source) == ["clip0", "clip1", "clip2"]
        assert labels_of(source, 2) == Clips(3)[2].labels


@pytest.mark.parametrize("spoilt", [lambda index: b"", lambda index: b"PK", lambda index: index[: len(index) // 2]])
def test_an_index_that_is_damaged_is_named(whole: Path, tmp_path: Path, spoilt: Callable[[bytes], bytes]) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    (out / "index-train.npz").write_bytes(spoilt((out / "index-train.npz").read_bytes()))
    with pytest.raises(DatasetError, match=r"index-train\.npz"):
        PreparedSource(out, "train")


def test_the_index_tells_classes_lengths_and_loudness(whole: Path) -> None:
    index = PreparedSource(whole, "train").index
    np.testing.assert_array_equal(index.class_counts(3), [4, 4, 0])
    np.testing.assert_array_equal(index.seconds, 1.0)
    np.testing.assert_allclose(index.loudness[1:], 20 * np.log10(np.arange(1, 8) * 100 / 32768), atol=0.01)
    assert index.loudness[0] == -120


def test_the_limit_may_be_a_share(damaged: Path) -> None:
    assert Tolerant(PreparedSource(damaged, "train"), limit=0.13)[2].id == "c3"
    with pytest.raises(CorruptRecordError, match=r"data\.max_damaged"):
        Tolerant(PreparedSource(damaged, "train"), limit=0.12)[2]
    assert [number_of(limit, 200) for limit in (0, 0.004, 0.01, 0.5, 1, 10)] == [0, 0, 2, 100, 1, 10]


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([0, 1, 0, 1, 0, 1, 0, 2], np.int32)},
        {"labels": np.array([0, 1, 0, 1, 0, 1, 0, -1], np.int32)},
        {"labels": np.zeros(7, np.int32)},
        {"label_ends": np.arange(8)[::-1].copy()},
        {"id": np.arange(8)},
        {"id": np.array([b"\xff"] * 8)},
        {"seconds": np.full(8, np.nan, np.float32)},
        {"frames": np.full(8, -1, np.int32)},
        {"start": np.zeros((8, 1), np.float32)},
        {"video": np.array(b"x")},
    ],
)
def test_an_index_that_contradicts_itself_is_named(whole: Path, tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    with np.load(out / "index-train.npz") as arrays:
        np.savez(out / "index-train.npz", **{**arrays, **change})
    with pytest.raises(DatasetError, match=r"index-train.npz"):
        PreparedSource(out, "train")


@pytest.mark.parametrize(
    ("field", "value"), [("frames", ()), ("labels", (7,)), ("id", "other"), ("waveform", np.zeros(5, np.int16)), ("start", 9.0)]
)
def test_a_record_that_is_not_what_the_index_says_is_damaged(tmp_path: Path, field: str, value: object) -> None:
    out = prepare(tmp_path / "out", ["a", "b"])
    source = PreparedSource(out, "train")
    clips = source[0], source[1]
    changed = clips[0]._replace(**{field: value, "frame_times": ()})  # pyright: ignore[reportArgumentType]

    def make_changed(job: Job) -> Iterator[Clip]:
        yield changed if job.id == "a" else clips[1]

    write_dataset(tmp_path / "new", DatasetSpec("clips", {"train": [Job("a"), Job("b")]}, make_changed, ["x", "y"]))
    shutil.copy(next((tmp_path / "new").glob("*train.array_record*")), next(out.glob("*train.array_record*")))
    with pytest.raises(CorruptRecordError, match=rf"'a'.*its {field}|'a'.*of audio"):
        PreparedSource(out, "train")[0]
    assert Tolerant(PreparedSource(out, "train"), 1)[0].id == "b"
