"""The window of each image: the published places, and what holds for any times."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.config import ModelConfig
from avmae_jax.data.clip import Clip, even_times
from avmae_jax.data.pairs import all_images, draw_images, window_starts
from avmae_jax.data.rows import centre

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


@pytest.mark.parametrize(("seconds", "images"), [(2.56, 10), (2.56, 16), (1.3, 10), (9.0, 10)])
def test_audio_alone_has_the_window_of_its_film_s_middle_image(seconds: float, images: int) -> None:
    model = of_window(96, 256, 100.0)
    film = Clip("a", np.zeros(round(seconds * 16_000), np.int16), (b"",) * images, (), frame_times=even_times(images, seconds))
    start = centre(film, model)
    shown, heard = (all_images(each, model, start, 1) for each in (film, film._replace(frames=(), frame_times=())))
    assert abs(int(window_starts(shown.times, model)[0]) - int(window_starts(heard.times, model)[0])) <= 100 * seconds / images / 2


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


def test_images_that_share_a_window_are_drawn_last() -> None:
    model, film = of_window(416), Clip("a", np.zeros(160_000, np.int16), (b"",) * 16, (), frame_times=even_times(16, 10.0))
    rows = [draw_images(film, model, np.random.default_rng(seed), 16, 16) for seed in range(40)]
    for row in rows:
        starts = window_starts(row.times, model)
        assert len(set(starts[:11].tolist())) == 11  # as many as there are
        assert sorted(row.frames.tolist()) == list(range(16))
    assert {int(row.frames[0]) for row in rows} > {0, 1, 2}  # the first is any of them
