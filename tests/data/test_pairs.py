"""The window of each image: the published places, and what holds for any times."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.config import ModelConfig
from avmae_jax.data.clip import even_times
from avmae_jax.data.pairs import window_starts

PUBLISHED = {  # (images, T) -> starts among 1024 frames, as the published code computes them
    (16, 416): [0, 0, 0, 0, 48, 112, 176, 240, 304, 368, 432, 496, 560, 608, 608, 608],
    (16, 96): [0, 16, 80, 144, 208, 272, 336, 400, 464, 528, 592, 656, 720, 784, 848, 912],
    (16, 1024): [0] * 16,
    (10, 96): [0, 54, 157, 259, 362, 464, 566, 669, 771, 874],
    (10, 208): [0, 0, 101, 203, 306, 408, 510, 613, 715, 816],
    (10, 416): [0, 0, 0, 99, 202, 304, 406, 509, 608, 608],
}


def of_window(frames: int, clip_frames: int = 1024, rate: float = 102.4) -> ModelConfig:
    return ModelConfig(audio_frames=frames, clip_frames=clip_frames, window_rate=rate)


@pytest.mark.parametrize(("images", "frames"), PUBLISHED)
def test_windows_are_the_published_ones(images: int, frames: int) -> None:
    starts = window_starts(even_times(images, 10.0), of_window(frames))
    assert starts.dtype == np.int32
    assert starts.tolist() == PUBLISHED[images, frames]
    stored = np.array(even_times(images, 10.0), np.float32)  # as records hold them
    assert window_starts(stored, of_window(frames)).tolist() == PUBLISHED[images, frames]


@pytest.mark.parametrize(("time", "start"), [(4.5, 4 - 2), (5.5, 6 - 2), (6.5, 6 - 2), (7.4, 7 - 2)])
def test_a_position_halfway_between_two_frames_is_the_even_one(time: float, start: int) -> None:
    model = ModelConfig(patch=4, audio_frames=4, clip_frames=64, window_rate=1.0)
    assert window_starts([time], model).tolist() == [start]


@settings(deadline=None, max_examples=60)
@given(
    times=st.lists(st.floats(-5, 40), max_size=20),
    patches=st.integers(1, 20),
    more=st.integers(0, 700),
    rate=st.floats(1, 200),
)
def test_any_window_lies_in_the_spectrogram_and_as_near_its_image_as_it_can(
    times: list[float], patches: int, more: int, rate: float
) -> None:
    frames = 16 * patches
    starts = window_starts(times, of_window(frames, frames + more, rate))
    assert starts.shape == (len(times),)
    assert ((starts >= 0) & (starts + frames <= frames + more)).all()
    for time, start in zip(times, starts, strict=True):
        centred = time * rate - frames // 2
        inside = 0 < start < more
        assert abs(start - centred) <= 0.5 if inside else abs(start - np.clip(centred, 0, more)) <= 0.5
    order = np.argsort(times, kind="stable")
    assert (np.diff(starts[order]) >= 0).all()
