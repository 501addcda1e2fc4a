"""Tests patches and positions against plain loops: the order of tokens, of pixels in a patch, of channels in a position."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.models.patches import patchify, sincos_positions, spectrogram_image, unpatchify

SHAPES = st.sampled_from([(1, 1, 1, 4), (3, 5, 1, 2), (5, 3, 3, 2), (2, 7, 3, 4)])  # rows, columns, channels, patch


def _picture(rows: int, columns: int, channels: int, patch: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, rows * patch, columns * patch, channels)).astype(np.float32)


@settings(deadline=None, max_examples=20)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_token_is_row_times_columns_plus_column_and_channel_is_fastest(shape: tuple[int, int, int, int], seed: int) -> None:
    rows, columns, channels, patch = shape
    picture = _picture(*shape, seed)
    patches = np.asarray(patchify(jnp.asarray(picture), patch))
    assert patches.shape == (2, rows * columns, patch * patch * channels)
    for row in range(rows):
        for column in range(columns):
            values = [
                picture[:, row * patch + y, column * patch + x, channel]
                for y in range(patch)
                for x in range(patch)
                for channel in range(channels)
            ]
            np.testing.assert_array_equal(patches[:, row * columns + column], np.stack(values, axis=1))


@settings(deadline=None, max_examples=20)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_unpatchify_undoes_patchify(shape: tuple[int, int, int, int], seed: int) -> None:
    picture = _picture(*shape, seed)
    back = unpatchify(patchify(jnp.asarray(picture), shape[3]), shape[:2], shape[3])
    np.testing.assert_array_equal(back, picture)


def test_audio_token_is_mel_row_times_64_plus_time_column() -> None:
    time, mel = np.meshgrid(np.arange(1024), np.arange(128), indexing="ij")
    fbank = (time * 128 + mel).astype(np.float32)[None]  # each value encodes where it came from; exact in float32
    patches = np.asarray(patchify(spectrogram_image(jnp.asarray(fbank)), 16))[0].astype(int)
    assert patches.shape == (512, 256)
    for mel_row, time_column in [(0, 0), (0, 1), (1, 0), (3, 40), (7, 63)]:
        values = patches[mel_row * 64 + time_column]
        assert (values % 128).tolist() == [16 * mel_row + y for y in range(16) for _ in range(16)]  # row in a patch: mel
        assert (values // 128).tolist() == [16 * time_column + x for _ in range(16) for x in range(16)]  # column: time


@pytest.mark.parametrize(("height", "width"), [(30, 32), (32, 30)])
def test_a_patch_that_does_not_divide_the_picture_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height} x {width}.*16"):
        patchify(jnp.zeros((1, height, width, 3)), 16)


@pytest.mark.parametrize(("grid", "width"), [((8, 64), 768), ((14, 14), 512), ((3, 5), 16), ((1, 1), 4)])
def test_positions_are_column_then_row_each_sines_then_cosines(grid: tuple[int, int], width: int) -> None:
    rows, columns = grid
    quarter = width // 4
    frequencies = [10_000 ** -(i / quarter) for i in range(quarter)]
    positions = sincos_positions(grid, width)
    assert positions.dtype == np.float32
    assert positions.shape == (rows * columns, width)
    expected = [
        [f(place * frequency) for place in (column, row) for f in (math.sin, math.cos) for frequency in frequencies]
        for row in range(rows)
        for column in range(columns)
    ]
    # closer than float32 angles would allow: 63 * 2^-24 = 4e-6
    np.testing.assert_allclose(positions, np.array(expected), rtol=0, atol=6e-8)
