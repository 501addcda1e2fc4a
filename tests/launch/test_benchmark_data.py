"""launch.benchmark measures what it names. Speed itself is never tested."""

from pathlib import Path

import numpy as np
import pytest

from avmae_jax.config import DataConfig
from avmae_jax.data.decode.one_clip import decode_clip
from launch import benchmark
from launch.benchmarks import data, scale
from launch.benchmarks.measuring import peak_alone, take_turns
from tests.media import numbered, tone, write_clip, write_media
from tests.support import completed


def test_sides_take_turns_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []
    checked: list[object] = []
    turns = take_turns({"a": lambda: calls.append("a") or 1, "b": lambda: calls.append("b") or 2}, 2, checked.append)
    assert calls == ["a", "b"] * 3
    assert checked == [{"a": 1, "b": 2}] * 3
    assert {side: (len(cost.clock), len(cost.cpu)) for side, cost in turns.items()} == {"a": (2, 2), "b": (2, 2)}


def test_a_process_that_fails_is_quoted() -> None:
    with pytest.raises(ValueError, match=r"(?s)json failed.*prepare"):
        peak_alone("json")


def test_an_epoch_is_a_permutation_and_resumes_in_its_middle(tmp_path: Path) -> None:
    scale.write_examples(tmp_path, 2000)
    order, found = scale.read_epoch(tmp_path, DataConfig(threads=1), batch_size=50)
    np.testing.assert_array_equal(np.sort(order), np.arange(2000))
    assert np.sum(order == np.arange(2000)) < 20  # a shuffle leaves about one in its place
    assert found["first batch after resuming"] == "the same"
    assert found["examples read exactly once"] == 2000


@pytest.mark.parametrize("from_start", [False, True])
def test_seeking_finds_the_frames_that_counting_finds(tmp_path: Path, from_start: bool) -> None:
    file = write_clip(tmp_path / "clip.mp4", 8.0)
    ours, theirs = decode_clip(file, clip_id="clip"), data.extract_by_seeking(file, from_start=from_start)
    assert theirs.frames == ours.frames
    assert len(set(ours.frames)) == 10
    np.testing.assert_array_equal(theirs.waveform, ours.waveform)


def test_sides_that_make_different_clips_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(data.logging, "warning", lambda *args: warnings.append(args[0] % args[1:]))
    monkeypatch.setattr(data, "prepare_copies", lambda path, workers, files: (2.0 * workers, 0.01))
    data.show_preparing(write_clip(tmp_path / "clip.mp4"), rounds=1)
    assert not warnings
    halting = [index / 10 + (index > 10) for index in range(20)]  # a second of nothing in the middle
    file = write_media(tmp_path / "halting.mp4", frames=map(numbered, range(20)), times=halting, sound=tone(440, 3.0))
    data.show_preparing(file, rounds=1)
    assert len(warnings) == 2
    assert str(file) in warnings[0]


def test_copies_are_prepared_as_launch_prepare_does(tmp_path: Path) -> None:
    assert min(data.prepare_copies(write_clip(tmp_path / "clip.mp4"), workers=1, files=3)) > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--config"),
        (["--data", "prepare"], "--media"),
        (["--data", "scale", "--media", "x"], "--media"),
        (["--data", "prepare", "--media", "none.mp4"], "none.mp4"),
    ],
)
def test_what_cannot_be_measured_is_named(arguments: list[str], words: str) -> None:
    done = completed(benchmark, *arguments)
    assert done.returncode
    assert words in done.stderr
