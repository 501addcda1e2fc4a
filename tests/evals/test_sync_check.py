"""Offsets and places on the built-in set: known shifts, what is fitted, what is measured."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import AppliedConfig, DataConfig
from avmae_jax.data.clip import SAMPLE_RATE, Clip, even_times
from avmae_jax.data.instruments import make_clip
from avmae_jax.errors import DatasetError
from avmae_jax.evals import sync_check
from avmae_jax.evals.offset_fitting import Trial, fit_calibration
from avmae_jax.evals.pointing import Heated, heated_clips, pointing
from avmae_jax.evals.sync_check import Plan, check_sync_into, cut_apart, measure_offsets, shifted, trials_of
from avmae_jax.inference.match_over_time import MomentEmbedder, MomentVectors
from avmae_jax.inference.offset import Track
from avmae_jax.inference.offset_files import read_calibration, write_calibration
from avmae_jax.models.registry import build
from avmae_jax.weights.trained import Trained
from tests.inference.tiny_models import SYNC

STEP, COUNT, D = 0.25, 60, 16


def pair(steps: int, seed: int) -> tuple[Track, Track]:
    """Returns tracks of a clip whose audio comes `steps` later; they have two components in common, and others of their own."""
    rng = np.random.default_rng(seed)
    notes = np.repeat(rng.standard_normal((COUNT, 2)), 3, axis=0)
    tracks = []
    for begin in (20, 20 - steps):
        rows = 0.3 * rng.standard_normal((COUNT, D))
        rows[:, :2] = notes[begin : begin + COUNT]
        tracks.append(Track.moving(np.arange(COUNT) * STEP, rows.astype(np.float32)))
    return tracks[0], tracks[1]


def trials(first: int, count: int) -> list[Trial]:
    rng = np.random.default_rng(first)
    shifts = [int(rng.integers(-12, 13)) for _ in range(count)]
    known = [Trial(*pair(steps, first + number), steps * STEP) for number, steps in enumerate(shifts)]
    return known + [Trial(known[number].image, known[number - 1].audio, None) for number in range(count)]


def test_a_fitted_certainty_says_when_one_cannot_tell() -> None:
    found = measure_offsets(trials(3000, 30), fit_calibration(trials(2000, 30)))
    assert found["near"] > 0.9
    assert found["answered"] > 0.8
    assert found["right"] > 0.9
    assert found["refused"] >= 0.8
    assert found["threshold"] >= 0.5


def test_a_calibration_is_read_as_it_was_written_and_of_its_own_model_alone(tmp_path: Path) -> None:
    file, calibration = tmp_path / "offset.json", dataclasses.replace(fit_calibration(trials(50, 8)), rate=8.0)
    write_calibration(file, calibration, "abc")
    assert read_calibration(file, "abc") == calibration
    content = json.loads(file.read_text())
    del content["rate"]
    file.write_text(json.dumps(content))
    assert read_calibration(file, "abc").rate == 4  # of older files
    with pytest.raises(DatasetError, match="other weights"):
        read_calibration(file, "abd")
    for wrong in ("x", "[]", '{"fingerprint": "abc", "weights": [1, 2], "threshold": 0.5}', '{"weights": [1, 2, 3], "threshold": null}'):
        file.write_text(wrong)
        with pytest.raises(DatasetError, match=r"offset\.json"):
            read_calibration(file, "abc")


def test_fitting_needs_clips_of_both_sorts() -> None:
    with pytest.raises(ValueError, match="needs clips"):
        fit_calibration(trials(0, 2)[:2])


def test_audio_that_is_cut_with_a_positive_shift_comes_later() -> None:
    clip = Clip(
        "x", np.arange(10 * 100).repeat(SAMPLE_RATE // 100).astype(np.int16), tuple(b"0123456789"[n : n + 1] for n in range(10)), ()
    )
    found = cut_apart(clip._replace(frame_times=even_times(10, 10.0)), 3.0, 4.0, 1.5)
    assert found.frames == (b"3", b"4", b"5", b"6")
    assert found.frame_times == (0.0, 1.0, 2.0, 3.0)
    assert len(found.waveform) == 4 * SAMPLE_RATE
    assert found.waveform[round(1.5 * SAMPLE_RATE)] == 300  # what is heard at second 3 of the clip, when the film begins


def test_clips_without_an_answer_have_audio_of_another_clip() -> None:
    times = np.arange(COUNT) * STEP
    rows = [np.random.default_rng(number).standard_normal((COUNT, D)).astype(np.float32) for number in range(20)]
    made = trials_of([(MomentVectors(times, times, 0.2, own, own), 0.5) for own in rows])
    assert [trial.seconds for trial in made] == [0.5] * 20 + [None] * 20
    for number, trial in enumerate(made[20:]):
        others = [other for other in range(20) if np.array_equal(trial.audio.vectors, made[other].audio.vectors)]
        assert others == [(number + (14 if number % 2 else 1)) % 20]


def test_pointing_is_the_share_of_the_hottest_patch_and_chance_that_of_all() -> None:
    share = np.zeros((50, 4, 4))
    share[:, 1, 2], share[:, 1, 1] = 0.75, 1.0
    signs = np.zeros((50, 4, 4))
    signs[:, 0, 0] = 0.5
    hot = np.zeros((50, 4, 4))
    hot[:, 1, 2] = 1
    found = pointing([Heated(hot, -hot, share, signs)])
    assert found["frames"] == 50
    assert found["pointing"]["heat"] == 0.75
    assert found["pointing"]["best"] == 1
    assert found["pointing"]["chance"] == pytest.approx(1.75 / 16, abs=0.1)
    assert found["signs"]["heat"] == 0
    assert found["iou"]["best"] == pytest.approx(1.75 / 2)
    with pytest.raises(ValueError, match="no clip"):
        pointing([])


def test_the_heat_of_a_model_whose_window_is_longer_than_its_clips_is_measured() -> None:
    module: Any = build(SYNC, rngs=nnx.Rngs(0))
    embed = MomentEmbedder(Trained("m", module, AppliedConfig(model=SYNC), 0, ()), heat=True)
    found = pointing(heated_clips(embed, DataConfig(builtin_seconds=0.32), 2))  # the window is 0.64 s
    assert found["clips"] == 2


@pytest.mark.parametrize("changes", [{"seconds": 1.0}, {"rate": 0.5}, {"fit_clips": 2}, {"clips": 0}, {"pointing_clips": 1}])
def test_numbers_that_cannot_work_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Plan(**changes)  # pyright: ignore[reportArgumentType]


def test_clips_are_those_of_the_run() -> None:
    module: Any = build(SYNC, rngs=nnx.Rngs(0))
    embed = MomentEmbedder(Trained("m", module, AppliedConfig(model=SYNC), 0, ()))

    def audio(seed: int) -> np.ndarray:
        ((vectors, _),) = shifted(embed, DataConfig(builtin_seed=seed), "test", [0], Plan(seconds=4.0, rate=1.0))
        return vectors.audio

    np.testing.assert_array_equal(audio(1), audio(1))
    assert np.abs(audio(1) - audio(2)).max() > 1e-3


def test_the_certainty_is_fitted_to_clips_that_the_run_did_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []

    def noted(split: str, index: int, **options: Any) -> Clip:
        made.append((split, index))
        return make_clip(split, index, **options)

    monkeypatch.setattr(sync_check, "make_clip", noted)
    trained = Trained("m", build(SYNC, rngs=nnx.Rngs(0)), AppliedConfig(model=SYNC), 0, ())
    plan = Plan(seconds=4.0, fit_clips=4, clips=2, pointing_clips=2)
    found = check_sync_into(tmp_path / "out", trained, DataConfig(builtin_train=20), plan)
    assert made == [("train", 20), ("train", 21), ("train", 22), ("train", 23), ("test", 0), ("test", 1)]
    assert json.loads((tmp_path / "out/sync_check.json").read_text()) == found
    fitted = read_calibration(tmp_path / "out/offset.json", found["fingerprint"])
    assert (fitted.threshold, fitted.rate) == (found["offset"]["threshold"], plan.rate)
    with pytest.raises(ValueError, match=r"m was trained on films; .*built-in set"):
        check_sync_into(tmp_path / "none", trained, DataConfig(source="prepared", path="films"), plan)
    assert not (tmp_path / "none").exists()
