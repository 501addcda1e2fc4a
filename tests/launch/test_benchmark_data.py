"""What launch.benchmark measures of the data's way: that it is what it says, never how fast."""

import sys
from pathlib import Path

import numpy as np
import pytest

import parity
from avmae_jax.config import Config, DataConfig, ModelConfig
from avmae_jax.data.decode.one_clip import decode_clip
from launch.benchmarks import data, scale
from tests.media import numbered, tone, write_clip, write_media
from tests.support import Clips, Program

COUNT, BATCH = 2000, 50


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale") / "tiny"
    scale.write_examples(folder, COUNT)
    return folder


def test_an_epoch_of_many_is_a_permutation_and_resumes_in_its_middle(examples: Path) -> None:
    found = scale.read_epoch(examples, DataConfig(), BATCH)
    np.testing.assert_array_equal(found.times_seen, np.ones(COUNT))
    assert found.in_place < 20  # one is expected of a shuffle, all without
    assert found.resumed_alike
    assert min(found.open_seconds, found.first_seconds, found.epoch_seconds, found.resume_seconds) > 0
    assert min(found.settled_bytes, found.end_bytes) > 2**20


def test_the_table_of_many_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    scale.show(1000, DataConfig(threads=1))
    printed = capsys.readouterr().out
    assert "1,000 examples, 1 threads, 0 processes" in printed
    assert "1,000 of 1,000" in printed
    assert "the same batch" in printed


@pytest.mark.parametrize("from_start", [False, True])
def test_searching_for_frames_finds_those_that_counting_finds(tmp_path: Path, from_start: bool) -> None:
    file = write_clip(tmp_path / "clip.mp4", 8.0)
    ours, theirs = decode_clip(file, clip_id="clip"), data.extract_by_seeking(file, from_start=from_start)
    assert theirs.frames == ours.frames
    assert len(set(ours.frames)) == 10
    np.testing.assert_array_equal(theirs.waveform, ours.waveform)


def test_ways_of_preparing_take_turns_and_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(data.logging, "warning", lambda *args: warnings.append(args[0] % args[1:]))
    monkeypatch.setattr(data, "prepare_copies", lambda path, workers, files: data.Writing(2.0 * workers, 0.01))
    data.show_preparing(write_clip(tmp_path / "clip.mp4"), rounds=1)
    assert not warnings
    printed = capsys.readouterr().out
    assert all(side in printed for side in ("ours", "from the key frame before", "from the beginning"))
    halting = [index / 10 + (index > 10) for index in range(20)]  # a second of nothing in the middle
    file = write_media(tmp_path / "halting.mp4", frames=map(numbered, range(20)), times=halting, sound=tone(440, 3.0))
    seconds = data.compare_preparing(file, rounds=2)
    assert {side: len(turns) for side, turns in seconds.items()} == dict.fromkeys(seconds, 2)
    assert warnings == [f"{file}: seeking finds other frames than counting does"] * 2


def test_copies_are_prepared_as_launch_prepare_does(tmp_path: Path) -> None:
    assert min(data.prepare_copies(write_clip(tmp_path / "clip.mp4"), workers=1, files=3)) > 0


def test_what_is_missing_is_said_in_a_line(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    done = program("-m", "launch.benchmark", "--data", "prepare", "--media", tmp_path / "none.mp4")
    assert (done.returncode, done.stderr.strip()) == (1, f"ClipError: {tmp_path / 'none.mp4'} does not exist")
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    monkeypatch.delitem(sys.modules, "parity.loader_torch", raising=False)
    monkeypatch.delattr(parity, "loader_torch", raising=False)
    monkeypatch.setattr(data, "open_source", lambda *_: Clips(1))
    with pytest.raises(data.ModuleMissingError, match=r'^not installed: torch.*, for .* pip install -e "\.\[parity\]"$'):
        data.compare_loaders(Config(), rounds=1)
    with pytest.raises(ValueError, match=r"model\.modality is 'audio'"):
        data.compare_loaders(Config(model=ModelConfig(modality="audio")), rounds=1)
