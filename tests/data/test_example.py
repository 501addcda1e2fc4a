"""Tests rows with several frames."""

import numpy as np

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


def test_one_modality_of_several_frames() -> None:
    assert example(CLIP, [1, 2], samples=100, image_size=32, needs="image").keys() == {"id", "image"}
    assert example(CLIP, [1, 2], samples=100, image_size=32, needs="audio")["waveform"].shape == (100,)
