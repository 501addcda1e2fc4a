"""launch.prepare as it is run: folders of videos in, a data set and a list of failures out."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import launch.prepare
from avmae_jax.data.decode.one_clip import frame_indices
from avmae_jax.data.sources import PreparedSource
from avmae_jax.data.store.plan import read_plan, read_summary
from tests.media import number_of, numbered, tone, write_clip, write_media
from tests.support import completed


def prepare(videos: Path, out: Path, *more: str, workers: int = 0) -> subprocess.CompletedProcess[str]:
    return completed(launch.prepare, f"--videos={videos}", f"--out={out}", f"--workers={workers}", "--clip_seconds=1", *more)


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


STAGES = {  # at which the bad files fail
    "harp/folder": "open",
    "harp/link.mp4": "open",
    "oboe/blind.mp4": "video",
    "oboe/empty.mp4": "open",
    "oboe/mute.mp4": "audio",
    "oboe/text.mp4": "open",
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
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert {failure["file"]: failure["stage"] for failure in failures} == STAGES
    assert all(f"[{failure['stage']}] {failure['file']} {failure['reason']}" in run.stdout for failure in failures)
    assert re.search("ignored 1 .*oboe/notes.txt", run.stdout)
    assert re.search("6 .*4 train, 2 test.* 6 of 12 .* 6 failed", run.stdout)


def test_frame_size_and_seconds_reach_the_clips(videos: Path, tmp_path: Path) -> None:
    shutil.copy(videos / "harp/2.mp4", tmp_path / "videos.mp4")
    (tmp_path / "flat").mkdir()
    shutil.move(tmp_path / "videos.mp4", tmp_path / "flat/x.mp4")
    assert prepare(tmp_path / "flat", tmp_path / "out", "--frame_size=96", "--clip_seconds=0.5", "--test_percent=0").returncode == 0
    clip = PreparedSource(tmp_path / "out", "train")[0]
    assert (clip.id, clip.labels) == ("x.mp4", ())
    assert [number_of(frame) for frame in clip.frames] == [20 + index for index in frame_indices(5)]


def test_the_number_of_frames_reaches_the_clips_and_the_plan(tmp_path: Path) -> None:
    write_clip(tmp_path / "videos/x.mp4", 1.0)
    assert prepare(tmp_path / "videos", tmp_path / "out", "--frames=4", "--frame_size=96", "--test_percent=0").returncode == 0
    (clip,) = PreparedSource(tmp_path / "out", "train")
    assert [number_of(frame) for frame in clip.frames] == list(frame_indices(10, 4))
    assert clip.frame_times == pytest.approx([index / 10 for index in frame_indices(10, 4)])
    assert read_plan(tmp_path / "out")["frames"] == 4
    run = prepare(tmp_path / "videos", tmp_path / "out", "--frame_size=96", "--test_percent=0")
    assert re.search("frames = 4.*frames = 10", run.stderr)


@pytest.mark.process
def test_a_killed_run_goes_on_with_the_same_command(tmp_path: Path) -> None:
    for number in range(12):
        write_clip(tmp_path / f"videos/harp/{number:02d}.mp4", 1.0, first=10 * number)
    (tmp_path / "videos/harp/bad.mp4").touch()
    options = [f"--videos={tmp_path / 'videos'}", f"--out={tmp_path / 'out'}", "--workers=1", "--clip_seconds=1", "--shard_size=2"]
    with subprocess.Popen([sys.executable, "-m", "launch.prepare", *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob("*.array_record-*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out/summary.json").exists()
    assert prepare(tmp_path / "videos", tmp_path / "out", "--shard_size=2").returncode == 0
    assert prepare(tmp_path / "videos", tmp_path / "whole", "--shard_size=2").returncode == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.process
@pytest.mark.parametrize(("workers", "number"), [(0, signal.SIGINT), (1, signal.SIGINT), (0, signal.SIGTERM), (1, signal.SIGTERM)])
def test_a_stopped_run_keeps_finished_shards_and_the_same_command_goes_on(tmp_path: Path, workers: int, number: signal.Signals) -> None:
    for clip in range(12):
        write_clip(tmp_path / f"videos/harp/{clip:02d}.mp4", 1.0, first=10 * clip)
    options = [f"--videos={tmp_path / 'videos'}", f"--out={tmp_path / 'out'}", f"--workers={workers}", "--clip_seconds=1", "--shard_size=2"]
    command = [sys.executable, "-m", "launch.prepare", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob("*.array_record-*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert "resource_tracker" not in errors
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert len([line for line in errors.splitlines() if name in line and "continues" in line]) == 1
    assert not (tmp_path / "out/summary.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.array_record-*")}
    assert kept
    assert prepare(tmp_path / "videos", tmp_path / "out", "--shard_size=2", "--clip_seconds=1").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_file_that_changed_is_not_mixed_into_an_older_run(videos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "videos"
    shutil.copytree(videos / "oboe/deep/er", copy)
    assert prepare(copy, tmp_path / "out").returncode == 0
    os.utime(copy / "9.MKV", (1, 1))
    run = prepare(copy, tmp_path / "out")
    assert run.returncode == 1
    assert f"{tmp_path / 'out'}" in run.stderr
    assert "clips = " in run.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere", "out"], r"--videos .*nowhere\b"),
        (["empty", "out"], r"empty: .* 1 .*\.mp4"),
        (["empty", "empty/out"], "--out .*empty/out .*--videos .*empty"),
        (["broken", "out"], r"\b0 clips .*1 failed"),
        (["broken", "full"], r"full\b.*'a\.txt'"),
        (["broken", "full/a.txt/out"], r"full/a\.txt/out\b.*Not a directory"),
    ],
)
def test_a_run_that_writes_nothing_says_why_and_fails(tmp_path: Path, arguments: list[str], problem: str) -> None:
    for file in ("empty/a.txt", "full/a.txt", "broken/x.mp4"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    run = prepare(tmp_path / arguments[0], tmp_path / arguments[1])
    assert run.returncode == 1
    assert re.search(problem, run.stdout + run.stderr)


def test_names_of_any_bytes_keep_their_file(tmp_path: Path) -> None:
    folder = tmp_path / "videos" / os.fsdecode(b"caf\xe9")  # Latin-1, not UTF-8
    folder.mkdir(parents=True)
    shutil.move(write_clip(tmp_path / "x.mp4", 1.0), folder / os.fsdecode(b"\xff.mp4"))
    run = prepare(tmp_path / "videos", tmp_path / "out", "--test_percent=0")
    assert run.returncode == 0, run.stderr
    source = PreparedSource(tmp_path / "out", "train")
    assert (source[0].id, source.label_names) == ("caf\\xe9/\\xff.mp4", ("caf\\xe9",))


def test_a_long_file_is_cut_and_a_lone_modality_is_allowed_when_asked_for(tmp_path: Path) -> None:
    write_clip(tmp_path / "videos/harp/long.mp4", 5.0)
    write_media(tmp_path / "videos/harp/mute.mp4", frames=[numbered(0)] * 9)
    write_media(tmp_path / "videos/harp/tone.wav", sound=tone(300, 1), audio_codec="pcm_s16le")
    Image.fromarray(numbered(5)).save(tmp_path / "videos/harp/still.png")
    run = prepare(tmp_path / "videos", tmp_path / "cut", "--clip_stride=2", "--test_percent=0")
    assert re.search(r"\b3 .*3 train.* 1 of 2 .* 1 failed", run.stdout)
    assert re.search("--allow_missing.*harp/still.png, harp/tone.wav", run.stdout)
    assert [clip.start for clip in PreparedSource(tmp_path / "cut", "train")] == [0, 2, 4]
    run = prepare(tmp_path / "videos", tmp_path / "all", "--allow_missing", "--test_percent=0", "--frame_size=96")
    assert re.search(r"\b4 .*4 train.* 4 of 4 .* 0 failed", run.stdout)
    assert [clip.id for clip in PreparedSource(tmp_path / "all", "train")] == ["harp/long.mp4"]
    assert [clip.id for clip in PreparedSource(tmp_path / "all", "train", "audio")] == ["harp/long.mp4", "harp/tone.wav"]
    pictures = PreparedSource(tmp_path / "all", "train", "image")
    assert [(clip.id, len(clip.frames)) for clip in pictures] == [("harp/long.mp4", 10), ("harp/mute.mp4", 10), ("harp/still.png", 1)]
    assert number_of(pictures[2].frames[0]) == 5
    run = prepare(tmp_path / "videos", tmp_path / "no", "--allow_missing", "--clip_stride=2")
    assert (run.returncode, "clip_stride" in run.stderr) == (1, True)


def test_a_public_list_says_which_clips_there_are(tmp_path: Path) -> None:
    write_clip(tmp_path / "videos/abcdefghijk_000030.mp4", 1.0)
    write_clip(tmp_path / "videos/zbcdefghijk_000010.mp4", 1.0)
    (tmp_path / "list.csv").write_text(
        'abcdefghijk,30,"playing harp",train\nzbcdefghijk,10,"dog barking",train\nlostlostlos,0,"playing harp",test\n'
    )
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n0,v0,playing harp\n1,v1,dog barking\n")
    options = ["--dataset=vggsound", f"--train_list={tmp_path / 'list.csv'}", f"--labels_csv={tmp_path / 'labels.csv'}"]
    run = prepare(tmp_path / "videos", tmp_path / "out", *options)
    assert re.search(r"\b2 .*2 train.* 2 of 3 .* 1 failed", run.stdout), run.stderr
    assert "[missing] lostlostlos" in run.stdout
    assert PreparedSource(tmp_path / "out", "train")[0].labels == (0,)
    run = prepare(tmp_path / "videos", tmp_path / "no", "--dataset=audioset")
    assert (run.returncode, "--train_list" in run.stderr) == (1, True)


@pytest.mark.parametrize(
    "options",
    [
        ["--labels_csv=x.csv"],
        ["--train_list=x.csv"],
        ["--test_list=x.csv"],
        ["--instruments"],
        ["--dataset=vggsound", "--train_list=x.csv", "--labels=x.csv"],
        ["--dataset=vggsound", "--train_list=x.csv", "--labels_csv=y.csv", "--test_list=x.csv"],
        ["--dataset=audioset", "--train_list=x.csv", "--labels_csv=y.csv", "--test_percent=5"],
        ["--dataset=music21", "--train_list=x.json", "--labels_csv=y.csv"],
        ["--dataset=music21", "--train_list=x.json", "--test_list=y.json", "--test_pattern=z"],
        ["--test_percent=5", "--test_pattern=harp"],
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    run = prepare(tmp_path / "videos", tmp_path / "out", *options)
    assert run.returncode == 1
    assert re.search("do(es)? nothing", run.stderr)
    assert not (tmp_path / "out").exists()


def test_labels_of_ones_own_make_a_data_set_of_several_labels(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    for number in range(3):
        write_clip(root / f"deep/{number}.mp4", 1.0, first=10 * number)
    (tmp_path / "my.csv").write_bytes("\ufefffile,label\r\ndeep/0.mp4,oboe; harp\r\ndeep/1.mp4,harp;\r\nlost.mp4,tuba\r\n".encode())
    run = prepare(root, tmp_path / "out", f"--labels={tmp_path / 'my.csv'}", "--test_percent=0")
    assert run.returncode == 0, run.stderr
    source = PreparedSource(tmp_path / "out", "train")
    assert source.label_names == ("harp", "oboe", "tuba")
    assert {clip.id: clip.labels for clip in source} == {"deep/0.mp4": (1, 0), "deep/1.mp4": (0,)}
    assert "[missing] lost.mp4" in run.stdout
    assert "[list] deep/2.mp4" in run.stdout


def test_silent_channels_and_longer_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    stereo = np.stack([np.zeros(3 * 16_000, np.int16), (tone(440, 3) * 32_767).astype(np.int16)], axis=1)
    with wave.open(str(tmp_path / "media/right.wav"), "wb") as file:
        file.setparams((2, 2, 16_000, 0, "NONE", ""))
        file.writeframes(stereo.tobytes())
    write_media(tmp_path / "media/left.wav", sound=tone(440, 1.1), audio_codec="pcm_s16le")
    run = prepare(tmp_path / "media", tmp_path / "out", "--allow_missing", "--test_percent=0")
    assert run.returncode == 0, run.stderr
    assert re.search(r"1 .*channel", run.stdout)
    assert re.search(r"1 .*2 s.*--clip_stride=1", run.stdout)
    notes = read_summary(tmp_path / "out").notes
    assert (notes.other_channel, notes.longer, notes.beyond) == (1, 1, pytest.approx(2.0, abs=0.01))
    assert all(clip.waveform.any() for clip in PreparedSource(tmp_path / "out", "train", "audio"))


@pytest.mark.parametrize("pattern", ["_none_", "harp|oboe"])
def test_a_pattern_that_divides_nothing_is_refused(pattern: str, videos: Path, tmp_path: Path) -> None:
    run = prepare(videos, tmp_path / "out", f"--test_pattern={pattern}")
    assert run.returncode == 1
    assert re.search(rf"--test_pattern.*{re.escape(pattern)}.* 12 ", run.stderr)
    assert not (tmp_path / "out").exists()
