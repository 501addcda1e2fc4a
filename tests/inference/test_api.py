"""Tests the models and results of the public API: arrays and lists, saving, short descriptions, what is no input."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import avmae_jax
from avmae_jax import embed, load, predict
from avmae_jax.errors import ClipError, WeightsError
from avmae_jax.inference.api import Model
from tests.media import numbered, tone


def test_arrays_give_what_their_files_give(trained: Model, folder: Path) -> None:
    sound, picture = folder / "media/sound.wav", folder / "media/picture.png"
    waveform = np.rint(32_768 * tone(500, 2)).clip(-32_768, 32_767).astype(np.int16)
    files = predict(trained, audio=sound, image=picture)
    assert (files.windows, files.seen) == (2, "both")  # the second one begins at 0.4 s
    assert files.match is not None
    floats = waveform.astype(np.float64) / 32_768
    for audio in (waveform, floats.astype(np.float32), floats, np.stack([floats, 0 * floats], axis=1)):
        arrays = predict(trained, audio=audio, image=numbered(77))
        np.testing.assert_allclose(arrays.probabilities, files.probabilities, atol=2e-3)  # the file's picture was shrunk in another way
        np.testing.assert_allclose(predict(trained, audio=audio).probabilities, predict(trained, sound).probabilities, atol=1e-4)
    fast = predict(trained, audio=tone(500, 2, rate=48_000).astype(np.float64)[:, None], sample_rate=48_000)
    np.testing.assert_allclose(fast.probabilities, predict(trained, sound).probabilities, atol=5e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"audio.*image"),
        ({"audio": np.zeros(16_000, np.int32)}, r"audio.*int32\[16000\]"),
        ({"audio": np.zeros((2, 16_000), np.float32)}, r"audio.*float32\[2, 16000\]"),
        ({"audio": np.full(16_000, 300, np.float32)}, r"300;.* \[-1, 1\]"),
        ({"audio": np.full(16_000, np.nan, np.float32)}, "16000"),
        ({"audio": np.zeros(399, np.int16)}, r"399 .* 400"),
        ({"audio": np.zeros(16_000, np.int16), "sample_rate": 0}, r"sample_rate.* 0"),
        ({"audio": np.zeros(16_000, np.int16), "sample_rate": 44.1}, r"sample_rate.*44\.1"),
        ({"image": np.zeros((32, 32), np.uint8)}, r"image.*uint8\[32, 32\]"),
        ({"image": np.zeros((32, 32, 3), np.float32)}, r"image.*float32"),
        ({"media": "x.mp4", "audio": np.zeros(16_000, np.int16)}, "audio"),
        ({"media": np.zeros(16_000, np.int16)}, r"media.*ndarray"),
    ],
)
def test_what_is_no_input_is_named(given: dict[str, Any], said: str, trained: Model) -> None:
    for ask in (predict, embed):
        with pytest.raises(ValueError, match=said):
            ask(trained, **given)


def test_options_that_cannot_be_are_named(trained: Model) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [({"given": "none"}, "'none'"), ({"frames": "none"}, "frames"), ({"top": 0}, r"top.* 0")]
    for options, said in wrong:
        with pytest.raises(ValueError, match=said):
            predict(trained, image=numbered(1), **options)


def test_files_that_are_no_input_are_named(trained: Model, folder: Path) -> None:
    for options, said in (
        ({"media": "nowhere.mp4"}, r"nowhere\.mp4"),
        ({"media": folder / "media/empty.wav"}, r"empty\.wav"),
        ({"image": folder / "media/film.mp4"}, r"film\.mp4.*image"),
        ({"audio": folder / "media/picture.png"}, r"picture\.png.*audio"),
    ):
        with pytest.raises(ClipError, match=said):
            predict(trained, **options)


@pytest.mark.slow
def test_a_list_gives_results_in_order_with_errors_in_their_places(trained: Model, folder: Path) -> None:
    media = [folder / "media" / name for name in ("film.mp4", "empty.wav", "picture.png", "sound.wav")]
    for results, single in ((trained.predict([*map(str, media)]), trained.predict), (trained.embed(media), trained.embed)):
        assert isinstance(results[1], ClipError)
        assert results[1].path == str(media[1])
        for number in (0, 2, 3):
            expected = single(media[number])
            assert repr(results[number]) == repr(expected)
            assert results[number].windows == expected.windows
    assert trained.predict([]) == []


@pytest.mark.parametrize("name", ["again.safetensors", "again"])
def test_a_saved_model_predicts_the_same(name: str, trained: Model, folder: Path, tmp_path: Path) -> None:
    trained.save(tmp_path / name)
    again = load(tmp_path / name)
    assert (again.kind, again.label_names, again.config) == (trained.kind, trained.label_names, trained.config)
    expected = trained.predict(folder / "media/sound.wav")
    np.testing.assert_array_equal(again.predict(folder / "media/sound.wav").probabilities, expected.probabilities)
    with pytest.raises(WeightsError, match=name):
        trained.save(tmp_path / name)


def test_a_model_and_its_results_have_short_descriptions(trained: Model, folder: Path) -> None:
    many = dataclasses.replace(trained, label_names=("a very long name of a class " * 9,) * 4, path="long/" * 99)
    for model in (trained, many):
        assert len(repr(model).splitlines()) <= 4
        assert len(repr(model)) < 400
    assert all(part in repr(trained) for part in ("cavmae_classifier", "4 classes", "harp", "160", "multimodal"))
    found = trained.predict(folder / "media/sound.wav", top=2)
    assert all(f"{name} {probability:.1%}" in repr(found) for name, probability in found.top)
    assert "\n" not in repr(found)
    assert "audio [16]" in repr(trained.embed(folder / "media/sound.wav"))


def test_every_public_name_is_listed_and_can_be_imported() -> None:
    names = dir(avmae_jax)
    assert {"load", "predict", "embed", "pretrain", "finetune", "Config", "ModelConfig", "AvmaeError", "AST", "MAE", "CAVMAE"} <= {*names}
    assert [name for name in names if getattr(avmae_jax, name, None) is None] == []
    assert re.match(r"\d", avmae_jax.__version__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = avmae_jax.nothing
