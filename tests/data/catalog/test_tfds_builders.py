"""TFDS builders: what download_and_prepare writes is what training reads, and TFDS reads it too."""

import importlib.util
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from avmae_jax.config import DataConfig
from avmae_jax.data.catalog import instrument_labels, recipe
from avmae_jax.data.catalog.recipe import Recipe
from avmae_jax.data.catalog.tfds_builders import Audioset, AvFolder, BuiltinInstruments, MusicInstruments, Vggsound
from avmae_jax.data.store.plan import VERSION
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.errors import DatasetError
from tests.media import number_of, write_clip

SHORT = Recipe(clip_seconds=1.0, frame_size=96)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, one bad file."""
    root = tmp_path_factory.mktemp("media")
    for number in range(4):
        write_clip(root / f"{'harp' if number < 2 else 'oboe'}/video{number}_000010.mp4", 1.0, first=10 * number)
    (root / "oboe/bad.mp4").touch()
    return root


def held_out(video: str) -> bool:
    return "video1" in video


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> AvFolder:
    return AvFolder(root=root, data_dir=tmp_path / "data", recipe=SHORT, workers=0, shard_size=2, is_test=held_out)


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_folder_is_built_as_tfds_builds_one_without_tensorflow(folder: AvFolder) -> None:
    assert importlib.util.find_spec("tensorflow") is None
    folder.download_and_prepare(file_format="array_record")
    assert folder.data_dir.endswith(f"data/av_folder/{VERSION}")
    assert {name: split.shard_lengths for name, split in folder.info.splits.items()} == {"train": [1, 2], "test": [1]}
    assert folder.info.metadata is not None
    assert folder.info.metadata["label_names"] == ["harp", "oboe"]
    assert len(folder.info.metadata["sha256"]) == 3
    source = PreparedSource(folder.data_dir, "train")
    assert [clip.id for clip in source] == ["harp/video0_000010.mp4", "oboe/video2_000010.mp4", "oboe/video3_000010.mp4"]
    assert [number_of(clip.frames[0]) for clip in source] == [0, 20, 30]
    assert source.label_names == ("harp", "oboe")
    read = folder.as_data_source("train")  # pyright: ignore[reportCallIssue] - TFDS wraps it
    assert [example["id"].decode() for example in read] == [clip.id for clip in source]
    assert np.shape(read[0]["frames"]) == (10, 96, 96, 3)
    summary = json.loads((Path(folder.data_dir) / "summary.json").read_text())
    assert (summary["in"], summary["written"], summary["failed"]) == (5, {"train": 3, "test": 1}, 1)


def test_a_builder_goes_on_finds_its_work_done_and_refuses_another_s(folder: AvFolder, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def until_video3(job: Any, **options: Any) -> Any:
        if "video3" in job.id:
            raise KeyboardInterrupt
        return make_clips(job, **options)

    make_clips = recipe.make_clips
    monkeypatch.setattr(recipe, "make_clips", until_video3)
    with pytest.raises(KeyboardInterrupt):
        folder.download_and_prepare()
    first = next(Path(folder.data_dir).glob("*train*-00000-of-*"))
    written = first.stat().st_mtime_ns
    monkeypatch.undo()
    folder.download_and_prepare()
    assert first.stat().st_mtime_ns == written
    before = content(Path(folder.data_dir))
    folder.download_and_prepare()
    assert content(Path(folder.data_dir)) == before
    other = AvFolder(root=root, data_dir=folder.data_dir_root, workers=0)
    with pytest.raises(DatasetError, match=r"clip_seconds = 1\.0.*clip_seconds = 10\.0"):
        other.download_and_prepare()
    anew = tfds.download.DownloadConfig(download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS)
    other.download_and_prepare(download_config=anew)
    assert content(Path(folder.data_dir)).keys() != before.keys()


def test_what_was_written_is_read_without_the_media(folder: AvFolder, root: Path) -> None:
    folder.download_and_prepare()
    again = tfds.builder("av_folder", root="/nowhere", data_dir=folder.data_dir_root)
    assert again.info.splits["train"].num_examples == 3
    assert again.info.metadata == folder.info.metadata
    read = again.as_data_source("test")  # pyright: ignore[reportCallIssue]
    source = pickle.loads(pickle.dumps(read))  # noqa: S301 - as reader processes get it
    assert source[0]["id"] == b"harp/video1_000010.mp4"


def test_another_file_format_is_refused(folder: AvFolder) -> None:
    with pytest.raises(DatasetError, match=r"tfrecord.*array_record"):
        folder.download_and_prepare(file_format="tfrecord")


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Lists of AudioSet and VGGSound: a harp, an oboe that is missing, a dog; and labels, all instruments among them."""
    names = [*instrument_labels.AUDIOSET, "Dog"]
    (tmp_path / "audioset.csv").write_text("index,mid,display_name\n" + "".join(f'{i},m{i},"{name}"\n' for i, name in enumerate(names)))
    harp, dog = names.index("Harp"), names.index("Dog")
    (tmp_path / "segments.csv").write_text(
        f'video0, 10.0, 20.0, "m{harp},m{dog}"\nvideo2, 10.0, 20.0, "m{dog}"\nlost, 10.0, 20.0, "m{harp}"\n'
    )
    names = [*instrument_labels.VGGSOUND, "dog barking"]
    (tmp_path / "vggsound.csv").write_text("index,mid,display_name\n" + "".join(f'{i},m{i},"{name}"\n' for i, name in enumerate(names)))
    (tmp_path / "vgg.csv").write_text('video0,10,"playing harp",train\nvideo2,10,"dog barking",train\nlost,10,"playing harp",test\n')
    (tmp_path / "music.json").write_text(json.dumps({"videos": {"harp": ["video0", "video1"], "oboe": ["video2"]}}))
    return tmp_path


def audioset(at: Path) -> dict[str, Any]:
    return {"segments": {"train": [at / "segments.csv"]}, "labels_csv": at / "audioset.csv"}


def vggsound(at: Path) -> dict[str, Any]:
    return {"csv_file": at / "vgg.csv", "labels_csv": at / "vggsound.csv"}


def music21(at: Path) -> dict[str, Any]:
    return {"json_files": at / "music.json", "test_percent": 0}


BUILDERS: list[tuple[Callable[..., Any], list[str], int]] = [
    (lambda at, **more: Audioset(**audioset(at), **more), ["video0", "video2"], 1),
    (lambda at, **more: Vggsound(**vggsound(at), **more), ["video0_000010", "video2_000010"], 1),
    (lambda at, **more: MusicInstruments(kind="audioset", lists=audioset(at), **more), ["video0"], 1),
    (lambda at, **more: MusicInstruments(kind="vggsound", lists=vggsound(at), **more), ["video0_000010"], 1),
    (lambda at, **more: MusicInstruments(kind="music21", lists=music21(at), **more), ["video0", "video1", "video2"], 0),
]


@pytest.mark.parametrize(("build", "ids", "failed"), BUILDERS)
def test_lists_say_which_clips_a_builder_writes(build: Callable[..., Any], ids: list[str], failed: int, root: Path, lists: Path) -> None:
    builder = build(lists, root=root, data_dir=lists / "data", recipe=SHORT, workers=0)
    builder.download_and_prepare(file_format="array_record")
    source = PreparedSource(builder.data_dir, "train")
    assert [clip.id for clip in source] == ids
    assert "harp" in source.label_names[source[0].labels[0]].lower()
    summary = json.loads((Path(builder.data_dir) / "summary.json").read_text())
    assert (summary["in"], summary["failed"]) == (sum(summary["written"].values()) + failed, failed)


def test_a_video_s_clips_stay_in_one_split(tmp_path: Path, root: Path) -> None:
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n0,m0,harp\n")
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text('video0, 10, 20, "m0"\n')
    segments = {split: [tmp_path / f"{split}.csv"] for split in ("train", "test")}
    builder = Audioset(segments=segments, labels_csv=tmp_path / "labels.csv", root=root, data_dir=tmp_path, recipe=SHORT, workers=0)
    builder.download_and_prepare()
    assert json.loads((Path(builder.data_dir) / "summary.json").read_text())["clips"] == {"test": 1}


def test_the_built_in_set_has_a_builder(tmp_path: Path) -> None:
    config = DataConfig(builtin_train=3, builtin_test=2, builtin_seconds=0.3, builtin_image_size=32)
    builder = BuiltinInstruments(config=config, data_dir=tmp_path, workers=0)
    builder.download_and_prepare(file_format="array_record")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 3, "test": 2}
    assert len(PreparedSource(builder.data_dir, "train")) == 3


def test_without_apache_beam_a_runner_is_refused_before_anything_is_written(folder: AvFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(DatasetError, match=r"avmae-jax\[beam\]"):
        folder.download_and_prepare(download_config=tfds.download.DownloadConfig(beam_runner="DirectRunner"))
    assert not Path(folder.data_dir).exists()
