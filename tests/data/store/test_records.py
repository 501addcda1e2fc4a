"""Records keep a clip; those written before frame times were stored still open."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import launch.inspect_data
from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec, read_plan
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.data.store.records import FEATURES, deserialise, serialise
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import DatasetError
from tests.support import Clips, completed

OLD = Path(__file__).parents[2] / "old/prepared"  # written by version 2.0.0 of the store: clips of 1 s and 10 frames


def old_record(clip: Clip) -> bytes:
    """Serialises a clip as version 2.0.0 did."""
    fields = {**clip._asdict(), "frames": list(clip.frames), "labels": list(clip.labels), "frame_times": []}
    return FEATURES.serialize_example({name: fields[name] for name in FEATURES})


def test_frame_times_come_back() -> None:
    clip = Clips(1)[0]._replace(frame_times=tuple(index / 7 for index in range(10)), labels=(1, 2), video="v", start=3.5)
    back = deserialise(serialise(clip))
    assert back.frame_times == pytest.approx(clip.frame_times, rel=1e-6)
    assert back._replace(waveform=None, frame_times=()) == clip._replace(waveform=None, frame_times=())  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(back.waveform, clip.waveform)
    with pytest.raises(ValueError, match=r"10 frames.* 2 frame_times"):
        serialise(clip._replace(frame_times=(0.0, 0.1)))


@pytest.mark.parametrize(
    ("samples", "frames", "seconds", "step"),
    [(16_000, 10, None, 0.1), (16_000, 4, 10.0, 0.25), (164_080, 10, 10.0, 1.0), (0, 10, 2.0, 0.2), (0, 10, None, 1.0), (0, 1, None, 0)],
)
def test_frames_without_times_divide_the_clip(samples: int, frames: int, seconds: float | None, step: float) -> None:
    clip = Clip("a", np.zeros(samples, np.int16), (b"x",) * frames, ())
    assert deserialise(old_record(clip), seconds).frame_times == pytest.approx([index * step for index in range(frames)])


def test_a_data_set_of_version_2_0_0_opens_and_reads() -> None:
    assert read_plan(OLD)["version"] == "2.0.0"
    for split, count in (("train", 4), ("test", 2)):
        source = PreparedSource(OLD, split)  # pyright: ignore[reportArgumentType]
        clips = [source[index] for index in range(count)]
        assert [clip.id for clip in clips] == source.ids
        assert len(source) == count
        for clip in clips:
            assert len(clip.waveform) >= 16_000
            assert clip.frame_times == pytest.approx([index / 10 for index in range(10)])


def test_a_data_set_of_version_2_0_0_is_inspected(tmp_path: Path) -> None:
    done = completed(launch.inspect_data, str(OLD), "--verify", f"--out={tmp_path / 'sheet.png'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").is_file()


def test_a_data_set_of_version_2_0_0_is_not_continued_with_this_one(tmp_path: Path) -> None:
    out = Path(shutil.copytree(OLD, tmp_path / "out"))
    with pytest.raises(DatasetError, match=re.escape(str(out))):
        write_dataset(out, DatasetSpec("av_folder", {"train": [Job("a")]}, lambda job: Clips(1)))  # pyright: ignore[reportArgumentType]


def test_another_version_is_refused_by_its_number(tmp_path: Path) -> None:
    out = Path(shutil.copytree(OLD, tmp_path / "out"))
    info = json.loads((out / "dataset_info.json").read_text())
    (out / "dataset_info.json").write_text(json.dumps(info | {"version": "1.0.0"}))
    with pytest.raises(DatasetError, match=r"version 1\.0\.0.*2\.0\.0, 2\.1\.0"):
        PreparedSource(out, "train")
