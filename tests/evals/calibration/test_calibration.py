"""Calibration: a temperature that was put in is found again, and the error after it is measured on other clips than fitted it."""

import numpy as np
import pytest

from avmae_jax.config import Config, TuneConfig
from avmae_jax.evals.calibration.reliability import reliability
from avmae_jax.evals.calibration.temperature import cross_fitted, fit, fit_temperature, is_at_bound
from avmae_jax.inference.forward import Logits, Scores, scores_of

CE, BCE = (Config(tune=TuneConfig(loss=loss)) for loss in ("ce", "bce"))


def overconfident(clips: int = 800, classes: int = 6, factor: float = 3.0, seed: int = 0) -> Logits:
    """Draws classes by the probabilities of logits, and multiplies the logits."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((clips, classes))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = np.array([rng.choice(classes, p=row) for row in shares])
    rows = (factor * logits).astype(np.float32)
    return Logits([f"c{n}" for n in range(clips)], rows, np.ones(clips, int), np.eye(classes, dtype=np.float32)[own])


def several(clips: int = 800, factor: float = 3.0, seed: int = 0) -> Logits:
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((clips, 4)) - 1
    targets = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    targets[:, 3] = 0  # a class without a clip
    logits[:, 3] = -6
    return Logits([f"c{n}" for n in range(clips)], (factor * logits).astype(np.float32), np.ones(clips, int), targets)


@pytest.mark.parametrize(("config", "found"), [(CE, overconfident()), (BCE, several())])
def test_the_temperature_is_found_and_the_confidence_is_right_then(config: Config, found: Logits) -> None:
    assert fit_temperature(config, found) == pytest.approx(3, rel=0.12)
    before, after = reliability(scores_of(config, found)).error, reliability(cross_fitted(config, found).scores).error
    assert after < 0.06 < before


def test_rows_of_a_clip_are_averaged_after_the_temperature() -> None:
    rows = np.array([[4, 0], [0, 0], [0, 2]], np.float32)
    found = Logits(["a", "b"], rows, np.array([2, 1]), np.eye(2, dtype=np.float32))
    scores = scores_of(CE, found, 2.0)
    assert scores.probabilities[:, 0] == pytest.approx([(1 / (1 + np.exp(-2)) + 0.5) / 2, 1 / (1 + np.exp(1))])
    (kept,) = scores_of(CE, found.keep(np.array([1])), 2.0).probabilities
    assert kept == pytest.approx(scores.probabilities[1])


def test_what_is_always_right_ends_at_the_bound() -> None:
    found = Logits(["a", "b"], np.array([[1, 0], [0, 1]], np.float32), np.ones(2, int), np.eye(2, dtype=np.float32))
    assert is_at_bound(fit_temperature(CE, found))
    assert not is_at_bound(1.0)


def test_clips_of_one_class_each_get_no_thresholds() -> None:
    assert fit(BCE, overconfident(60)).thresholds == ()
    thresholds = fit(BCE, several(100)).thresholds
    assert thresholds[3] == pytest.approx(np.mean(thresholds[:3]))


def test_cross_fitting_never_rates_a_clip_by_its_own_fit() -> None:
    """Changing one clip's class changes the probabilities of the clips in other folds, never its own."""
    found = overconfident(50)
    changed = found._replace(targets=found.targets.copy())
    changed.targets[7] = np.roll(changed.targets[7], 1)
    one, other = (cross_fitted(CE, logits).scores.probabilities for logits in (found, changed))
    assert np.array_equal(one[7], other[7])
    assert not np.array_equal(one, other)


def test_one_clip_is_rated_as_it_is() -> None:
    found = overconfident(1)
    assert np.array_equal(cross_fitted(CE, found).scores.probabilities, scores_of(CE, found).probabilities)


def test_the_error_is_the_weighted_gap_of_bins() -> None:
    given = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [1.0, 0.0]])
    found = reliability(Scores(list("abcd"), given, np.array([[1, 0], [0, 1], [0, 1], [1, 0]])))
    assert found.clips.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    assert found.error == pytest.approx(0.25 * 0.55 + 0.75 * abs(2 / 3 - 2.9 / 3))
