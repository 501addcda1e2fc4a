"""Tests the draw of a few labelled clips: nested, the same whatever the order, no video cut apart."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from avmae_jax.config import Config, DataConfig
from avmae_jax.data.clip import Clip
from avmae_jax.data.drawing import Drawn
from avmae_jax.data.sources import open_source
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import DatasetError
from avmae_jax.train.run import require_task
from tests.support import TINY, Clips, apply

VIDEOS = [(f"v{number}", (number % 3,) if number % 5 else (0, number % 3)) for number in range(30)]


class Listed(Clips):
    """Clips of which only ids, videos and labels are known; two of each video."""

    label_names: Sequence[str] = ("a", "b", "c")

    def __init__(self, videos: Sequence[tuple[str, tuple[int, ...]]]):
        super().__init__(2 * len(videos))
        self.ids = [f"{video}_{part}" for video, _ in videos for part in range(2)]
        self.videos = [video for video, _ in videos for _ in range(2)]
        self._labels = [labels for _, labels in videos for _ in range(2)]

    def labels_of(self, index: int) -> tuple[int, ...]:
        return self._labels[index]

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__(index)._replace(id=self.ids[index], labels=self._labels[index])


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_fewer_are_among_more_and_no_video_is_cut_apart(seed: int) -> None:
    source, before = Listed(VIDEOS), set[str]()
    for per_class in (1, 2, 4, 8):
        drawn = Drawn(source, per_class, seed)
        videos = drawn.videos
        assert before < {*videos}
        assert all(videos.count(video) == 2 for video in videos)
        own = [{video for video, row in zip(videos, range(len(drawn)), strict=True) if label in drawn.labels_of(row)} for label in range(3)]
        assert all(len(found) >= per_class for found in own)
        single = Drawn(Listed([(video, labels[-1:]) for video, labels in VIDEOS]), per_class, seed)
        assert len(single) == 3 * per_class * 2
        assert [drawn[row].id for row in range(len(drawn))] == drawn.ids
        before = {*videos}


def test_the_draw_depends_on_the_seed_and_not_on_the_order() -> None:
    mixed = [VIDEOS[place] for place in np.random.default_rng(0).permutation(len(VIDEOS))]
    draws = [{*Drawn(Listed(videos), 3, seed).ids} for seed in (0, 1) for videos in (VIDEOS, mixed)]
    assert draws[0] == draws[1] != draws[2] == draws[3]


def test_a_class_with_fewer_is_taken_whole_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="absl"):
        drawn = Drawn(Listed([*VIDEOS[:9], ("w", (1,)), ("x", (1,))]), 4, 0)
    assert re.search(r"4 labelled.*c \(3\)", caplog.text)
    assert not re.search(r"[ab] \(", caplog.text)
    assert sum(2 in drawn.labels_of(row) for row in range(len(drawn))) == 6


def test_clips_without_labels_are_refused() -> None:
    with pytest.raises(DatasetError, match="labels"):
        Drawn(Listed([("v", ())]), 1, 0)
    with pytest.raises(DatasetError, match="labels"):
        Drawn(Clips(3), 1, 0)


def make(job: Job) -> Iterator[Clip]:
    yield Clips(20)[job.args[0]]._replace(id=job.id, video=f"v{job.args[0]}", labels=(job.args[0] % 2,))


def test_training_clips_are_drawn_from_a_prepared_set_and_the_held_out_ones_stay(tmp_path: Path) -> None:
    jobs = {"train": [Job(f"t{n}", (n,)) for n in range(8)], "test": [Job(f"e{n}", (n,)) for n in range(8, 12)]}
    write_dataset(tmp_path / "set", DatasetSpec("clips", jobs, make, ["a", "b"]))
    data = DataConfig(source="prepared", path=str(tmp_path / "set"), labelled_per_class=2, labelled_seed=3)
    assert (len(open_source(data, "train")), len(open_source(data, "test"))) == (4, 4)


def test_pretraining_refuses_it() -> None:
    with pytest.raises(ValueError, match=r"data\.labelled_per_class is 2.*pretraining"):
        require_task(apply(Config(), TINY | {"data.labelled_per_class": 2}), "pretraining")
