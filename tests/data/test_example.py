"""Tests rows with several frames, and the audio around each."""

from typing import Any

import numpy as np
import pytest

from avmae_jax.data.example import example
from tests.support import Clips

COUNTING = np.arange(1, 16_001, dtype=np.int16)  # a second in which each sample is its place
CLIP = Clips(1)[0]._replace(waveform=COUNTING, frame_times=tuple(index / 10 for index in range(10)))


def test_several_frames_are_stacked_and_one_is_not() -> None:
    one, several = example(CLIP, 3, samples=100, image_size=32), example(CLIP, [3, 0, 3], samples=100, image_size=32)
    assert (one["image"].shape, several["image"].shape) == ((32, 32, 3), (3, 32, 32, 3))
    for index in (0, 2):
        np.testing.assert_array_equal(several["image"][index], one["image"])
    np.testing.assert_array_equal(several["waveform"], one["waveform"])  # the whole one, once
    assert one["samples"] == several["samples"] == 100


@pytest.mark.parametrize(("frame", "first"), [(0, 0), (1, 1400), (5, 7800), (9, 14_200)])
def test_the_window_of_a_frame_lies_around_its_time(frame: int, first: int) -> None:
    made = example(CLIP, [frame], samples=400, image_size=32, audio="per_frame")
    np.testing.assert_array_equal(made["waveform"][0], COUNTING[first : first + 400])
    assert made["samples"].tolist() == [400]
    alone = example(CLIP, frame, samples=400, image_size=32, audio="per_frame")
    np.testing.assert_array_equal(alone["waveform"], made["waveform"][0])


def test_a_window_at_the_end_is_moved_inside_the_clip() -> None:
    late = CLIP._replace(frame_times=(0.999,) * 10)
    made = example(late, range(2), samples=1000, image_size=32, audio="per_frame")
    np.testing.assert_array_equal(made["waveform"], np.stack([COUNTING[-1000:]] * 2))
    assert (made["waveform"].dtype, made["samples"].dtype) == (np.int16, np.int32)


def test_only_a_clip_shorter_than_the_window_is_padded() -> None:
    made = example(CLIP, [0, 9], samples=20_000, image_size=32, audio="per_frame")
    np.testing.assert_array_equal(made["waveform"], np.stack([np.pad(COUNTING, (0, 4000))] * 2))
    assert made["samples"].tolist() == [16_000] * 2


def test_one_modality_of_several_frames() -> None:
    assert example(CLIP, [1, 2], samples=100, image_size=32, needs="image").keys() == {"id", "image"}
    assert example(CLIP, [1, 2], samples=100, image_size=32, needs="audio", audio="per_frame")["waveform"].shape == (2, 100)


@pytest.mark.parametrize(("changed", "field"), [({}, "10 frames, but 0 frame_times"), ({"frames": ()}, "no image")])
def test_a_clip_whose_frames_have_no_times_is_named(changed: dict[str, Any], field: str) -> None:
    clip = CLIP._replace(frame_times=(), **changed)
    with pytest.raises(ValueError, match=f"clip0 .*{field}"):
        example(clip, [0], samples=100, image_size=32, needs="audio", audio="per_frame")
