"""Generated clips beside the files of a folder."""

from pathlib import Path

import pytest

import launch.prepare
from avmae_jax.data.catalog.generated import count_generated
from avmae_jax.data.instruments import make_clip
from avmae_jax.data.sources import PreparedSource
from tests.media import write_clip
from tests.support import completed


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for number, name in enumerate(("Drums/0", "Drums/1", "oboe/2", "flute/3", "generated/4")):
        write_clip(tmp_path / f"videos/{name}.mp4", 1.0, first=number)
    return tmp_path / "videos"


def test_classes_of_the_built_in_set_get_clips_in_training_alone(videos: Path, tmp_path: Path) -> None:
    options = [f"--videos={videos}", f"--out={tmp_path / 'out'}", "--workers=0", "--clip_seconds=1", "--test_pattern=1.mp4"]
    done = completed(launch.prepare, *options, "--generated=2", "--frame_size=32", "--frames=4")
    assert done.returncode == 0, done.stderr
    train, test = PreparedSource(tmp_path / "out", "train"), PreparedSource(tmp_path / "out", "test")
    assert [clip.id for clip in test] == ["Drums/1.mp4"]
    assert {clip.id for clip in train} == {
        *("Drums/0.mp4", "oboe/2.mp4", "flute/3.mp4", "generated/4.mp4"),
        *("generated/Drums-00000", "generated/Drums-00001", "generated/flute-00000", "generated/flute-00001"),
    }
    assert count_generated(train.ids) == 4
    drum = next(clip for clip in train if clip.id == "generated/Drums-00001")
    made = make_clip("train", 14 + 5, seed=0, seconds=1.0, image_size=32, frames=4)
    assert {len(clip.frames) for clip in train} == {4}
    assert drum.frame_times == (0.0, 0.25, 0.5, 0.75)
    assert train.label_names[drum.labels[0]] == "Drums"
    assert (drum.waveform == made.waveform).all()
    assert completed(launch.prepare, *options, "--generated=3", "--frame_size=32", "--frames=4").returncode == 1  # another plan


def test_what_can_not_be_generated_is_refused(videos: Path, tmp_path: Path) -> None:
    (videos / "labels.csv").write_text("file,label\noboe/2.mp4,oboe\n")
    options = [f"--videos={videos}", f"--out={tmp_path / 'out'}", "--workers=0", "--clip_seconds=1", "--generated=2"]
    done = completed(launch.prepare, *options, f"--labels={videos}/labels.csv")
    assert done.returncode == 1
    assert "generated" in done.stderr
