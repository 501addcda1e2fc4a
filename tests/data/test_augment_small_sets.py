"""Tests random levels, timbres, colours and hidden rectangles, and the normalisation of a clip by its own numbers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avmae_jax.config import AugmentConfig, Config
from avmae_jax.data.augment import alter_audio, alter_colours, cut_out
from avmae_jax.data.batches import TrainBatches, TrainOptions, eval_batches
from avmae_jax.data.fbank import num_frames, padded_fbank
from avmae_jax.data.frontend import model_inputs, normalisation
from tests.support import TINY, Clips, apply

CONFIG = apply(Config(), TINY)
CLIP = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, normalise="clip"))
DECIBEL = np.log(10) / 10
ALL_ON: dict[str, Any] = {
    "gain": 6.0,
    "equaliser": 6.0,
    "mel_shift": 2.0,
    "noise_floor": 20.0,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
}
ALL_ON |= {"hue": 0.1, "cutout": 0.2, "specaug_freq": 8, "specaug_time": 8, "noise": True}
RNG = np.random.default_rng(0)
FBANK = jnp.asarray(RNG.standard_normal((40, 30, 16)), jnp.float32)
HELD = jnp.asarray(np.arange(30)[None] < np.arange(1, 41)[:, None] % 29 + 2)
IMAGES = jnp.asarray(RNG.random((40, 12, 16, 3)), jnp.float32)


def keys(seed: int = 0, count: int = 40) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def altered(**options: float) -> np.ndarray:
    fbank = jnp.where(HELD[..., None], FBANK, 0.0)
    return np.asarray(jax.jit(lambda fbank: alter_audio(fbank, HELD, keys(), AugmentConfig(**options)))(fbank))  # pyright: ignore[reportArgumentType]


def inside(values: np.ndarray) -> list[np.ndarray]:
    """Returns the frames with audio of each clip; the others must be 0."""
    held = np.asarray(HELD)
    assert not values[~held].any()
    return [clip[frames] for clip, frames in zip(values, held, strict=True)]


def changes(**options: float) -> list[np.ndarray]:
    return [after - before for after, before in zip(inside(altered(**options)), inside(altered()), strict=True)]


def test_gain_is_one_number_of_decibels_a_clip() -> None:
    found = changes(gain=6.0)
    for change in found:
        np.testing.assert_allclose(change, change[0, 0], atol=1e-5)
    decibels = np.array([change[0, 0] for change in found]) / DECIBEL
    assert -6 <= decibels.min() < -3 < 3 < decibels.max() <= 6


def test_the_equaliser_is_a_smooth_curve_over_the_bins() -> None:
    found = changes(equaliser=6.0)
    for change in found:
        np.testing.assert_allclose(change, np.broadcast_to(change[:1], change.shape), atol=1e-5)
    curves = np.stack([change[0] for change in found]) / DECIBEL
    assert 3 < np.abs(curves).max() <= 6 + 1e-4
    assert np.abs(np.diff(curves, axis=1)).max() < 6  # from one point to the next are three bins
    assert (curves.std(axis=1) > 0.3).all()


def test_a_shift_moves_the_spectrogram_along_the_bins() -> None:
    line = jnp.broadcast_to(jnp.arange(16.0)[None, None], FBANK.shape)  # its value says which bin it was
    found = np.asarray(alter_audio(line, jnp.ones_like(HELD), keys(), AugmentConfig(mel_shift=3.0)))
    shifts = 8 - found[:, 0, 8]
    assert -3 <= shifts.min() < -1.5 < 1.5 < shifts.max() <= 3
    for clip, shift in zip(found, shifts, strict=True):
        np.testing.assert_allclose(clip, np.broadcast_to(np.clip(np.arange(16) - shift, 0, 15), clip.shape), atol=1e-4)


def test_noise_lies_at_least_its_decibels_below_the_mean_power() -> None:
    before, after = inside(altered()), inside(altered(noise_floor=10.0))
    for plain, noisy in zip(before, after, strict=True):
        noise = np.exp(noisy) - np.exp(plain)
        assert (noise > -1e-5).all()
        ratio = -10 * np.log10(noise.mean() / np.exp(plain).mean())
        assert 10 - 3 < ratio < 40 + 3  # of few values in the shortest clips
    quiet = np.full((1, 3, 4), -30.0, np.float32)
    found = np.asarray(alter_audio(jnp.asarray(quiet), jnp.zeros((1, 3), bool), keys(count=1), AugmentConfig(noise_floor=10.0)))
    np.testing.assert_array_equal(found, 0)  # no audio at all


def colours(images: Any = IMAGES, **options: float) -> np.ndarray:
    found = jax.jit(lambda images: alter_colours(images, keys(), AugmentConfig(**options)))(images)  # pyright: ignore[reportArgumentType]
    assert 0 <= found.min() <= found.max() <= 1
    return np.asarray(found)


def test_brightness_multiplies_all_values() -> None:
    dim = IMAGES * 0.5
    factors = colours(dim, brightness=0.4) / np.asarray(dim)
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1, :1], factors.shape), rtol=1e-3)
    assert 0.6 <= factors.min() < 0.8 < 1.2 < factors.max() <= 1.4 + 1e-4


def test_contrast_and_saturation_keep_the_mean_grey_and_each_grey() -> None:
    soft = 0.4 + 0.2 * IMAGES
    weights = np.array([0.299, 0.587, 0.114])
    contrast, saturation = colours(soft, contrast=0.5), colours(soft, saturation=0.5)
    np.testing.assert_allclose((contrast @ weights).mean(axis=(1, 2)), (np.asarray(soft) @ weights).mean(axis=(1, 2)), atol=1e-4)
    np.testing.assert_allclose(saturation @ weights, np.asarray(soft) @ weights, atol=1e-4)
    for changed in (contrast, saturation):
        spread = changed.std(axis=(1, 2, 3)) / np.asarray(soft).std(axis=(1, 2, 3))
        assert spread.min() < 0.95 < 1.05 < spread.max()


def test_hue_turns_colours_and_leaves_greys() -> None:
    grey = jnp.full((40, 2, 2, 3), 0.4)
    np.testing.assert_allclose(colours(grey, hue=0.5), grey, atol=2e-3)
    red = jnp.broadcast_to(jnp.array([0.5, 0.3, 0.3]), (40, 2, 2, 3))
    turned = colours(red, hue=0.5)[:, 0, 0]
    np.testing.assert_allclose(turned @ [0.299, 0.587, 0.114], 0.3598, atol=2e-3)
    assert (turned.argmax(axis=1) != 0).any()
    assert np.abs(colours(red, hue=0.02)[:, 0, 0] - [0.5, 0.3, 0.3]).max() < 0.05


@pytest.mark.parametrize("area", [0.05, 0.25, 0.95])
def test_a_rectangle_of_the_area_is_hidden_in_each_image(area: float) -> None:
    images = jnp.ones((40, 60, 80, 3))
    found = np.asarray(cut_out(images, keys(), area))
    hidden = (found == 0).all(axis=-1)
    assert (found[~hidden] == 1).all()
    np.testing.assert_allclose(hidden.mean(axis=(1, 2)), area, rtol=0.15)
    assert len({mask.tobytes() for mask in hidden}) > 10
    for mask in hidden:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def train_batch(options: AugmentConfig, seconds: float = 0.5) -> dict[str, jax.Array]:
    batches = TrainBatches(Clips(20, seconds=seconds), CONFIG.model, CONFIG.data, 6, 0, TrainOptions(augment=options))
    batch = next(batches)
    batches.close()
    return {name: jnp.asarray(value) for name, value in batch.items() if name != "id"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL_ON if name not in ("specaug_freq", "specaug_time", "noise")])
def test_each_option_changes_its_own_modality_by_the_seeds_of_the_clips(name: str) -> None:
    options = AugmentConfig(**{name: ALL_ON[name]})
    batch, config = train_batch(options), dataclasses.replace(CONFIG, augment=options)
    plain, once, again = (model_inputs(batch, config) for config in (CONFIG, config, config))
    other = model_inputs(batch | {"augment_seed": batch["augment_seed"] + 1}, config)
    own, rest = ("audio", "image") if options.changes_audio else ("image", "audio")
    assert ((once[own] != plain[own]).any(axis=tuple(range(1, once[own].ndim)))).all()
    assert (once[own] != other[own]).any()
    np.testing.assert_array_equal(once[own], again[own])
    np.testing.assert_array_equal(once[rest], plain[rest])
    part = model_inputs({key: value[2:4] for key, value in batch.items()}, config)
    np.testing.assert_allclose(part[own], once[own][2:4], atol=1e-4)


@pytest.mark.slow
def test_evaluation_is_never_augmented_by_any_of_them() -> None:
    (batch,) = eval_batches(Clips(4), CONFIG.model, CONFIG.data, 4)
    arrays = {name: jnp.asarray(value) for name, value in batch.items() if name != "id"}
    on = dataclasses.replace(CONFIG, augment=AugmentConfig(**ALL_ON))
    for name, value in model_inputs(arrays, CONFIG).items():
        np.testing.assert_array_equal(model_inputs(arrays, on)[name], value)


def test_a_clip_is_normalised_by_its_own_values_where_it_holds_audio() -> None:
    batch = train_batch(AugmentConfig())
    raw = np.asarray(padded_fbank(batch["waveform"], batch["samples"], 64))
    frames = num_frames(8000)
    found = np.asarray(model_inputs(batch, CLIP)["audio"])
    for clip, plain in zip(found, raw, strict=True):
        held = plain[:frames].astype(np.float64)
        np.testing.assert_allclose(clip[:frames], (held - held.mean()) / held.std(), atol=1e-3)
        np.testing.assert_array_equal(clip[frames:], 0)
    mean, std = normalisation(batch, CLIP)
    np.testing.assert_allclose(found * np.asarray(std) + np.asarray(mean), np.where(raw == 0, np.asarray(mean), raw), atol=1e-3)
    assert {float(value.squeeze()) for value in normalisation({k: v[:1] for k, v in batch.items()}, CONFIG)} == {
        np.float32(-5.081),
        np.float32(4.4849),
    }


def test_a_clip_that_is_louder_is_the_same_to_its_own_normalisation() -> None:
    batch = train_batch(AugmentConfig())
    louder = batch | {"waveform": batch["waveform"] * jnp.int16(4)}
    first, second = (model_inputs(each, CLIP)["audio"] for each in (batch, louder))
    plain, loud = (model_inputs(each, CONFIG)["audio"] for each in (batch, louder))
    # not quite, as the lowest mel bins have no energy at all, whatever the level
    assert 5 * np.abs(first - second)[:, :, 20:].max() < np.abs(plain - loud)[:, :48, 20:].min() > 0.5


def test_silence_and_no_audio_are_finite() -> None:
    batch = train_batch(AugmentConfig())
    silent = {"waveform": jnp.zeros_like(batch["waveform"]), "samples": batch["samples"].at[0].set(0)}
    found = np.asarray(model_inputs(silent, CLIP)["audio"])
    np.testing.assert_allclose(found, 0, atol=0.05)


def test_spans_are_the_clips_mean_after_its_own_normalisation() -> None:
    options = AugmentConfig(specaug_freq=60, specaug_time=40)
    batch = train_batch(options)
    plain, changed = (np.asarray(model_inputs(batch, config)["audio"]) for config in (CLIP, dataclasses.replace(CLIP, augment=options)))
    hidden = changed != plain
    assert hidden.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(changed[hidden], 0)
