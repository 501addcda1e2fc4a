"""The log-mel front end: Kaldi's definition in plain float64 loops, the padding of short clips, what must have no influence."""

import cmath
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.data.fbank import log_mel, mel_filters, num_frames, num_samples, padded_fbank

FRAMES, MELS = 32, 16
SAMPLES = num_samples(FRAMES)
FLOOR = math.log(np.finfo(np.float32).eps)

_padded = jax.jit(lambda waveform, samples: padded_fbank(waveform, samples, FRAMES, mel_bins=MELS))


def _sound(samples: int, seed: int = 0, size: float = 0.1) -> np.ndarray:
    return (size * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def _mel(hertz: float) -> float:
    return 1127 * math.log(1 + hertz / 700)


def _frame_by_definition(samples: np.ndarray, mel_bins: int) -> list[float]:
    """compute-fbank-feats for one window of 400 samples: no dither, no energy, Hanning, pre-emphasis 0.97, 512-point FFT."""
    window = [float(x) - float(samples.mean(dtype=np.float64)) for x in samples]
    window = [x - 0.97 * window[max(i - 1, 0)] for i, x in enumerate(window)]
    window = [x * (0.5 - 0.5 * math.cos(2 * math.pi * i / 399)) for i, x in enumerate(window)]
    power = [abs(sum(x * cmath.exp(-2j * math.pi * k * i / 512) for i, x in enumerate(window))) ** 2 for k in range(256)]
    step = (_mel(8000) - _mel(20)) / (mel_bins + 1)
    energies = []
    for m in range(mel_bins):
        left = _mel(20) + m * step
        weights = [max(0.0, min((_mel(k * 31.25) - left) / step, (left + 2 * step - _mel(k * 31.25)) / step)) for k in range(256)]
        energies.append(sum(w * p for w, p in zip(weights, power, strict=True)))
    return [math.log(max(energy, float(np.finfo(np.float32).eps))) for energy in energies]


def _expected(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Computes what padded_fbank must give for one clip of so many samples."""
    fbank = np.zeros((FRAMES, MELS))
    clip = waveform[:samples].astype(np.float64) / 32_768
    if samples >= 400:
        spectrogram = log_mel((clip - clip.mean()).astype(np.float32), MELS)
        fbank[: len(spectrogram)] = spectrogram
    return fbank


@pytest.mark.parametrize("mel_bins", [16, 128])
def test_a_frame_is_what_kaldis_definition_says(mel_bins: int) -> None:
    waveform = _sound(num_samples(3))
    ours = log_mel(waveform, mel_bins)
    for frame in (0, 2):
        reference = _frame_by_definition(waveform[160 * frame : 160 * frame + 400], mel_bins)
        np.testing.assert_allclose(ours[frame], reference, atol=1e-4)


@pytest.mark.parametrize("shape", [(SAMPLES,), (2, SAMPLES + 100), (2, 3, 400)])
def test_numpy_and_jax_give_the_same_numbers(shape: tuple[int, ...]) -> None:
    waveform = np.random.default_rng(1).uniform(-0.5, 0.5, shape).astype(np.float32)
    numpy, jitted = log_mel(waveform, MELS), jax.jit(lambda x: log_mel(x, MELS))(waveform)
    assert isinstance(numpy, np.ndarray)
    assert isinstance(jitted, jax.Array)
    assert numpy.shape == jitted.shape == (*shape[:-1], num_frames(shape[-1]), MELS)
    assert numpy.dtype == jitted.dtype == np.float32
    np.testing.assert_allclose(numpy, jitted, atol=2e-4)


@pytest.mark.parametrize(("samples", "frames"), [(160_000, 998), (400, 1), (399, 0), (559, 1), (560, 2)])
def test_only_whole_frames_count(samples: int, frames: int) -> None:
    assert num_frames(samples) == frames


@settings(deadline=None, max_examples=25)
@given(frames=st.integers(1, 5000))
def test_num_samples_is_the_smallest_number_with_so_many_frames(frames: int) -> None:
    assert num_frames(num_samples(frames)) == frames
    assert num_frames(num_samples(frames) - 1) == frames - 1


@pytest.mark.parametrize("frequency", [300.0, 1000.0, 2500.0, 6000.0])
@pytest.mark.parametrize(("mel_bins", "off_by"), [(32, 0), (128, 1)])  # 128 bins are as narrow as a bin of the FFT
def test_a_pure_tone_lands_in_its_mel_bin(frequency: float, mel_bins: int, off_by: int) -> None:
    tone = (0.5 * np.sin(2 * np.pi * frequency * np.arange(SAMPLES) / 16_000)).astype(np.float32)
    step = (_mel(8000) - _mel(20)) / (mel_bins + 1)
    nearest = round((_mel(frequency) - _mel(20)) / step) - 1
    assert np.abs(log_mel(tone, mel_bins).argmax(axis=1) - nearest).max() <= off_by


def test_filters_are_triangles_that_leave_out_nyquist() -> None:
    filters = mel_filters(32)
    assert filters.shape == (257, 32)
    assert filters.dtype == np.float32
    assert not filters[256].any()
    assert filters.min() >= 0
    np.testing.assert_allclose(filters[10:230].sum(axis=1), 1, atol=1e-5)  # neighbours overlap by half


def test_twice_the_amplitude_adds_log_4() -> None:
    waveform = _sound(SAMPLES)
    np.testing.assert_allclose(log_mel(2 * waveform, MELS), log_mel(waveform, MELS) + math.log(4), atol=1e-4)


def test_ten_milliseconds_later_is_one_frame_later() -> None:
    waveform = _sound(SAMPLES)
    np.testing.assert_allclose(log_mel(waveform[160:], MELS), log_mel(waveform, MELS)[1:], atol=1e-5)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="399 samples are too few: one frame takes 400"):
        log_mel(np.zeros(399, np.float32))


@settings(deadline=None, max_examples=25)
@given(samples=st.one_of(st.integers(0, SAMPLES), st.sampled_from([0, 1, 399, 400, 559, 560, 4800, SAMPLES])), seed=st.integers(0, 9))
def test_a_clip_of_any_length_is_padded_with_zeros_before_normalisation(samples: int, seed: int) -> None:
    waveform = np.zeros(SAMPLES, np.int16)
    waveform[:samples] = (32_768 * _sound(samples, seed)).clip(-32_768, 32_767)
    ours = np.asarray(_padded(waveform[None], np.array([samples], np.int32)))[0]
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, _expected(waveform, samples), atol=2e-4)
    assert not ours[max(0, num_frames(samples)) :].any()


def test_clips_of_a_batch_do_not_touch_each_other() -> None:
    lengths = np.array([SAMPLES, 3000, 200], np.int32)
    waveform = (20_000 * np.sin(np.arange(3 * SAMPLES).reshape(3, -1) ** 1.1)).astype(np.int16)
    waveform[np.arange(SAMPLES) >= lengths[:, None]] = 0
    together = np.asarray(_padded(waveform, lengths))
    for row in range(3):
        alone = _padded(waveform[row : row + 1], lengths[row : row + 1])[0]
        np.testing.assert_allclose(together[row], alone, atol=1e-4)


@pytest.mark.parametrize("samples", [SAMPLES, 2000])
@pytest.mark.parametrize("offset", [-20_000, 5000])
def test_a_constant_offset_has_no_influence(samples: int, offset: int) -> None:
    waveform = np.zeros((2, SAMPLES), np.int16)
    waveform[:, :samples] = (3000 * np.random.default_rng(2).standard_normal(samples)).clip(-12_000, 12_000).astype(np.int16)
    waveform[1, :samples] += offset
    plain, shifted = np.asarray(_padded(waveform, np.full(2, samples, np.int32)))
    np.testing.assert_allclose(plain, shifted, atol=1e-3)


@pytest.mark.parametrize("level", [0, 1, 32_767, -32_768])
def test_a_silent_clip_is_finite_and_at_the_floor(level: int) -> None:
    ours = _padded(np.full((1, SAMPLES), level, np.int16), np.array([SAMPLES], np.int32))
    np.testing.assert_allclose(ours, FLOOR, rtol=1e-5)


def test_the_loudest_clip_is_finite() -> None:
    waveform = np.where(np.arange(SAMPLES) % 7 < 3, 32_767, -32_768).astype(np.int16)[None]
    assert np.isfinite(_padded(waveform, np.array([SAMPLES], np.int32))).all()
