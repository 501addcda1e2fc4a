"""Bytes of a batch to what a model sees: augmentation where the batch asks for it, and nowhere else."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import AugmentConfig, Config
from avmae_jax.data.augment import mix_images, mix_waveforms
from avmae_jax.data.batches import TrainBatches, TrainOptions, eval_batches
from avmae_jax.data.fbank import num_frames, padded_fbank
from avmae_jax.data.frontend import IMAGENET_MEAN, IMAGENET_STD, model_inputs
from avmae_jax.models import registry
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.step import Context, weighted_sum
from tests.support import TINY, Clips, apply

CONFIG = apply(Config(), TINY)
ALL_ON = AugmentConfig(specaug_freq=30, specaug_time=20, noise=True, mixup=0.5)


def with_options(augment: AugmentConfig) -> Config:
    return dataclasses.replace(CONFIG, augment=augment)


def arrays(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value) for name, value in batch.items() if name != "id"}


def train_batch(augment: AugmentConfig, *, seconds: float = 0.7, size: int = 8) -> dict[str, jax.Array]:
    batches = TrainBatches(Clips(20, seconds=seconds), CONFIG.model, CONFIG.data, size, 0, TrainOptions(augment=augment))
    batch = arrays(next(batches))
    batches.close()
    return batch


def inputs(batch: dict[str, jax.Array], augment: AugmentConfig) -> tuple[np.ndarray, np.ndarray]:
    made = jax.jit(lambda batch: model_inputs(batch, with_options(augment)))(batch)
    return np.asarray(made["audio"]), np.asarray(made["image"])


def unmarked(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: batch[name] for name in ("waveform", "samples", "image")}


def test_a_batch_is_normalised() -> None:
    batch = train_batch(AugmentConfig())
    fbank, image = inputs(batch, AugmentConfig())
    assert (fbank.dtype, fbank.shape) == (np.float32, (8, 64, 128))
    normalised = jax.jit(lambda waveform, samples: (padded_fbank(waveform, samples, 64) + 5.081) / 4.4849)
    np.testing.assert_array_equal(fbank, normalised(batch["waveform"], batch["samples"]))
    np.testing.assert_allclose(image, (np.asarray(batch["image"]) / 255 - IMAGENET_MEAN) / IMAGENET_STD, atol=1e-5)


def test_spans_are_zero_before_normalisation() -> None:
    """So that they look like what stands after a clip's end: + 1.133."""
    options = AugmentConfig(specaug_freq=60, specaug_time=40)
    batch = train_batch(options)
    plain, (changed, image) = inputs(unmarked(batch), options), inputs(batch, options)
    padding = 5.081 / 4.4849
    assert ((np.abs(changed - plain[0]) < 1e-4) | (np.abs(changed - padding) < 1e-5)).all()
    hidden = np.abs(changed - padding) < 1e-5
    assert hidden.any(axis=(1, 2)).all()
    assert len({row.tobytes() for row in hidden}) == 8
    np.testing.assert_array_equal(image, plain[1])


def test_noise_comes_after_normalisation_and_rolls_the_padding_along() -> None:
    options = AugmentConfig(noise=True)
    batch = train_batch(options, seconds=0.3)
    sounding = num_frames(4800)
    changed, _ = inputs(batch, options)
    shifts = set()
    for row, plain in zip(changed, inputs(unmarked(batch), options)[0], strict=True):
        back = [np.roll(row, -shift, axis=0) - plain for shift in range(64)]
        shift = int(np.argmin([np.abs(noise).max() for noise in back]))
        assert 0 <= back[shift].min() + 1e-5 < back[shift].max() < 0.1
        assert back[shift][sounding:].std() > 0
        shifts.add(shift)
    assert len(shifts) > 4


@pytest.mark.slow
def test_mixtures_are_made_before_the_spectrogram() -> None:
    options = AugmentConfig(mixup=0.5)
    batch = train_batch(options, seconds=0.5)
    fbank, image = inputs(batch, options)
    mixed = mix_waveforms(batch["waveform"], batch["waveform_b"], batch["mix"], batch["samples"], batch["samples_b"])
    np.testing.assert_allclose(fbank, (padded_fbank(mixed, batch["samples"], 64) + 5.081) / 4.4849, atol=1e-3)
    pictures = np.asarray(mix_images(batch["image"], batch["image_b"], batch["mix"])) / 255
    np.testing.assert_allclose(image, (pictures - IMAGENET_MEAN) / IMAGENET_STD, atol=1e-5)
    alone = np.asarray(batch["mix"]) == 1
    assert 0 < alone.sum() < 8
    plain = inputs(unmarked(batch), options)
    for got, expected in zip((fbank, image), plain, strict=True):
        np.testing.assert_allclose(got[alone], expected[alone], atol=1e-3)
    assert (np.abs(fbank - plain[0])[~alone].max(axis=(1, 2)) > 0.1).all()


@pytest.mark.slow
def test_a_part_of_a_batch_looks_as_in_the_whole() -> None:
    """What is drawn belongs to the clip: micro-batches and devices change nothing."""
    batch = train_batch(ALL_ON)
    whole = inputs(batch, ALL_ON)
    part = inputs({name: value[2:5] for name, value in batch.items()}, ALL_ON)
    for got, expected in zip(part, whole, strict=True):
        np.testing.assert_allclose(got, expected[2:5], atol=1e-4)


def test_evaluation_is_never_augmented() -> None:
    (batch,) = (arrays(batch) for batch in eval_batches(Clips(8), CONFIG.model, CONFIG.data, 8))
    for got, expected in zip(inputs(batch, ALL_ON), inputs(batch, AugmentConfig()), strict=True):
        np.testing.assert_array_equal(got, expected)


def loss(task: PretrainingTask, model: registry.Model, batch: dict[str, jax.Array]) -> float:
    """Computes the loss of a training step with all random draws from one key."""

    @nnx.jit
    def total(model: registry.Model, batch: dict[str, jax.Array]) -> jax.Array:
        losses, _ = task.losses(model, batch, Context(jax.random.key(3), 1, {}))
        return weighted_sum(losses, task.loss_weights)

    return float(total(model, batch))


@pytest.mark.slow
def test_the_pretraining_loss_is_augmented_in_training_alone() -> None:
    model = registry.build(CONFIG.model, rngs=nnx.Rngs(0))
    plain, augmented = (PretrainingTask(config, None, Path("unused")) for config in (CONFIG, with_options(ALL_ON)))
    batch = train_batch(ALL_ON)
    (held_out,) = (arrays(batch) for batch in eval_batches(Clips(8), CONFIG.model, CONFIG.data, 8))
    assert loss(augmented, model, held_out) == loss(plain, model, held_out)
    assert abs(loss(augmented, model, batch) - loss(plain, model, unmarked(batch))) > 1e-3


@pytest.mark.parametrize("modality", ["audio", "image"])
@pytest.mark.slow
def test_one_modality_is_trained_and_drawn_without_the_other(modality: str, tmp_path: Path) -> None:
    config = apply(with_options(ALL_ON), {})
    config.model = dataclasses.replace(config.model, kind="mae", modality=modality)
    model = registry.build(config.model, rngs=nnx.Rngs(0))
    task = PretrainingTask(config, Clips(6), tmp_path)
    batches = TrainBatches(Clips(8), config.model, config.data, 4, 0, TrainOptions(augment=config.augment))
    batch = arrays(next(batches))
    batches.close()
    assert list(model_inputs(batch, config)) == [modality]
    assert np.isfinite(loss(task, model, batch))
    task.draw(model, 1)
    assert (tmp_path / "pictures" / "reconstructions_0000001.png").is_file()
