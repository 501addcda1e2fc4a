"""Tests masking: the noise alone decides which tokens are kept, shapes alone decide K, structured masks hide whole lines first."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.config import MaskMode
from avmae_jax.models.masking import keep, mask_from_noise, num_kept, restore, sample_noise, structure_noise

GRIDS = [(3, 5), (5, 3), (8, 64)]
MODES: list[MaskMode] = ["unstructured", "time", "freq", "tf"]
SHAPES = st.sampled_from([(1, 0.0), (2, 0.5), (15, 0.75), (15, 0.1), (40, 0.97)])  # few, since each one compiles


def _noise(length: int, seed: int, batch: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, length), np.float32)


def _lines(share: float, count: int, noise: np.ndarray) -> set[int]:
    """Returns the int(count * share) lines with the smallest noise."""
    return set(sorted(range(count), key=lambda line: noise[line])[: int(count * share)])


def _hidden_lines(line_noise: np.ndarray, grid: tuple[int, int], ratio: float, mode: str) -> tuple[set[int], set[int]]:
    """Returns the rows (mel) and columns (time) that one example's mask hides entirely, in plain Python."""
    rows, columns = grid
    share = {"unstructured": 0.0, "time": ratio, "freq": ratio, "tf": 0.7 * ratio}[mode]
    hidden_rows = _lines(share, rows, line_noise[:rows]) if mode in ("freq", "tf") else set()
    hidden_columns = _lines(share, columns, line_noise[rows:]) if mode in ("time", "tf") else set()
    return hidden_rows, hidden_columns


@pytest.mark.parametrize(("length", "ratio", "kept"), [(512, 0.75, 128), (196, 0.75, 49), (512, 0.0, 512), (10, 0.25, 7), (3, 0.5, 1)])
def test_number_kept_is_the_papers(length: int, ratio: float, kept: int) -> None:
    assert num_kept(length, ratio) == kept


@settings(deadline=None, max_examples=25)
@given(length=st.integers(1, 1000), ratio=st.floats(0, 1, exclude_max=True))
def test_number_kept_is_rounded_down_and_never_zero(length: int, ratio: float) -> None:
    expected = math.floor(length * (1 - ratio))
    if expected == 0:
        with pytest.raises(ValueError, match=rf"0 of {length} "):
            num_kept(length, ratio)
    else:
        assert num_kept(length, ratio) == expected


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5])
def test_a_ratio_out_of_range_is_named(ratio: float) -> None:
    with pytest.raises(ValueError, match=rf"{ratio}.*\[0, 1\)"):
        mask_from_noise(jnp.zeros((2, 8)), ratio)


@settings(deadline=None, max_examples=25)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_the_tokens_of_smallest_noise_are_kept_in_its_order(shape: tuple[int, float], seed: int) -> None:
    length, ratio = shape
    noise = _noise(length, seed)
    mask = mask_from_noise(jnp.asarray(noise), ratio)
    for row, keep_ids, restore_ids, hidden in zip(noise, *map(np.asarray, mask), strict=True):
        order = sorted(range(length), key=lambda token: row[token])
        kept = order[: int(length * (1 - ratio))]
        assert keep_ids.tolist() == kept
        assert [order[place] for place in restore_ids] == list(range(length))
        assert hidden.tolist() == [0.0 if token in kept else 1.0 for token in range(length)]


@settings(deadline=None, max_examples=25)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_kept_tokens_return_to_their_places_and_fill_takes_the_others(shape: tuple[int, float], seed: int) -> None:
    length, ratio = shape
    mask = mask_from_noise(jnp.asarray(_noise(length, seed)), ratio)
    tokens = np.random.default_rng(seed + 1).standard_normal((3, length, 4)).astype(np.float32)
    back = np.asarray(restore(keep(jnp.asarray(tokens), mask), mask, jnp.arange(4.0) + 7))
    expected = np.where(np.asarray(mask.hidden)[..., None] > 0, np.arange(4, dtype=np.float32) + 7, tokens)
    np.testing.assert_array_equal(back, expected)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 99), levels=st.integers(1, 3))
def test_ties_still_give_a_split_of_all_tokens(seed: int, levels: int) -> None:
    noise = np.random.default_rng(seed).integers(0, levels, (3, 15)).astype(np.float32)
    mask = mask_from_noise(jnp.asarray(noise), 0.75)
    for keep_ids, restore_ids, hidden in zip(*map(np.asarray, mask), strict=True):
        assert sorted(restore_ids.tolist()) == list(range(15))
        assert sorted(keep_ids.tolist()) == np.flatnonzero(hidden == 0).tolist()


def test_a_mask_has_int32_ids_and_static_shapes_under_jit() -> None:
    mask = jax.jit(mask_from_noise, static_argnums=1)(jnp.asarray(_noise(512, 0)), 0.75)
    assert [(x.shape, x.dtype) for x in mask] == [((3, 128), jnp.int32), ((3, 512), jnp.int32), ((3, 512), jnp.float32)]


def test_every_token_is_kept_equally_often() -> None:
    noise = sample_noise(jax.random.key(0), 4000, (4, 4), 0.75)
    kept = 4000 - np.asarray(mask_from_noise(noise, 0.75).hidden).sum(axis=0)
    assert kept.sum() == 4000 * 4
    assert np.abs(kept - 1000).max() < 5 * math.sqrt(4000 * 0.25 * 0.75)  # five standard deviations


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("grid", GRIDS)
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 99))
def test_structured_noise_lifts_exactly_the_cells_of_the_chosen_lines(grid: tuple[int, int], mode: MaskMode, seed: int) -> None:
    rows, columns = grid
    noise, line_noise = _noise(rows * columns, seed), _noise(rows + columns, seed + 1)
    lifted = np.asarray(structure_noise(jnp.asarray(noise), jnp.asarray(line_noise), grid, 0.75, mode)) - noise
    assert lifted.dtype == np.float32
    for cells, lines in zip(lifted.reshape(-1, rows, columns), line_noise, strict=True):
        hidden_rows, hidden_columns = _hidden_lines(lines, grid, 0.75, mode)
        for row in range(rows):
            for column in range(columns):
                expected = 1.0 if row in hidden_rows or column in hidden_columns else 0.0
                assert cells[row, column] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("mode", "axis", "lines"), [("time", 0, 48), ("freq", 1, 6)])
def test_time_and_freq_masks_of_the_base_grid_are_whole_lines(mode: MaskMode, axis: int, lines: int) -> None:
    noise = sample_noise(jax.random.key(1), 8, (8, 64), 0.75, mode)
    hidden = np.asarray(mask_from_noise(noise, 0.75).hidden).reshape(8, 8, 64)
    for cells in hidden:
        np.testing.assert_array_equal(cells.min(axis=axis), cells.max(axis=axis))  # each line is entirely hidden or entirely visible
        assert cells.max(axis=axis).sum() == lines
    assert len({cells.tobytes() for cells in hidden}) == 8  # each example has its own lines


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("mode", ["time", "freq", "tf"])
def test_no_cell_of_a_hidden_line_is_seen_before_a_visible_cell(grid: tuple[int, int], mode: MaskMode) -> None:
    for ratio in (0.3, 0.75):
        noise = sample_noise(jax.random.key(2), 16, grid, ratio, mode)
        lifted = np.asarray(noise) >= 1
        hidden = np.asarray(mask_from_noise(noise, ratio).hidden) > 0
        assert hidden.sum() == 16 * (grid[0] * grid[1] - num_kept(grid[0] * grid[1], ratio))
        for cells, hides in zip(lifted, hidden, strict=True):
            assert not (np.any(cells & ~hides) and np.any(~cells & hides))


def test_tf_keeps_all_visible_cells_and_draws_the_rest_at_random() -> None:
    noise = sample_noise(jax.random.key(3), 64, (8, 64), 0.75, "tf")
    lifted = np.asarray(noise).reshape(-1, 8, 64) >= 1
    assert set(lifted.all(axis=2).sum(axis=1).tolist()) == {4}  # int(8 * 0.525) rows
    assert set(lifted.all(axis=1).sum(axis=1).tolist()) == {33}  # int(64 * 0.525) columns
    seen = np.asarray(mask_from_noise(noise, 0.75).hidden).reshape(-1, 8, 64) == 0
    assert np.all(seen | lifted)
    extra = [tuple(np.argwhere(cells).ravel().tolist()) for cells in seen & lifted]
    assert {len(cells) for cells in extra} == {2 * (128 - 4 * 31)}
    assert len(set(extra)) == 64


def test_noise_follows_from_the_key_alone() -> None:
    draw = jax.jit(lambda key: sample_noise(key, 4, (3, 5), 0.75, "tf"))
    first, again, other = (np.asarray(draw(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (4, 15)
    assert first.dtype == np.float32
    assert not np.any(first == other)


def test_an_unknown_mode_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"diagonal.*unstructured, time, freq, tf"):
        sample_noise(jax.random.key(0), 2, (3, 5), 0.75, "diagonal")  # pyright: ignore[reportArgumentType]
