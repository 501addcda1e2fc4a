"""Windows cut on the device are those that plain NumPy cuts, padding and random changes included."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avmae_jax.config import AugmentConfig, Config, DataConfig, ModelConfig
from avmae_jax.data.batches import EvalOptions, TrainBatches, TrainOptions, eval_batches
from avmae_jax.data.fbank import log_mel, num_frames
from avmae_jax.data.frontend import IMAGENET_MEAN, IMAGENET_STD, model_inputs, normalisation
from avmae_jax.data.pairs import window_starts
from tests.support import Clips

MODEL = ModelConfig(audio_frames=32, clip_frames=96, window_rate=102.4, mel_bins=16, image_size=32, patch=16)
CONFIG = Config(model=MODEL)
MIXED = AugmentConfig(mixup=1.0)


def computed(batch: dict[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
    arrays = {name: jnp.asarray(value) for name, value in batch.items() if name != "id"}
    return {name: np.asarray(value) for name, value in jax.jit(lambda batch: model_inputs(batch, config))(arrays).items()}


def held_out(seconds: float, count: int = 3, frames: int = 0) -> dict[str, np.ndarray]:
    """Reads one batch of clips with all of their frames."""
    return next(eval_batches(Clips(count, seconds=seconds), MODEL, DataConfig(frames=frames), count, EvalOptions(pairs=True)))


def drawn(augment: AugmentConfig, pairs: int = 4, seconds: float = 0.7) -> dict[str, np.ndarray]:
    """Reads one batch of training."""
    data, options = DataConfig(pairs_per_clip=pairs), TrainOptions(augment=augment, pairs=True)
    batches = TrainBatches(Clips(20, seconds=seconds), MODEL, data, 6, 0, options)
    batch = next(batches)
    batches.close()
    return batch


@pytest.mark.parametrize("seconds", [0.7, 0.2, 0.97])
def test_windows_are_those_of_the_padded_spectrogram_of_the_whole_clip(seconds: float) -> None:
    batch = held_out(seconds)
    found = computed(batch, CONFIG)
    assert (found["audio"].dtype, found["audio"].shape) == (np.float32, (3, 10, 32, 16))
    assert (found["image"].dtype, found["image"].shape) == (np.float32, (3, 10, 32, 32, 3))
    for row in range(3):
        clip = Clips(3, seconds=seconds)[row]
        whole = np.zeros((96, 16), np.float32)
        own = log_mel(clip.waveform.astype(np.float32) / 32768, 16)[:96]
        whole[: len(own)] = own
        starts = window_starts(clip.frame_times, MODEL)
        np.testing.assert_array_equal(batch["window"][row], starts)
        for image, start in enumerate(starts):
            window = (whole[start : start + 32] + 5.081) / 4.4849
            np.testing.assert_allclose(found["audio"][row, image], window, atol=1e-5)
    if num_frames(round(seconds * 16_000)) < 64:  # the last window lies behind the clip's end: padding is normalised with the rest
        np.testing.assert_allclose(found["audio"][:, -1, -1], 5.081 / 4.4849, rtol=1e-6)
    assert (np.diff(batch["window"], axis=1) >= 0).all()


def test_images_are_those_of_their_frames() -> None:
    batch = held_out(0.7)
    assert (batch["image"][:, :, 0, 0, 1] // 20 == np.arange(10)).all()
    expected = (batch["image"] / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(computed(batch, CONFIG)["image"], expected, atol=1e-5)


def test_a_clip_is_normalised_by_its_own_mean_over_the_whole() -> None:
    config = dataclasses.replace(CONFIG, data=DataConfig(normalise="clip"))
    batch = held_out(0.7)
    plain, found = computed(batch, CONFIG), computed(batch, config)
    mean, std = (
        np.asarray(values)[:, None]
        for values in normalisation({name: jnp.asarray(batch[name]) for name in ("waveform", "samples")}, config)
    )
    assert mean.shape == (3, 1, 1, 1)
    log = plain["audio"] * 4.4849 - 5.081
    held = np.arange(32) + batch["window"][..., None] < num_frames(batch["samples"])[:, None, None]
    np.testing.assert_allclose(found["audio"], np.where(held[..., None], (log - mean) / std, 0), atol=1e-4)


def test_mixtures_mix_whole_clips_and_images_of_the_same_window() -> None:
    batch = drawn(MIXED)
    found = computed(batch, dataclasses.replace(CONFIG, augment=MIXED))
    share = batch["mix"][:, None, None, None, None]
    pixels = share * batch["image"] + (1 - share) * batch["image_b"]
    np.testing.assert_allclose(found["image"], (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD, atol=1e-5)
    np.testing.assert_array_equal(batch["image_b"][..., 0, 0, 1], batch["image"][..., 0, 0, 1])  # clips of one length: the same frames
    whole = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, audio_frames=96, clip_frames=0), augment=MIXED)
    every = computed({name: value for name, value in batch.items() if name != "window"}, whole)["audio"]
    for row, starts in enumerate(batch["window"]):
        for image, start in enumerate(starts):
            np.testing.assert_allclose(found["audio"][row, image], every[row, start : start + 32], atol=1e-6)


def test_spans_hide_places_of_the_clip_and_not_of_a_window() -> None:
    augment = AugmentConfig(specaug_time=30, specaug_freq=8)
    batch = drawn(augment, pairs=10)
    found = computed(batch, dataclasses.replace(CONFIG, augment=augment))["audio"]
    plain = computed({name: value for name, value in batch.items() if name != "augment_seed"}, CONFIG)["audio"]
    hidden = np.abs(found - 5.081 / 4.4849) < 1e-5
    assert (hidden | np.isclose(found, plain, atol=1e-4)).all()
    for row, starts in enumerate(batch["window"]):
        told: dict[tuple[int, int], bool] = {}
        for image, start in enumerate(starts):
            for frame, bins in enumerate(hidden[row, image]):
                for number, value in enumerate(bins):
                    assert told.setdefault((start + frame, number), value) == value


def test_noise_rolls_each_window_within_itself() -> None:
    augment = AugmentConfig(noise=True)
    batch = drawn(augment, pairs=3)
    found = computed(batch, dataclasses.replace(CONFIG, augment=augment))["audio"]
    plain = computed({name: value for name, value in batch.items() if name != "augment_seed"}, CONFIG)["audio"]
    shifts = set()
    for got, window in zip(found.reshape(-1, 32, 16), plain.reshape(-1, 32, 16), strict=True):
        noise = [np.abs(np.roll(got, -shift, axis=0) - window).max() for shift in range(32)]
        assert min(noise) < 0.1
        shifts.add(int(np.argmin(noise)))
    assert len(shifts) > 6


def test_a_part_of_a_batch_looks_as_in_the_whole() -> None:
    augment = AugmentConfig(specaug_time=20, noise=True, brightness=0.3, mixup=0.5)
    batch, config = drawn(augment), dataclasses.replace(CONFIG, augment=augment)
    whole, part = computed(batch, config), computed({name: value[1:3] for name, value in batch.items()}, config)
    for name, value in part.items():
        np.testing.assert_allclose(value, whole[name][1:3], atol=1e-4)
    assert len({image.tobytes() for image in whole["image"][0]}) == 4
