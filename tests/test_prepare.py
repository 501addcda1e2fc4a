"""launch.prepare as it is run: folders of videos in, a data set and a list of failures out."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from media import number_of, numbered, tone, write_clip, write_media

from avmae_jax.data.shards import DatasetError
from avmae_jax.data.sources import PreparedSource
from avmae_jax.data.video import frame_indices
from launch.prepare import find_videos, held_out, plan_jobs


def prepare(videos: Path, out: Path, *more: str, workers: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.prepare", f"--videos={videos}", f"--out={out}", f"--workers={workers}", "--seconds=1", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with good files, and one of each kind of bad one."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(4):
        write_clip(root / f"harp/{number}.mp4", 1.0, first=10 * number)
    write_clip(root / "oboe/deep/er/9.MKV", 1.0, first=90)
    (root / "oboe/empty.mp4").touch()
    (root / "oboe/text.mp4").write_text("not a film")
    write_media(root / "oboe/mute.mp4", frames=[numbered(0)] * 9)
    write_media(root / "oboe/blind.mp4", sound=tone(300, 1))
    (root / "oboe/notes.txt").write_text("for later")
    shutil.copy(root / "harp/0.mp4", root.parent / "secret.mp4")
    (root / "harp/link.mp4").symlink_to(root.parent / "secret.mp4")
    (root / "harp/folder").symlink_to(root.parent)
    (root / "harp/again.mp4").symlink_to(root / "harp/3.mp4")
    return root


FAILURES = {
    "harp/folder": ("open", "is a link that leaves"),
    "harp/link.mp4": ("open", "is a link that leaves"),
    "oboe/blind.mp4": ("video", "has no moving pictures"),
    "oboe/empty.mp4": ("open", "is empty (0 bytes)"),
    "oboe/mute.mp4": ("audio", "has no sound"),
    "oboe/text.mp4": ("open", "can't be opened as a media file"),
}


def test_good_files_become_clips_and_every_bad_one_is_named(videos: Path, tmp_path: Path) -> None:
    run = prepare(videos, tmp_path / "out", r"--test_pattern=harp/[12]\.mp4$")
    assert run.returncode == 0, run.stderr
    train, test = PreparedSource(tmp_path / "out", "train"), PreparedSource(tmp_path / "out", "test")
    assert train.label_names == ("harp", "oboe")
    assert {clip.id: clip.labels for clip in train} == {
        "harp/0.mp4": (0,),
        "harp/3.mp4": (0,),
        "harp/again.mp4": (0,),
        "oboe/deep/er/9.MKV": (1,),
    }
    assert [clip.id for clip in test] == ["harp/1.mp4", "harp/2.mp4"]
    assert len(test[0].frames) == 10
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["in"] == 12 == sum(summary["written"].values()) + summary["failed"]
    assert {failure["file"] for failure in summary["failures"]} == set(FAILURES)
    for failure in summary["failures"]:
        stage, reason = FAILURES[failure["file"]]
        assert failure["stage"] == stage
        assert reason in failure["reason"]
        assert f"failed [{stage}] {failure['file']} {failure['reason']}" in run.stdout
    assert "ignored 1 files that have none of the suffixes .mp4 .webm .mkv .mov .avi: oboe/notes.txt" in run.stdout
    assert "6 clips written (4 train, 2 test), 6 failed" in run.stdout


def test_frame_size_and_seconds_reach_the_clips(videos: Path, tmp_path: Path) -> None:
    shutil.copy(videos / "harp/2.mp4", tmp_path / "videos.mp4")
    (tmp_path / "flat").mkdir()
    shutil.move(tmp_path / "videos.mp4", tmp_path / "flat/x.mp4")
    assert prepare(tmp_path / "flat", tmp_path / "out", "--frame_size=96", "--seconds=0.5", "--test_percent=0").returncode == 0
    clip = PreparedSource(tmp_path / "out", "train")[0]
    assert (clip.id, clip.labels) == ("x.mp4", ())
    assert [number_of(frame) for frame in clip.frames] == [20 + index for index in frame_indices(5)]


def test_a_killed_run_goes_on_with_the_same_command(tmp_path: Path) -> None:
    for number in range(12):
        write_clip(tmp_path / f"videos/harp/{number:02d}.mp4", 1.0, first=10 * number)
    (tmp_path / "videos/harp/bad.mp4").touch()
    options = [f"--videos={tmp_path / 'videos'}", f"--out={tmp_path / 'out'}", "--workers=1", "--seconds=1", "--shard_size=2"]
    with subprocess.Popen([sys.executable, "-m", "launch.prepare", *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob("*.array_record-*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out/summary.json").exists()
    assert prepare(tmp_path / "videos", tmp_path / "out", "--shard_size=2").returncode == 0
    assert prepare(tmp_path / "videos", tmp_path / "whole", "--shard_size=2").returncode == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_file_that_changed_is_not_mixed_into_an_older_run(videos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "videos"
    shutil.copytree(videos / "oboe/deep/er", copy)
    assert prepare(copy, tmp_path / "out").returncode == 0
    os.utime(copy / "9.MKV", (1, 1))
    run = prepare(copy, tmp_path / "out")
    assert run.returncode == 1
    assert "clips = " in run.stderr
    assert "or delete this one" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere", "out"], "there is no such folder"),
        (["empty", "out"], "no file in it has one of the suffixes .mp4 .webm .mkv .mov .avi (1 others)"),
        (["empty", "empty/out"], "lies inside --videos"),
        (["broken", "out"], "0 clips written"),
        (["broken", "full"], "isn't empty (it holds 'a.txt')"),
        (["broken", "full/a.txt/out"], "can't be written (Not a directory)"),
    ],
)
def test_a_run_that_writes_nothing_says_why_and_fails(tmp_path: Path, arguments: list[str], problem: str) -> None:
    for file in ("empty/a.txt", "full/a.txt", "broken/x.mp4"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    run = prepare(tmp_path / arguments[0], tmp_path / arguments[1])
    assert run.returncode == 1
    assert problem in run.stdout + run.stderr


def test_names_of_any_bytes_keep_their_file(tmp_path: Path) -> None:
    folder = tmp_path / "videos" / os.fsdecode(b"caf\xe9")  # Latin-1, not UTF-8
    folder.mkdir(parents=True)
    shutil.move(write_clip(tmp_path / "x.mp4", 1.0), folder / os.fsdecode(b"\xff.mp4"))
    run = prepare(tmp_path / "videos", tmp_path / "out", "--test_percent=0")
    assert run.returncode == 0, run.stderr
    source = PreparedSource(tmp_path / "out", "train")
    assert (source[0].id, source.label_names) == ("caf\\xe9/\\xff.mp4", ("caf\\xe9",))


def test_the_hash_splits_stably_and_in_proportion() -> None:
    ids = [f"harp/{number}.mp4" for number in range(2000)]
    chosen = {clip_id for clip_id in ids if held_out(10, "")(clip_id)}
    assert 150 < len(chosen) < 250
    assert chosen <= {clip_id for clip_id in ids if held_out(20, "")(clip_id)}
    assert "harp/15.mp4" in chosen
    assert not any(map(held_out(0, ""), ids))
    assert all(map(held_out(100, ""), ids))


def test_videos_are_found_in_a_fixed_order(videos: Path) -> None:
    found, ignored = find_videos(videos)
    assert found == sorted(found)
    assert len(found) == 12
    assert ignored == ["oboe/notes.txt"]


def test_class_folders_and_loose_files_do_not_mix(tmp_path: Path) -> None:
    write_clip(tmp_path / "harp/a.mp4", 0.3)
    write_clip(tmp_path / "b.mp4", 0.3)
    with pytest.raises(DatasetError, match=re.escape("class folders (harp, ...) and loose videos (b.mp4, ...)")):
        plan_jobs(tmp_path, ["b.mp4", "harp/a.mp4"], held_out(0, ""))
