"""Tests that audio made from a log-mel has that log-mel again."""

import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.fbank import log_mel, mel_filters, num_samples
from avmae_jax.inference.griffin_lim import griffin_lim, inverse_spectrum, mel_to_power, mel_to_waveform, save_wav, spectrum

FRAMES = 96


def tone(hertz: float, samples: int = num_samples(FRAMES)) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / SAMPLE_RATE)).astype(np.float32)


def melody(seed: int = 0) -> np.ndarray:
    """Notes with overtones that fade, over a little noise: float32[S]."""
    rng, time = np.random.default_rng(seed), np.arange(num_samples(FRAMES)) / SAMPLE_RATE
    waveform = 0.003 * rng.standard_normal(len(time))
    for start, pitch in zip(np.arange(4) / 4, rng.uniform(200, 900, 4), strict=True):
        since = np.maximum(time - start, 0)
        for overtone in range(1, 6):
            waveform += 0.2 / overtone * np.sin(2 * np.pi * pitch * overtone * since) * np.exp(-4 * since) * (time >= start)
    return waveform.astype(np.float32)


def distance(waveform: np.ndarray, magnitude: np.ndarray) -> float:
    return float(np.linalg.norm(np.abs(spectrum(waveform)) - magnitude) / np.linalg.norm(magnitude))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), frames=st.integers(3, 20))
def test_the_inverse_of_a_spectrum_is_the_waveform(seed: int, frames: int) -> None:
    waveform = np.random.default_rng(seed).standard_normal(num_samples(frames))
    back = inverse_spectrum(spectrum(waveform))
    assert len(back) == len(waveform)
    np.testing.assert_allclose(back[100:-100], waveform[100:-100], atol=1e-9)


def test_the_power_has_the_mel_energies_that_were_given() -> None:
    given_mel = log_mel(melody())
    power = mel_to_power(given_mel)
    assert (power >= 0).all()
    found = np.log(np.maximum(power @ mel_filters(128), np.finfo(np.float32).eps))
    assert np.abs(found - given_mel).mean() < 0.02


@pytest.mark.parametrize("hertz", [220.0, 1000.0, 3500.0])
def test_a_tone_keeps_its_pitch(hertz: float) -> None:
    given_mel = log_mel(tone(hertz))
    waveform = mel_to_waveform(given_mel, 20)
    assert len(waveform) == num_samples(FRAMES)
    found = log_mel(waveform.astype(np.float32))
    np.testing.assert_allclose(found[5:-5].argmax(axis=1), given_mel[5:-5].argmax(axis=1), atol=1)  # bins are 20 to 200 Hz apart
    assert np.sqrt(np.mean(waveform**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.25)  # loudness is not normalised away


def test_the_audio_of_a_log_mel_has_this_log_mel() -> None:
    given_mel = log_mel(melody())
    found = log_mel(mel_to_waveform(given_mel).astype(np.float32))
    assert np.corrcoef(found.ravel(), given_mel.ravel())[0, 1] > 0.97


def test_iterations_bring_the_spectrum_nearer() -> None:
    magnitude = np.abs(spectrum(melody().astype(np.float64)))
    distances = [distance(griffin_lim(magnitude, iterations), magnitude) for iterations in (0, 5, 40)]
    assert distances[0] > 2 * distances[1] > 2.5 * distances[2]
    assert distances[2] < 0.15


def test_the_seed_decides_the_waveform() -> None:
    given_mel = log_mel(melody())
    first, again, other = (mel_to_waveform(given_mel, 3, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@pytest.mark.parametrize("broken", [np.full((4, 128), np.nan), np.full((4, 128), 90.0), np.zeros((0, 128)), np.zeros(128)])
def test_what_is_no_log_mel_is_refused(broken: np.ndarray) -> None:
    with pytest.raises(ValueError, match="log-mel"):
        mel_to_waveform(broken)


def test_a_wav_holds_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.wav"
    waveform = np.array([0, 0.5, -1, 1])
    save_wav(path, waveform)
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (SAMPLE_RATE, 1, 2)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(4), "<i2"), [0, 16384, -32767, 32767])
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("sample", [1.01, np.nan])
def test_samples_that_would_be_cut_off_are_refused(tmp_path: Path, sample: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        save_wav(tmp_path / "a.wav", np.array([0, sample]))
    assert not list(tmp_path.iterdir())
