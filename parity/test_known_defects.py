"""Shows what the official code is known to do wrong: with our default, and with the option that keeps the defect where there is one."""

# pyright: reportMissingImports=false

import dataclasses
import warnings
import wave
from pathlib import Path

import pytest

pytest.importorskip("timm", reason='the reference needs PyTorch and timm: pip install -e ".[parity]"')

import jax.numpy as jnp
import numpy as np
import torch

from avmae_jax.config import LossConfig
from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.decode.one_clip import decode_audio, decode_clip
from avmae_jax.data.fbank import log_mel
from avmae_jax.errors import ClipError
from avmae_jax.evals.metrics import average_precision
from avmae_jax.train import losses
from parity import reference_training
from parity.rows import OUTPUT_TOLERANCE, assert_all, compare
from parity.side_by_side import Pretraining, random_inputs, small


@pytest.mark.usefixtures("unpolished")
@pytest.mark.parametrize("unchained", [False, True])
@pytest.mark.slow
def test_joint_blocks_are_chained_in_the_contrastive_pass_unless_asked(unchained: bool) -> None:
    """The official pretraining pass gives each joint block the unchanged input, so that only the last one counts."""
    config = small(depth=3, joint_depth=2, unchained_contrastive=unchained)
    pair = Pretraining(config, LossConfig(), random_inputs(config, batch=2))
    assert_all(pair.output_rows(), at_least=18)
    fbank, image, *noise = pair.inputs.for_torch()
    with torch.no_grad():
        before = pair.reference(fbank, image, *noise)
        pair.reference.get_parameter("blocks_u.0.mlp.fc2.bias").add_(1.0)  # of the first joint block
        after = pair.reference(fbank, image, *noise)
    assert torch.equal(before.contrast_audio_tokens, after.contrast_audio_tokens) == unchained
    assert not torch.equal(before.latent, after.latent)


def test_negatives_come_from_all_devices_unless_asked() -> None:
    """DataParallel computes the contrastive loss on each device's share; the official code sums these over devices, we take the mean."""
    rng = np.random.default_rng(0)
    audio, image = (rng.standard_normal((8, 16)).astype(np.float32) for _ in range(2))
    config, devices = LossConfig(), 4
    shares = [slice(start, start + 2) for start in range(0, 8, 2)]
    per_device = [reference_training.contrastive_loss(torch.tensor(audio[rows]), torch.tensor(image[rows]), config)[0] for rows in shares]
    whole = reference_training.contrastive_loss(torch.tensor(audio), torch.tensor(image), config)[0]
    shard, _ = losses.contrastive_loss(jnp.asarray(audio), jnp.asarray(image), groups=devices)
    default, _ = losses.contrastive_loss(jnp.asarray(audio), jnp.asarray(image))
    assert compare("shard", shard * devices, sum(per_device), OUTPUT_TOLERANCE).ok
    assert compare("global", default, whole, OUTPUT_TOLERANCE).ok
    assert default > shard  # more negatives make the task harder
    assert LossConfig().negatives == "global"


def test_audio_is_resampled_before_its_spectrogram(tmp_path: Path) -> None:
    """Checks that we resample. The official code doesn't: Kaldi then spreads the mel bins up to half of the file's own rate."""
    spectra, raw = {}, {}
    for rate in (SAMPLE_RATE, 44_100):
        raw[rate] = (8000 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)).astype(np.int16)
        with wave.open(str(tmp_path / f"{rate}.wav"), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(raw[rate].tobytes())
        ours = decode_audio(tmp_path / f"{rate}.wav").astype(np.float32) / 32_768
        spectra[rate] = log_mel(ours)[10:90].mean(axis=0)
    assert spectra[SAMPLE_RATE].argmax() == spectra[44_100].argmax()
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    options = {"htk_compat": True, "use_energy": False, "window_type": "hanning", "num_mel_bins": 128, "dither": 0.0}
    peaks = {}
    for rate, samples in raw.items():
        theirs = kaldi.fbank(torch.tensor(samples, dtype=torch.float32)[None] / 32_768, sample_frequency=rate, **options)
        peaks[rate] = int(theirs[10:90].mean(dim=0).argmax())
    assert peaks[SAMPLE_RATE] == spectra[44_100].argmax()
    assert peaks[44_100] < peaks[SAMPLE_RATE] - 10


def test_an_unreadable_clip_is_named_and_never_a_constant(tmp_path: Path) -> None:
    """Checks that we report an unreadable file. The official loader puts constants in its place, for which we have no option."""
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"not a video")
    with pytest.raises(ClipError, match=r"broken\.mp4"):
        decode_clip(path, clip_id="broken")


def test_classes_without_a_positive_have_no_average_precision_where_the_original_counts_0() -> None:
    """Compares with the official mean over classes, which includes scikit-learn's 0 for a class without clips."""
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores, targets = rng.random((20, 4)), rng.random((20, 4)) < 0.3
    targets[:, 2] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about that class
        theirs = sklearn_metrics.average_precision_score(targets, scores, average=None)
    ours = average_precision(scores, targets)
    assert np.isnan(ours[2])
    np.testing.assert_allclose(np.nan_to_num(ours), theirs, rtol=1e-12)


@pytest.mark.usefixtures("unpolished")
@pytest.mark.slow
def test_one_joint_block_needs_no_option() -> None:
    for option in (False, True):
        config = small(depth=2, unchained_contrastive=option)
        pair = Pretraining(dataclasses.replace(config, unchained_contrastive=not option), LossConfig(), random_inputs(config, 2))
        pair.reference.unchained_contrastive = option
        assert_all(pair.output_rows(), at_least=18)
