"""Tests what models of pairs make of media: windows as long as a clip, with their images and where the audio around each begins."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avmae_jax import load
from avmae_jax.data.frontend import model_inputs
from avmae_jax.data.pairs import window_starts
from avmae_jax.demo.answers import Answerer
from avmae_jax.demo.limits import Limits, look_at
from avmae_jax.errors import ClipError
from avmae_jax.inference.along_time import MATCH, AlongTime, Budget
from avmae_jax.inference.api import Model
from avmae_jax.inference.explain import Explainer
from avmae_jax.inference.file_match import FileMatch, FileMatcher
from avmae_jax.inference.forward import probabilities
from avmae_jax.inference.inpaint import Inpainter
from avmae_jax.inference.match_over_time import MomentEmbedder
from avmae_jax.inference.offset import Calibration
from avmae_jax.inference.predict import Prediction
from avmae_jax.inference.windows import Medium, Row, decode_beginning, images_of, of_file, of_parts, rows_of
from avmae_jax.weights.io import write
from tests.inference.tiny_models import NAMES, SYNC, TUNED_SYNC, weights
from tests.media import numbered, tone, write_media

FRAMES = 5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root = tmp_path_factory.mktemp("pairs")
    write(weights(0, 1, SYNC, frames=FRAMES), root / "sync.safetensors")
    write(weights(4, 0, TUNED_SYNC, loss="ce", label_names=NAMES, frames=FRAMES), root / "tuned.safetensors")
    return {name: load(root / f"{name}.safetensors") for name in ("sync", "tuned")}


def rows(model: Model, medium: Medium) -> list[Row]:
    return list(rows_of(medium, 0, model.config))


def inputs_of(model: Model, row: Row) -> dict[str, jax.Array]:
    return model_inputs({name: jnp.asarray(value)[None] for name, value in row.arrays.items()}, model.config)


@pytest.mark.parametrize(("name", "windows"), [("film.mp4", 4), ("deep/short.mp4", 1), ("sound.wav", 2), ("picture.png", 1)])
def test_a_row_is_a_window_with_its_images(name: str, windows: int, models: dict[str, Model], folder: Path) -> None:
    model = models["sync"]
    found = rows(model, of_file(folder / "media" / name))
    assert len(found) == windows
    for row in found:
        assert row.share == 1
        if row.has != "audio":
            assert row.arrays["image"].shape == (FRAMES, 32, 32, 3)
        if row.has != "image":
            assert row.arrays["waveform"].shape == (159 * 160 + 400,)
            # an image is the last of 10 a second whose time is over
            np.testing.assert_allclose(row.arrays["window"], window_starts(np.arange(FRAMES) * 0.32, SYNC), atol=20)


@pytest.mark.parametrize("seconds", [1.6, 0.8])
def test_a_still_is_paired_with_all_of_the_audio(seconds: float, models: dict[str, Model], tmp_path: Path) -> None:
    cover = write_media(tmp_path / "cover.mov", frames=[numbered(7)], sound=tone(440, seconds), audio_codec="pcm_s16le")
    for medium in (of_parts(tone(440, seconds), numbered(7)), of_file(cover)):
        (row,) = rows(models["sync"], medium)
        np.testing.assert_array_equal(row.arrays["window"], window_starts(np.arange(FRAMES) * seconds / FRAMES, SYNC))
        assert len({image.tobytes() for image in row.arrays["image"]}) == 1


def test_an_image_that_goes_on_being_shown_is_paired_with_the_audio_of_the_moment(models: dict[str, Model], tmp_path: Path) -> None:
    file = write_media(tmp_path / "x.mp4", frames=[numbered(5), numbered(10), numbered(3)], frame_rate=2, sound=tone(440, 1.6))
    row = rows(models["sync"], of_file(file))[0]
    assert len({image.tobytes() for image in row.arrays["image"]}) == 2
    np.testing.assert_allclose(row.arrays["window"], window_starts(np.arange(FRAMES) * 0.32, SYNC), atol=1)


def test_the_number_of_images_is_that_of_the_training_or_the_usual_one(models: dict[str, Model], folder: Path) -> None:
    config = models["sync"].config
    unknown = dataclasses.replace(config, data=dataclasses.replace(config.data, frames=0))
    assert (images_of(config), images_of(unknown)) == (FRAMES, 10)
    assert len(decode_beginning(folder / "media/film.mp4", config).frames) == FRAMES


@pytest.mark.slow
def test_the_match_is_the_mean_over_the_pairs(models: dict[str, Model], folder: Path) -> None:
    file = folder / "media/film.mp4"
    for model in models.values():
        found = model.predict(file)
        module: Any = model.module
        each = [module.embed(inputs_of(model, row)) for row in rows(model, of_file(file))]
        cosines = [float((vectors["audio"] * vectors["image"]).sum(axis=-1).mean()) for vectors in each]
        assert found.match == pytest.approx(np.mean(cosines), abs=1e-5)
        assert found.start == pytest.approx(1.6 * np.argmax(cosines)) or found.top
        assert np.linalg.norm(found.directions[0]) == pytest.approx(1, abs=1e-5)
        mean = sum(vectors["audio"][0].mean(axis=0) for vectors in each)
        np.testing.assert_allclose(model.embed(file).audio, mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.parametrize("name", ["film.mp4", "sound.wav", "picture.png"])
def test_a_classifier_of_pairs_takes_what_there_is(name: str, models: dict[str, Model], folder: Path) -> None:
    model, file = models["tuned"], folder / "media" / name
    found, windows = model.predict(file), rows(model, of_file(file))
    assert found.mode
    module: Any = model.module
    expected = [probabilities(model.config, module(inputs_of(model, row), found.mode))[0] for row in windows]
    np.testing.assert_allclose(found.probabilities, np.mean(expected, axis=0), atol=1e-5)
    assert set(model.embed(file).__dict__) >= {"audio", "image"}


def test_the_match_may_come_from_the_model_before_tuning_and_from_no_other_kind(models: dict[str, Model], trained: Model) -> None:
    given: dict[str, Any] = {"audio": tone(300, 2), "image": numbered(3)}
    both = [models["tuned"].predict(**given, match_with=models["sync"]), models["sync"].predict(**given)]
    assert both[0].match == pytest.approx(both[1].match, abs=1e-5)
    with pytest.raises(ValueError, match=r"windows of 64 .*; they must agree"):
        models["tuned"].predict(**given, match_with=trained)


def test_a_classifier_that_leaves_the_joint_blocks_behind_gives_no_match(models: dict[str, Model], tmp_path: Path) -> None:
    config = dataclasses.replace(TUNED_SYNC, pair_pool="late", pair_depth=1)
    write(weights(4, 0, config, loss="ce", label_names=NAMES, frames=FRAMES), tmp_path / "late.safetensors")
    late = load(tmp_path / "late.safetensors")
    given: dict[str, Any] = {"audio": tone(300, 2), "image": numbered(3)}
    assert late.predict(**given).match is None
    with pytest.raises(ValueError, match="pair_pool=late"):
        models["tuned"].predict(**given, match_with=late)


@pytest.mark.parametrize("name", ["sync", "tuned"])
@pytest.mark.slow
def test_along_time_and_on_the_page_it_is_the_same(name: str, models: dict[str, Model], folder: Path) -> None:
    model, file = models[name], folder / "media/film.mp4"
    alone: Prediction = model.predict(file)
    course: Any = AlongTime(model, threading.Lock())(of_file(file), 0.0, Budget())
    assert course
    assert course.mean(MATCH) == pytest.approx(alone.match, abs=1e-5)
    if alone.top:
        np.testing.assert_allclose(course.mean("both"), alone.probabilities, atol=1e-5)
        assert model.predict(file, timeline=True).timeline.shape == (5, 4)
    answerer = Answerer(model, Limits())
    shown: Any = answerer.pictures(answerer.answer(look_at(file, Limits())))
    assert shown
    assert (shown.image.shape, shown.heat) == ((32, 32, 3), {})
    with pytest.raises(ValueError, match=r"Sync.* can't be explained"):
        Explainer(model)


def test_a_film_is_matched_along_time_in_one_call(models: dict[str, Model], folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, film = models["sync"], folder / "media/film.mp4"
    found: FileMatch = model.match_timeline(film, rate=5, heat=True)
    assert found.timeline.seconds.tolist() == [0, 1, 2, 3, 4]
    assert found.offset.seconds is None  # the weights are random
    assert "can't tell" in repr(found)
    assert not found.calibrated
    assert found.vectors.heat is not None
    assert found.vectors.heat.shape == (len(found.vectors.times), 2, 2)
    assert np.isnan(found.timeline.clip_rank).all()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        again = model.match_timeline(film, rate=5, heat=True)
    np.testing.assert_array_equal(again.timeline.match, found.timeline.match)
    assert not [line for line in caplog.messages if "Compiling" in line and "outputs" in line]
    matcher = FileMatcher(MomentEmbedder(model))
    matcher.calibration = Calibration(rate=5.0)
    np.testing.assert_array_equal(matcher(film).vectors.times, found.vectors.times)  # at the rate of the calibration
    others = {name: np.random.default_rng(0).normal(size=(4, 5, 16)).astype(np.float32) for name in ("audio", "image")}
    pair: list[Any] = model.match_timeline([film, folder / "media/sound.wav"], others=others)
    assert np.isfinite(pair[0].timeline.clip_rank).all()
    assert isinstance(pair[1], ClipError)
    with pytest.raises(ClipError, match="is an image"):
        model.match_timeline(folder / "media/picture.png")


def test_the_middle_pair_is_filled_in(models: dict[str, Model], folder: Path) -> None:
    inpainter = Inpainter(models["sync"])
    found = inpainter(decode_beginning(folder / "media/film.mp4", inpainter.config, "both"), seed=0)
    assert found.panels["audio"].original.shape == (1, 32, 64, 1)
    assert found.frames == 64
