"""The course of one medium against `predict`, which decodes and computes each of its parts by itself."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from avmae_jax import load
from avmae_jax.errors import ClipError
from avmae_jax.inference.along_time import MATCH, AlongTime, Budget, Course
from avmae_jax.inference.api import Model
from avmae_jax.inference.stream import Ahead
from avmae_jax.inference.windows import of_file
from tests.inference.test_predict import LENGTH, tuned_on


def course_of(model: Model, path: Path, budget: Budget | None = None, seconds: float = 0.0) -> Course:
    found = AlongTime(model, threading.Lock())(of_file(path), seconds, budget or Budget())
    assert found
    return found


def some(values: np.ndarray | None) -> np.ndarray:
    assert values is not None
    return values


@pytest.fixture(scope="module")
def course(trained: Model, folder: Path) -> Course:
    return course_of(trained, folder / "media" / "film.mp4")


def test_the_means_are_what_predict_says(trained: Model, folder: Path, course: Course) -> None:
    alone = trained.predict(folder / "media" / "film.mp4")
    np.testing.assert_allclose(some(course.given_all())[course.answers].mean(axis=0), alone.probabilities, atol=1e-5)
    assert float(some(course.mean(MATCH))) == pytest.approx(alone.match, abs=1e-5)
    assert course.answers.sum() == alone.windows


@pytest.mark.parametrize("given", ["both", "audio", "image"])
def test_each_way_is_what_predict_says_of_it(trained: Model, folder: Path, given: str) -> None:
    short = folder / "media" / "deep" / "short.mp4"  # one window, whatever it spans
    np.testing.assert_allclose(some(course_of(trained, short).mean(given)), trained.predict(short, given=given).probabilities, atol=1e-5)


def test_windows_begin_about_a_second_apart_and_reach_the_end(course: Course) -> None:
    assert np.diff(course.starts).max() <= LENGTH / 2 + 1e-6
    assert course.end == pytest.approx(5, abs=0.1)
    assert course.complete


@pytest.mark.parametrize(("name", "there"), [("sound.wav", "audio"), ("picture.png", "image")])
def test_what_a_file_lacks_has_no_values(trained: Model, folder: Path, name: str, there: str) -> None:
    found = course_of(trained, folder / "media" / name)
    assert set(found.values) == {there}
    assert found.mean("both") is None
    np.testing.assert_allclose(some(found.given_all()), found.values[there])


def test_a_limit_of_seconds_ends_it_early(trained: Model, folder: Path) -> None:
    found = course_of(trained, folder / "media" / "film.mp4", Budget(media_seconds=3.3), 5.0)
    assert not found.complete
    assert found.end <= 3.34


def test_without_time_only_the_windows_of_predict_are_computed(trained: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = folder / "media" / "film.mp4"
    began = time.monotonic()
    now = iter([began] + [began + 50.0] * 100)
    monkeypatch.setattr("avmae_jax.inference.along_time.time.monotonic", lambda: next(now, began + 50.0))
    found = course_of(trained, film, Budget(computing_seconds=51.0), 5.0)
    assert found.complete
    assert found.answers.all()
    np.testing.assert_allclose(some(found.given_all()).mean(axis=0), trained.predict(film).probabilities, atol=1e-5)


def test_a_file_that_takes_too_long_gives_nothing(trained: Model, folder: Path) -> None:
    assert AlongTime(trained, threading.Lock())(of_file(folder / "media" / "film.mp4"), 5.0, Budget(computing_seconds=0.0)) is None


def test_waiting_ends_in_time_though_a_thread_goes_on(folder: Path) -> None:
    released = threading.Event()

    def make(*_: object):
        released.wait(30)
        yield from ()

    items = Ahead([of_file(folder / "media" / "film.mp4")], make, 1, until=time.monotonic() + 0.05)
    assert list(items) == []
    released.set()


def test_a_broken_file_raises_its_error(trained: Model, folder: Path) -> None:
    with pytest.raises(ClipError, match=r"broken\.mp4"):
        course_of(trained, folder / "media" / "broken.mp4")


def test_a_file_without_what_the_model_needs_is_refused(trained: Model, folder: Path) -> None:
    with pytest.raises(ClipError, match="audio"):
        course_of(tuned_on(trained, "audioonly"), folder / "media" / "picture.png")


def test_a_pretraining_model_has_the_match_alone(folder: Path) -> None:
    found = course_of(load(folder / "pre.safetensors"), folder / "media" / "film.mp4")
    assert set(found.values) == {MATCH}
    assert found.given_all() is None
