"""predict, embed and launch.predict: media of any kind and length through a tiny classifier, against the same by hand."""

import dataclasses
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avmae_jax import embed, load, predict
from avmae_jax.config import Config
from avmae_jax.data.decode.form import ClipForm
from avmae_jax.data.decode.many_clips import cut_clips, cut_timed
from avmae_jax.data.example import example
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import ClipError
from avmae_jax.inference.api import Model
from avmae_jax.inference.explain import explainer_of
from avmae_jax.inference.predict import Predictor, by_second
from avmae_jax.inference.stream import Ahead, Series
from avmae_jax.inference.windows import Row, of_file, of_parts, rows_of
from avmae_jax.models.modes import find_mode
from avmae_jax.weights.trained import Trained
from tests.inference.tiny_models import NAMES, SMALL
from tests.media import numbered, tone, write_media

LENGTH = 1.6  # seconds that the model hears


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> Model:
    return load(folder / "pre.safetensors")


def tuned_on(trained: Model, mode: str) -> Model:
    return dataclasses.replace(
        trained, config=dataclasses.replace(trained.config, tune=dataclasses.replace(trained.config.tune, mode=mode))
    )


def by_hand(trained: Trained, path: Path, stride: float = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, C] of the windows of a file with both, and the cosines of sound and picture."""
    samples = (SMALL.audio_frames - 1) * 160 + 400
    form = ClipForm(seconds=LENGTH, frame_size=SMALL.image_size, allow_missing=True)
    clips = [clip for clip, _ in cut_timed(path, clip_id="x", stride=stride, form=form, rest="whole")]
    rows = [example(clip, len(clip.frames) // 2, samples=samples, image_size=SMALL.image_size, fill="repeat") for clip in clips]
    batches = [{name: jnp.asarray(row[name])[None] for name in ("waveform", "samples", "image")} for row in rows]
    logits, audio, image = zip(*(one_by_hand(trained.module, model_inputs(batch, trained.config)) for batch in batches), strict=True)
    return softmax(np.concatenate(logits)), (np.concatenate(audio) * np.concatenate(image)).sum(axis=1)


@nnx.jit
def one_by_hand(model: Any, inputs: Any) -> Any:
    encoder = model.encoder
    means = [encoder.joint(encoder.separate({name: inputs[name]}), name)[f"{name}.patches"].mean(axis=1) for name in ("audio", "image")]
    return model(inputs), *(mean / jnp.linalg.norm(mean, axis=-1, keepdims=True) for mean in means)


def softmax(logits: np.ndarray) -> np.ndarray:
    chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return chances / chances.sum(axis=-1, keepdims=True)


@pytest.mark.slow
def test_the_windows_of_a_film_are_averaged(trained: Model, folder: Path) -> None:
    chances, cosines = by_hand(trained, folder / "media/film.mp4")
    found = predict(trained, folder / "media/film.mp4", top=2)
    assert (found.windows, found.seen, str(found.mode), len(chances)) == (4, "both", "multimodal", 4)
    np.testing.assert_allclose(found.probabilities, chances.mean(axis=0), atol=1e-5)
    assert found.match == pytest.approx(cosines.mean(), abs=1e-5)
    order = np.argsort(-chances.mean(axis=0))[:2]
    assert [name for name, _ in found.top] == [NAMES[label] for label in order]
    assert [value for _, value in found.top] == pytest.approx(found.probabilities[order].tolist())
    assert found.start == pytest.approx([0, 1.6, 3.2, 3.456][chances[:, order[0]].argmax()])  # the last window ends with the audio
    assert found.timeline is None


@pytest.mark.slow
def test_each_second_has_the_classes_of_the_window_around_it(trained: Model, folder: Path) -> None:
    chances, _ = by_hand(trained, folder / "media/film.mp4", stride=1)
    found = predict(trained, folder / "media/film.mp4", timeline=True)
    assert found.timeline is not None
    np.testing.assert_allclose(found.timeline, chances[[0, 1, 2, 3, 4]], atol=1e-5)  # windows of 1.6 s that begin at 0, 1, 2, 3 and 3.456 s
    assert found.timeline.shape == (5, 4)
    np.testing.assert_allclose(found.probabilities, predict(trained, folder / "media/film.mp4").probabilities, atol=1e-6)
    assert predict(trained, folder / "media/picture.png", timeline=True).timeline is None  # it has no seconds


@pytest.mark.parametrize(("given", "seconds"), [(None, 8), ("audio", 8), ("image", 6), ("both", 6)])
def test_a_file_is_cut_by_what_is_given_of_it(given: str | None, seconds: int, trained: Model, tmp_path: Path) -> None:
    path = write_media(tmp_path / "x.mp4", frames=[numbered(number) for number in range(60)], sound=tone(400, 7.95))
    found = trained.predict(path, given=given, timeline=True)
    assert found.timeline.shape == (seconds, 4)
    assert found.windows == (5 if seconds == 8 else 4)
    predictor = Predictor(trained, given=given)
    heat = explainer_of(predictor)(of_file(path), found).row
    assert heat.start == found.start


@pytest.mark.parametrize(("frames", "shots"), [("first", [0]), ("middle", [5]), ("all", list(range(10)))])
def test_the_frames_asked_for_are_looked_at(frames: Any, shots: list[int], folder: Path) -> None:
    film = folder / "media/deep/short.mp4"
    (clip,) = cut_clips(film, clip_id="x", stride=LENGTH, form=ClipForm(seconds=LENGTH, frame_size=SMALL.image_size))
    rows = list(rows_of(of_file(film), 0, Config(model=SMALL), frames=frames))
    for row, shot in zip(rows, shots, strict=True):
        expected = example(clip, shot, samples=len(row.arrays["waveform"]), image_size=SMALL.image_size)
        np.testing.assert_array_equal(row.arrays["image"], expected["image"])
    assert sum(row.share for row in rows) == pytest.approx(1)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 40), length=st.floats(1, 12), rest=st.floats(0, 0.99))
def test_the_window_of_a_second_is_the_one_whose_centre_is_nearest(count: int, length: float, rest: float) -> None:
    starts = np.append(np.arange(count), count - 1 + rest)  # the last window is moved back until it is whole
    probabilities = np.arange(count + 1, dtype=np.float32)[:, None]
    found = by_second(Series(starts, np.full(count + 1, length), ("both",) * (count + 1), {"probabilities": probabilities}, {}))
    centres = starts + length / 2
    assert len(found) == pytest.approx(starts[-1] + length, abs=1.1)
    for second, (window,) in enumerate(found):
        assert abs(centres[int(window)] - second - 0.5) <= np.abs(centres - second - 0.5).min() + 1e-9


def test_all_frames_count_alike_within_a_window(trained: Model, folder: Path) -> None:
    cut = cut_timed(folder / "media/film.mp4", clip_id="x", stride=LENGTH, form=ClipForm(seconds=LENGTH), rest="whole")
    clips = [(clip.waveform, clip.frames) for clip, _ in cut]
    found = predict(trained, folder / "media/film.mp4", frames="all")
    assert found.windows == 4
    first = []
    for waveform, frames in clips:
        pictures = [np.asarray(Image.open(io.BytesIO(frame))) for frame in frames]
        first.append(np.mean([predict(trained, audio=waveform, image=picture).probabilities for picture in pictures], axis=0))
    np.testing.assert_allclose(found.probabilities, np.mean(first, axis=0), atol=2e-3)  # the frames here are shrunk in two steps


@pytest.mark.parametrize(
    ("name", "has", "mode"), [("sound.wav", "audio", "missingaudioonly"), ("picture.png", "image", "missingvideoonly")]
)
def test_a_missing_modality_has_its_mode(name: str, has: str, mode: Any, trained: Model, folder: Path) -> None:
    found = predict(trained, folder / "media" / name)
    assert (found.seen, str(found.mode), found.match) == (has, mode, None)
    (row, *_) = rows_of(of_file(folder / "media" / name), 0, trained.config)
    inputs = model_inputs({key: jnp.asarray(value)[None] for key, value in row.arrays.items()}, trained.config)
    model: Any = trained.module
    logits = np.asarray(nnx.jit(lambda model: model(inputs, find_mode(mode)))(model))[0]
    np.testing.assert_allclose(found.probabilities, softmax(logits), atol=1e-5)
    vectors = embed(trained, folder / "media" / name)
    assert [vector is not None for vector in (vectors.audio, vectors.image, vectors.joint)] == [has == "audio", has == "image", False]


def test_a_model_of_one_modality_says_what_it_lacks(trained: Model, folder: Path) -> None:
    heard, seen = tuned_on(trained, "audioonly"), tuned_on(trained, "videoonly")
    both = predict(heard, folder / "media/film.mp4")
    assert (str(both.mode), both.seen, both.match) == ("audioonly", "both", None)  # what wasn't tuned is no match for what was
    with pytest.raises(ClipError, match=r"picture\.png.*audio.* audioonly"):
        predict(heard, folder / "media/picture.png")
    with pytest.raises(ClipError, match=r"sound\.wav.*image.* videoonly"):
        predict(seen, folder / "media/sound.wav")


@pytest.mark.parametrize("given", ["audio", "missingaudioonly"])
@pytest.mark.slow
def test_what_is_given_has_a_plain_and_an_official_name(given: str, trained: Model, folder: Path) -> None:
    with pytest.raises(ClipError, match=r"picture\.png.*audio.*given=audio"):
        trained.predict(folder / "media/picture.png", given=given)
    found = trained.predict(folder / "media/film.mp4", given=given)
    assert (str(found.mode), found.seen) == ("missingaudioonly", "both")
    np.testing.assert_allclose(found.probabilities, trained.predict(audio=folder / "media/film.mp4").probabilities, atol=1e-5)


@pytest.mark.slow
def test_a_pretraining_model_gives_matches_and_vectors(pretrained: Model, trained: Model, folder: Path) -> None:
    found, vectors = predict(pretrained, folder / "media/film.mp4"), embed(pretrained, folder / "media/film.mp4")
    assert (found.top, found.mode, len(found.probabilities)) == ((), None, 0)
    assert vectors.audio is not None and vectors.image is not None and vectors.joint is not None  # noqa: PT018
    assert found.directions is not None
    np.testing.assert_allclose(found.directions, [vectors.audio, vectors.image], atol=1e-5)
    assert [float(np.linalg.norm(vector)) for vector in (vectors.audio, vectors.image, vectors.joint)] == pytest.approx([1, 1, 1])
    assert predict(trained, folder / "media/film.mp4", match_with=pretrained).match == pytest.approx(found.match, abs=1e-5)
    with pytest.raises(ClipError, match=r"sound\.wav.*image.*fine-tune"):
        predict(pretrained, folder / "media/sound.wav")
    for options in ({"timeline": True}, {"given": "both"}):
        with pytest.raises(ValueError, match=r"classes.*fine-tune"):
            predict(pretrained, folder / "media/film.mp4", **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_batches_are_shared_and_change_nothing(trained: Model, folder: Path) -> None:
    media = [of_file(folder / "media" / name) for name in ("film.mp4", "sound.wav", "empty.wav", "deep/short.mp4", "picture.png")] * 3
    for size in (2, 8):
        found = dict(Predictor(trained, batch_size=size)(iter(media), threads=3))
        assert sorted(found) == list(range(15))
        for number, result in found.items():
            if number % 5 == 2:
                assert isinstance(result, ClipError)
                continue
            assert not isinstance(result, Exception)
            name = str(media[number].name)
            np.testing.assert_allclose(result.probabilities, predict(trained, name).probabilities, atol=1e-5)


def test_few_rows_are_held_and_threads_end(folder: Path) -> None:
    made, before = 0, {*threading.enumerate()}

    def rows(*_: Any) -> Iterator[Row]:
        nonlocal made
        while True:
            made += 1
            yield Row(0, "windows", made, 0.0, 1.0, "audio", 1.0, {})

    ahead = Ahead([of_parts(np.zeros(800, np.int16), None)] * 2, rows, threads=2)
    items = iter(ahead)
    for _ in range(3):
        next(items)
    items.close()  # pyright: ignore[reportAttributeAccessIssue]
    for thread in {*threading.enumerate()} - before:
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert made < 30
