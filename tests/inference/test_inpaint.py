"""Inpainting: what is hidden is what was asked for, the rest stays, and sounds end where the clip ends."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avmae_jax.config import AppliedConfig, Config, LossConfig, ModelConfig
from avmae_jax.config_history import older_kind
from avmae_jax.data.clip import Clip
from avmae_jax.data.fbank import log_mel
from avmae_jax.files import file_names
from avmae_jax.inference.inpaint import LOUDEST, Inpainted, Inpainter
from avmae_jax.weights import io
from avmae_jax.weights.trained import Trained
from tests.support import TINY, Clips, apply, made

CONFIG = AppliedConfig(apply(Config(), TINY).model, loss=LossConfig(norm_pix=False))
CLIP = Clips(1)[0]  # 0.7 s, longer than the model's 0.64


def small(sizes: ModelConfig, classes: int = 0) -> Any:
    """A model with weights small enough for its predictions to be sound."""
    found = made(sizes, classes)
    return io.made(found._replace(params={name: 0.1 * value for name, value in found.params.items()}))


def trained(model: Any, **sizes: Any) -> Trained:
    sizes["kind"] = older_kind(sizes.get("modality", "both"), classifies=hasattr(model, "head"))
    return Trained("model", model, dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **sizes)), 0, ())


@pytest.fixture(scope="module")
def inpaint() -> Inpainter:
    """Shared, since it is compiled once."""
    masking = {"audio_mask_ratio": 0.5, "image_mask_ratio": 0.25, "audio_mask_mode": "time"}
    shared = Inpainter(trained(small(CONFIG.model)), masking)
    shared(CLIP, seed=0)
    return shared


def hidden(found: Inpainted, name: str) -> np.ndarray:
    """bool[rows, columns] of patches."""
    return found.panels[name].hidden[0, ::16, ::16]


def test_what_is_hidden_is_what_was_asked_for(inpaint: Inpainter) -> None:
    found, again = inpaint(CLIP, seed=0), inpaint(CLIP, seed=0)
    assert (hidden(found, "audio").all(axis=0).sum(), hidden(found, "audio").mean()) == (2, 0.5)  # of 4 columns
    assert hidden(found, "image").mean() == 0.25
    np.testing.assert_array_equal(found.panels["image"].reconstructed, again.panels["image"].reconstructed)
    assert any((hidden(inpaint(CLIP, seed), "audio") != hidden(found, "audio")).any() for seed in range(1, 9))


def test_what_is_seen_stays_as_it_was(inpaint: Inpainter) -> None:
    for panels in inpaint(CLIP, seed=0).panels.values():
        seen = ~panels.hidden
        np.testing.assert_array_equal(panels.reconstructed[seen], panels.original[seen])
        assert (panels.reconstructed[~seen] != panels.original[~seen]).mean() > 0.9


@pytest.mark.slow
def test_a_right_reconstruction_sounds_like_the_original(inpaint: Inpainter) -> None:
    found = inpaint(CLIP, seed=0)
    panels = found.panels["audio"]
    sounds = inpaint.waveforms(found._replace(panels={"audio": panels._replace(reconstructed=panels.original)}))
    assert sounds is not None
    np.testing.assert_array_equal(sounds.original, sounds.reconstructed)
    assert np.abs(sounds.original).max() == pytest.approx(LOUDEST)


@pytest.mark.slow
def test_a_sound_ends_where_its_clip_ends(inpaint: Inpainter) -> None:
    found = inpaint(CLIP._replace(waveform=CLIP.waveform[:5000]), seed=0)
    sounds = inpaint.waveforms(found)
    assert sounds is not None
    assert found.frames == 29  # (5000 - 400) // 160 + 1
    assert len(sounds.original) == len(sounds.reconstructed) == len(sounds.masked) == 28 * 160 + 400


def test_what_was_hidden_is_silent_in_the_masked_audio(inpaint: Inpainter) -> None:
    found = inpaint(CLIP, seed=0)  # whole columns of 16 frames are hidden
    sounds = inpaint.waveforms(found)
    assert sounds is not None
    loudness = {True: list[float](), False: list[float]()}
    for column, is_hidden in enumerate(np.atleast_1d(hidden(found, "audio").all(axis=0))):
        middle = slice((16 * column + 5) * 160, (16 * column + 11) * 160)  # away from windows that reach into neighbours
        loudness[bool(is_hidden)].append(float(np.abs(sounds.masked[middle]).mean()))
    assert max(loudness[True]) < 0.05 * min(loudness[False])
    assert np.abs(sounds.masked).max() <= 1


@pytest.mark.parametrize("normalise", ["dataset", "clip"])
def test_panels_know_their_padding_and_their_levels(inpaint: Inpainter, normalise: str) -> None:
    own = trained(inpaint.model)
    own = dataclasses.replace(own, config=dataclasses.replace(own.config, data=dataclasses.replace(own.config.data, normalise=normalise)))
    short = CLIP._replace(waveform=CLIP.waveform[:5000])
    panels = Inpainter(own)(short, seed=0).panels["audio"]
    mean, std = panels.scale(0)
    assert panels.held(0) == 29
    expected = log_mel(short.waveform.astype(np.float32) / 32_768, panels.original.shape[1]).T
    np.testing.assert_allclose(panels.original[0, :, :29, 0] * std + mean, expected, atol=1e-3)


def test_both_sounds_have_one_gain(inpaint: Inpainter) -> None:
    """A reconstruction that is too quiet must be heard as such."""
    found = inpaint(CLIP, seed=0)
    panels = found.panels["audio"]
    quiet = panels.original - 2 / inpaint.config.data.normalisation[1]  # nepers of energy: 1 of amplitude
    sounds = inpaint.waveforms(found._replace(panels={"audio": panels._replace(reconstructed=quiet)}))
    assert sounds is not None
    assert np.abs(sounds.original).max() / np.abs(sounds.reconstructed).max() == pytest.approx(np.e, rel=0.1)


@pytest.mark.parametrize(("modality", "frames"), [("audio", 0), ("image", 1)])
@pytest.mark.slow
def test_a_model_of_one_modality_fills_in_its_own(modality: str, frames: int) -> None:
    sizes = dataclasses.replace(CONFIG.model, modality=modality)
    clip = Clip("one", CLIP.waveform if modality == "audio" else CLIP.waveform[:0], CLIP.frames[:frames], ())
    inpaint = Inpainter(trained(small(sizes), modality=modality), {f"{modality}_mask_ratio": 0.5})
    found = inpaint(clip, seed=0)
    assert (inpaint.needs, list(found.panels)) == (modality, [modality])
    assert hidden(found, modality).mean() == 0.5
    assert (inpaint.waveforms(found) is not None) == (modality == "audio")


def test_a_classifier_has_nothing_to_fill_in_with() -> None:
    with pytest.raises(ValueError, match=r"classifier.*decoder"):
        Inpainter(trained(small(CONFIG.model, 3)))


@pytest.mark.parametrize("masking", [{"audio_mask_ratio": 1.0}, {"image_mask_ratio": -0.1}, {"audio_mask_mode": "all"}])
def test_impossible_masks_are_refused(inpaint: Inpainter, masking: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(masking))):
        Inpainter(trained(inpaint.model), masking)


@pytest.mark.parametrize(
    ("modality", "masking"),
    [("audio", {"image_mask_ratio": 0.5}), ("image", {"audio_mask_ratio": 0.5}), ("image", {"audio_mask_mode": "time"})],
)
def test_masks_of_what_the_model_lacks_are_refused(modality: str, masking: dict[str, Any]) -> None:
    sizes = dataclasses.replace(CONFIG.model, modality=modality)
    with pytest.raises(ValueError, match=rf"{next(iter(masking))}.*{modality} alone"):
        Inpainter(trained(small(sizes), modality=modality), masking)


def test_predictions_that_are_not_finite_make_no_sound(inpaint: Inpainter) -> None:
    found = inpaint(CLIP, seed=0)
    panels = found.panels["audio"]._replace(reconstructed=np.full_like(found.panels["audio"].original, np.nan))
    with pytest.raises(ValueError, match="finite"):
        inpaint.waveforms(found._replace(panels={"audio": panels}))


def test_a_clip_without_what_the_model_needs_is_named(inpaint: Inpainter) -> None:
    with pytest.raises(ValueError, match=r"clip0.*image"):
        inpaint(CLIP._replace(frames=()), seed=0)


def test_no_two_clips_share_a_file() -> None:
    assert file_names(["x", "X", "x", "x_2", "y"]) == ["x", "X_2", "x_3", "x_2_2", "y"]
    assert file_names(["../../etc/a b", ".hidden", "", "日"]) == ["_.._etc_a_b", "hidden", "clip", "_"]
    assert all(len(name) <= 90 and Path(name).name == name for name in file_names(["long" * 100] * 3))


@pytest.mark.slow
def test_a_clip_normalised_by_its_own_numbers_sounds_as_loud_as_it_is(inpaint: Inpainter) -> None:
    own = trained(inpaint.model)
    own = dataclasses.replace(own, config=dataclasses.replace(own.config, data=dataclasses.replace(own.config.data, normalise="clip")))
    sounds, expected = (found.waveforms(found(CLIP, seed=0)) for found in (Inpainter(own), inpaint))
    assert sounds is not None
    assert expected is not None
    before, after = (found.original / np.abs(found.original).max() for found in (sounds, expected))
    np.testing.assert_allclose(before, after, atol=1e-2)
