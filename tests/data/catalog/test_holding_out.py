"""Tests which videos are held out."""

from pathlib import Path

import pytest

from avmae_jax.data.catalog.holding_out import held_out
from avmae_jax.data.catalog.listings import av_folder
from tests.data.catalog.lists import touch


@pytest.mark.parametrize("classes", [0, 1, 4])
@pytest.mark.parametrize("videos", [2, 4, 33])
def test_each_class_of_two_videos_or_more_is_on_both_sides(classes: int, videos: int) -> None:
    for seed in range(20):
        labels_of = {f"{seed}/{number}": (number % classes,) if classes else () for number in range(videos)}
        for percent in (1, 10, 50, 99):
            test = held_out(labels_of, percent)
            for label in {*labels_of.values()}:
                members = {video for video, labels in labels_of.items() if labels == label}
                assert len(members) < 2 or 0 < len(members & test) < len(members)
            assert test == held_out(dict(reversed(labels_of.items())), percent)
        assert (held_out(labels_of, 0), held_out(labels_of, 100)) == (set(), set(labels_of))


def test_a_video_that_is_added_moves_at_most_the_one_that_its_class_gave() -> None:
    labels_of: dict[str, tuple[int, ...]] = {}
    for number in range(300):
        before = held_out(labels_of, 10)
        labels_of |= {f"{number}.mp4": (number % 3,)}
        moved = (held_out(labels_of, 10) ^ before) - {f"{number}.mp4"}
        assert len(moved) <= 1
        assert not moved or all(labels_of[video] == (number % 3,) for video in moved)


def test_videos_of_several_classes_give_each_class_one_to_test() -> None:
    labels_of = {f"{number}.mp4": (number % 5, 5 + number % 3) for number in range(30)}
    test = held_out(labels_of, 1)
    assert {label for video in test for label in labels_of[video]} == set(range(8))


def test_the_only_video_of_a_class_is_never_held_out() -> None:
    labels_of = {f"{number}.mp4": (number,) for number in range(200)} | {"a.mp4": (200,), "b.mp4": (200,), "c.mp4": (200, 201)}
    for percent in (1, 10, 50, 99):
        assert 1 <= len(held_out(labels_of, percent)) <= 2
        assert held_out(labels_of, percent) <= {"a.mp4", "b.mp4"}
    for number in range(30):
        assert not held_out({f"{number}.mp4": ()}, 99)
        assert held_out({f"{number}.mp4": (0, 1), f"{number}b.mp4": (1,)}, 99) <= {f"{number}b.mp4"}


def test_each_class_of_videos_with_several_keeps_one_to_train_on() -> None:
    for seed in range(20):
        labels_of = {f"{seed}/{number}": (number % 5, 5 + number % 7) for number in range(20)}
        for percent in (1, 50, 99):
            trained = labels_of.keys() - held_out(labels_of, percent)
            assert {label for video in trained for label in labels_of[video]} == set(range(12))


def test_four_clips_hold_out_one(tmp_path: Path) -> None:
    splits = av_folder(touch(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4")).splits
    assert [len(splits[split]) for split in ("train", "test")] == [3, 1]
