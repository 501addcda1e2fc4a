"""What is random follows the distribution it should, clip by clip; what is mixed is what a plain formula gives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.config import AugmentConfig, Config
from avmae_jax.data.augment import balanced_weights, mix_images, mix_waveforms, noise_and_roll, soft_targets, spec_augment

FRAMES, MELS = 40, 24

masked = jax.jit(spec_augment, static_argnames=("freq", "time"))


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def hidden(count: int, freq: int, time: int, *, frames: int = FRAMES, mel_bins: int = MELS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which frames and which bins of each clip are zero throughout: bool[B, T], bool[B, M]."""
    zero = np.asarray(masked(jnp.ones((count, frames, mel_bins)), keys(count, seed), freq=freq, time=time)) == 0
    spans, bands = zero.all(axis=2), zero.all(axis=1)
    np.testing.assert_array_equal(zero, spans[:, :, None] | bands[:, None, :])  # nothing else is
    return spans, bands


def extent(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Width and start of the one run of True in each row."""
    width = rows.sum(axis=1)
    start = rows.argmax(axis=1)
    places = np.arange(rows.shape[1])
    np.testing.assert_array_equal(rows, (places >= start[:, None]) & (places < (start + width)[:, None]))
    return width, start


@settings(deadline=None, max_examples=15)
@given(freq=st.integers(0, MELS), time=st.integers(0, FRAMES), seed=st.integers(0, 99))
@pytest.mark.slow
def test_one_band_and_one_span_narrower_than_the_limit_are_zero(freq: int, time: int, seed: int) -> None:
    if freq == MELS and time == FRAMES:
        time -= 1  # both could cover all, which is then neither a span nor a band
    for rows, limit in zip(hidden(16, freq, time, seed=seed), (time, freq), strict=True):
        width, _ = extent(rows)
        assert width.max(initial=0) <= max(0, limit - 1)


def drawn(count: int, size: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Width and start as torchaudio.functional.mask_along_axis draws them, in NumPy."""
    rng = np.random.default_rng(1)
    value = rng.random(count) * limit
    return value.astype(int), (rng.random(count) * (size - value)).astype(int)


@pytest.mark.parametrize("axis", [0, 1])
def test_widths_are_uniform_and_starts_distributed_as_torchaudios(axis: int) -> None:
    count, limit, size = 6000, 10, (FRAMES, MELS)[axis]
    width, start = extent(hidden(count, (0, limit)[axis], (limit, 0)[axis])[axis])
    frequencies = np.bincount(width, minlength=limit) / count
    np.testing.assert_allclose(frequencies, 1 / limit, atol=4 * np.sqrt(0.1 * 0.9 / count))
    reference_width, reference_start = drawn(100_000, size, limit)
    for chosen in (1, limit - 1):  # a start shows only where the width is not 0
        got, expected = start[width == chosen], reference_start[reference_width == chosen]
        places = np.arange(size)
        steps = np.abs((got[:, None] <= places).mean(axis=0) - (expected[:, None] <= places).mean(axis=0))
        assert steps.max() < 1.95 * np.sqrt(1 / len(got) + 1 / len(expected))  # Kolmogorov-Smirnov at 0.1 %
        assert got.max() <= size - chosen


@pytest.mark.slow
def test_clips_are_masked_independently_and_by_their_own_key() -> None:
    fbank = jax.random.normal(jax.random.key(1), (6, FRAMES, MELS))
    together = masked(fbank, keys(6), freq=MELS, time=FRAMES)
    for row in range(6):
        np.testing.assert_array_equal(together[row], masked(fbank[row : row + 1], keys(6)[row : row + 1], freq=MELS, time=FRAMES)[0])
    spans, bands = hidden(500, 12, 20)
    assert abs(np.corrcoef(spans.sum(axis=1), bands.sum(axis=1))[0, 1]) < 4 / np.sqrt(500)
    np.testing.assert_array_equal(masked(fbank, keys(6), freq=0, time=0), fbank)


@pytest.mark.parametrize(("freq", "time", "field"), [(MELS + 1, 0, r"specaug_freq.*25.*24"), (0, FRAMES + 1, r"specaug_time.*41.*40")])
def test_a_mask_wider_than_the_spectrogram_is_refused(freq: int, time: int, field: str) -> None:
    with pytest.raises(ValueError, match=rf"augment\.{field}"):
        spec_augment(jnp.ones((1, FRAMES, MELS)), keys(1), freq, time)


def test_noise_is_positive_small_and_of_one_size_a_clip() -> None:
    noise = np.asarray(jax.jit(noise_and_roll)(jnp.zeros((2000, 10, 8)), keys(2000))).reshape(2000, -1)
    assert noise.min() >= 0
    assert noise.max() < 0.1
    sizes = 2 * noise.mean(axis=1)
    np.testing.assert_allclose(np.quantile(sizes, [0.25, 0.5, 0.75]), [0.025, 0.05, 0.075], atol=0.006)
    np.testing.assert_allclose(np.median(noise.std(axis=1) / sizes), 1 / np.sqrt(12), rtol=0.02)  # uniform from 0 to the clip's size
    assert abs(np.corrcoef(noise[:-1].ravel() / np.repeat(sizes[:-1], 80), noise[1:].ravel() / np.repeat(sizes[1:], 80))[0, 1]) < 0.02


@pytest.mark.slow
def test_a_clip_is_rolled_as_a_whole_to_any_frame() -> None:
    fbank = jnp.broadcast_to((10 * jnp.arange(8.0)[:, None] + jnp.arange(3.0)[None])[None], (800, 8, 3))
    rolled = np.round(np.asarray(jax.jit(noise_and_roll)(fbank, keys(800))) - 0.05)
    shifts = (-rolled[:, 0, 0] / 10).astype(int) % 8
    for row in range(0, 800, 40):
        np.testing.assert_array_equal(rolled[row], np.roll(fbank[row], shifts[row], axis=0))
    np.testing.assert_allclose(np.bincount(shifts, minlength=8) / 800, 1 / 8, atol=4 * np.sqrt(0.11 / 800))


def mixture(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Two sounds of their own lengths, mixed as the original mixes them, in float64."""
    first, second = (sound.astype(np.float64) / 32_768 for sound in (a, b))
    first, second = first - first.mean(), second - second.mean()
    fitted = np.zeros_like(first)
    fitted[: len(second)] = second[: len(first)]
    mixed = share * first + (1 - share) * fitted
    return mixed - mixed.mean()


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    share=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])),
    offset=st.integers(-20_000, 20_000),
    seed=st.integers(0, 99),
)
def test_mixing_audio_is_the_plain_formula(lengths: tuple[int, int], share: float, offset: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sounds = [rng.integers(-9000, 9000, length).astype(np.int16) + np.int16(offset) for length in lengths]
    a, b = (jnp.asarray(np.pad(sound, (0, 60 - len(sound))))[None] for sound in sounds)
    samples_a, samples_b = (jnp.array([length], jnp.int32) for length in lengths)
    got = np.asarray(jax.jit(mix_waveforms)(a, b, jnp.array([share], jnp.float32), samples_a, samples_b))[0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[: lengths[0]], mixture(sounds[0], sounds[1], share), atol=1e-6)
    assert not got[lengths[0] :].any()


def test_the_clips_of_a_batch_are_mixed_with_their_own_partners_and_shares() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9000, 9000, (4, 1000)).astype(np.int16) for _ in range(2))
    share = np.array([0.1, 0.5, 0.9, 1.0], np.float32)
    counts = jnp.full(4, 1000, jnp.int32)
    got = mix_waveforms(jnp.asarray(a), jnp.asarray(b), jnp.asarray(share), counts, counts)
    for row in range(4):
        np.testing.assert_allclose(got[row], mixture(a[row], b[row], float(share[row])), atol=1e-6)


def test_a_clip_that_stays_alone_needs_no_partner() -> None:
    sound = np.random.default_rng(0).integers(-9000, 9000, (1, 500)).astype(np.int16)
    got = mix_waveforms(jnp.asarray(sound), jnp.zeros((1, 500), jnp.int16), jnp.ones(1), jnp.array([500]), jnp.array([0]))
    centred = sound / 32_768 - (sound / 32_768).mean()
    np.testing.assert_allclose(got, centred, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(share=st.floats(0, 1, width=32), seed=st.integers(0, 9))
def test_mixing_images_is_a_weighted_mean(share: float, seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 256, (2, 1, 4, 4, 3)).astype(np.uint8)
    got = np.asarray(mix_images(jnp.asarray(a), jnp.asarray(b), jnp.array([share], jnp.float32)))
    np.testing.assert_allclose(got, share * a.astype(float) + (1 - share) * b.astype(float), atol=1e-4)
    if share in (0, 1):
        np.testing.assert_array_equal(got, (b, a)[int(share)])


some_labels = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)


@settings(deadline=None, max_examples=50)
@given(own=some_labels, other=some_labels, smoothing=st.floats(0, 0.9), share=st.floats(0, 1))
def test_targets_are_those_of_the_original(own: list[int], other: list[int], smoothing: float, share: float) -> None:
    plain, mixed = soft_targets(own, 10, smoothing), soft_targets(own, 10, smoothing, (other, share))
    assert plain.dtype == mixed.dtype == np.float32
    for label in range(10):
        assert plain[label] == pytest.approx(1 - smoothing if label in own else smoothing / 10, abs=1e-6)
        shares = share * (label in own) + (1 - share) * (label in other)
        assert mixed[label] == pytest.approx(smoothing / 10 + (1 - smoothing) * shares, abs=1e-6)


def test_without_smoothing_targets_are_the_labels() -> None:
    np.testing.assert_array_equal(soft_targets((1, 3), 4), [0, 1, 0, 1])
    np.testing.assert_array_equal(soft_targets((1,), 4, 0.0, ((1, 2), 0.25)), [0, 1, 0.75, 0])


@pytest.mark.parametrize(("own", "other"), [((), None), ((4,), None), ((-1,), None), ((0,), ()), ((0,), (9,))])
def test_a_label_that_is_missing_or_no_class_is_refused(own: tuple[int, ...], other: tuple[int, ...] | None) -> None:
    with pytest.raises(ValueError, match=r"\[0, 4\)"):
        soft_targets(own, 4, 0.1, None if other is None else (other, 0.5))


@settings(deadline=None, max_examples=50)
@given(labels=st.lists(some_labels, min_size=1, max_size=30))
def test_weights_are_the_sum_over_labels(labels: list[list[int]]) -> None:
    counts = [sum(label in own for own in labels) for label in range(10)]
    expected = [sum(1000 / (counts[label] + 0.01) for label in own) for own in labels]
    got = balanced_weights(labels, 10)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_classes_are_drawn_equally_often_where_clips_have_one_label() -> None:
    labels = [[0]] * 90 + [[1]] * 9 + [[2]]
    weights = balanced_weights(labels, 4)
    shares = [weights[[own == [label] for own in labels]].sum() / weights.sum() for label in range(3)]
    np.testing.assert_allclose(shares, 1 / 3, rtol=0.01)


def test_weights_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1.* label"):
        balanced_weights([[0], [], [1]], 2)
    for label in (2, -1):
        with pytest.raises(ValueError, match=r"\[0, 2\)"):
            balanced_weights([[0], [label]], 2)
    assert balanced_weights([], 2).shape == (0,)


def test_weights_of_a_large_set_follow_its_counts() -> None:
    weights = balanced_weights([(index % 527, 3) for index in range(52_700)], 527)
    rare, common = weights[0], weights[3]  # class 0 is in 100 clips, class 3 in all; clip 3 has no other class
    assert weights.shape == (52_700,)
    assert rare > common > 0
    np.testing.assert_allclose(weights[:527], weights[-527:])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("specaug_freq", -1),
        ("specaug_time", -1),
        ("crop_area", 0.0),
        ("crop_area", 1.1),
        ("mixup", -0.1),
        ("mixup", 1.5),
        ("mixup", float("nan")),
        ("mixup_alpha", 0.0),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
    ],
)
def test_a_setting_that_cannot_work_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"augment\.{field}.*{value}"):
        AugmentConfig(**{field: value}).validate()


def test_everything_is_off_unless_asked_for() -> None:
    options = Config().augment
    options.validate()
    AugmentConfig(48, 192, 0.3, True, True, 0.5, 10.0, 0.1, True).validate()
    assert not any((options.specaug_freq, options.specaug_time, options.noise, options.mixup, options.label_smoothing, options.balanced))
    assert (options.crop_area, options.flip) == (1.0, False)
