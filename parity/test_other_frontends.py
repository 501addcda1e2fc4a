"""Compares our spectrograms, images and metrics with those of other libraries, on the same inputs."""

# pyright: reportMissingImports=false

import io
from typing import Any

import pytest

pytest.importorskip("torch", reason='other libraries are needed here: pip install -e ".[parity]"')
import jax.numpy as jnp
import numpy as np
import torch
from PIL import Image

from avmae_jax.config import Config, ModelConfig
from avmae_jax.data import fbank
from avmae_jax.data.decode.images import decode_image
from avmae_jax.data.frontend import model_inputs
from avmae_jax.evals import metrics

LOG_MEL_TOLERANCE = 1e-3  # largest difference of a log-mel value


def waveform(kind: str) -> np.ndarray:
    """Makes at most ten seconds of audio: int16[S]."""
    rng = np.random.default_rng(4)
    time = np.arange(160_000) / 16_000
    if "tones" in kind:
        tone, noise = (8000, 1) if kind == "pure tones" else (2000, 300)
        sound = tone * np.sin(2 * np.pi * 440 * time) + tone / 3 * np.sin(2 * np.pi * 3520 * time) + noise * rng.standard_normal(len(time))
    elif kind == "noise, then silence":
        sound = np.where(time < 3, 12_000 * rng.uniform(-1, 1, len(time)), 0)
    else:
        sound = rng.integers(-32_768, 32_767, 50_123)
    return np.round(sound).astype(np.int16)


def kaldi_filter_bank(samples: np.ndarray, mel_bins: int) -> torch.Tensor:
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    options = {"htk_compat": True, "window_type": "hanning", "use_energy": False, "dither": 0.0, "frame_shift": 10}  # the original's
    return kaldi.fbank(torch.from_numpy(samples)[None], sample_frequency=16_000, num_mel_bins=mel_bins, **options)


def assert_log_mel(ours: Any, reference: Any) -> None:
    assert ours.shape == reference.shape
    assert np.abs(np.asarray(ours, np.float64) - np.asarray(reference, np.float64)).max() <= LOG_MEL_TOLERANCE


SOUNDS = ["noisy tones", "noise, then silence", "loud and short"]


@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize("mel_bins", [128, 64])
def test_torchaudios_kaldi_filter_bank_is_our_log_mel(kind: str, mel_bins: int) -> None:
    samples = waveform(kind).astype(np.float32) / 32_768
    reference = kaldi_filter_bank(samples, mel_bins)
    assert_log_mel(fbank.log_mel(samples, mel_bins), reference)
    assert_log_mel(fbank.log_mel(jnp.asarray(samples), mel_bins), reference)


def test_between_pure_tones_the_log_mel_is_the_same_in_float64() -> None:
    """Between tones, 110 dB down, float32's rounding shows: torchaudio's own results in float32 and float64 differ by 2e-3 there."""
    samples = waveform("pure tones") / 32_768
    assert_log_mel(fbank.log_mel(samples), kaldi_filter_bank(samples, 128))


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")  # two at 20-60 Hz, narrower than a frequency bin
@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize("backend", ["torchaudio", "numpy"])
def test_the_feature_extractor_of_ast_is_our_frontend(kind: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("transformers.models.audio_spectrogram_transformer.feature_extraction_audio_spectrogram_transformer")
    if backend == "torchaudio":
        pytest.importorskip("torchaudio")
    else:
        monkeypatch.setattr(module, "is_speech_available", lambda: False)
    extractor, samples = module.ASTFeatureExtractor(), waveform(kind)
    reference = extractor(samples.astype(np.float32) / 32_768, sampling_rate=16_000, return_tensors="np")["input_values"]
    padded = np.zeros((1, fbank.num_samples(1024)), np.int16)
    padded[0, : len(samples)] = samples
    # the extractor divides by twice the deviation, CAV-MAE by the deviation itself
    mean, std = extractor.mean, 2 * extractor.std
    ours = fbank.padded_fbank(jnp.asarray(padded), jnp.array([len(samples)]), 1024)
    assert_log_mel(ours, reference * std + mean)


def encoded(height: int, width: int, kind: str) -> bytes:
    """Encodes an image with edges and noise."""
    rng = np.random.default_rng(height * 1000 + width)
    picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    picture[: height // 3, width // 4 : width // 2] = (250, 10, 120)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


SIZES = [(224, 224), (448, 448), (300, 400), (401, 301), (224, 301), (303, 224), (333, 517), (517, 334), (480, 641), (227, 226), (100, 151)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_torchvisions_resize_and_crop_is_ours(height: int, width: int, kind: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    picture = encoded(height, width, kind)
    reference = transforms.Compose(
        [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )(Image.open(io.BytesIO(picture)).convert("RGB"))
    config = Config(model=ModelConfig(audio_frames=16))
    silence = {"waveform": jnp.zeros((1, fbank.num_samples(16)), jnp.int16), "samples": jnp.array([fbank.num_samples(16)])}
    image = model_inputs(silence | {"image": jnp.asarray(decode_image(picture, 224))[None]}, config)["image"]
    np.testing.assert_allclose(image[0], reference.permute(1, 2, 0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_scikit_learns(ties: bool) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    targets = rng.random((200, 12)) < rng.uniform(0.01, 0.9, 12)
    targets[0] = True  # no class without a positive, which scikit-learn counts as 0
    scores = rng.standard_normal((200, 12)) + targets
    scores = np.round(scores) if ties else scores
    ours = metrics.average_precision(scores, targets)
    reference = [sklearn.average_precision_score(targets[:, c], scores[:, c]) for c in range(12)]
    np.testing.assert_allclose(ours, reference, rtol=1e-12)
    one_empty = np.concatenate([targets, np.zeros((200, 1), bool)], axis=1)
    assert np.isnan(metrics.average_precision(np.concatenate([scores, scores[:, :1]], axis=1), one_empty)).tolist() == [False] * 12 + [True]


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_scikit_learns(ties: bool) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(6)
    targets = rng.random((200, 12)) < rng.uniform(0.01, 0.9, 12)
    targets[0], targets[1] = True, False  # scikit-learn has no area for a class that every clip has, or none
    scores = rng.standard_normal((200, 12)) + targets
    scores = np.round(scores) if ties else scores
    reference = [sklearn.roc_auc_score(targets[:, c], scores[:, c]) for c in range(12)]
    np.testing.assert_allclose(metrics.auc(scores, targets), reference, rtol=1e-12)
