"""Thresholds of the best F1: by hand, against trying every one, with ties and classes without positives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.evals.calibration.thresholds import UNKNOWN, best_thresholds, f1, filled


def test_a_threshold_lies_midway_below_the_last_clip_that_it_names() -> None:
    given = np.array([[0.9], [0.8], [0.4], [0.2]])
    assert best_thresholds(given, np.array([[1], [1], [0], [0]])) == pytest.approx([0.6])
    assert best_thresholds(given, np.ones((4, 1))) == pytest.approx([0.1])  # every clip has it


def test_of_equally_good_ones_the_highest_is_taken() -> None:
    given, has = np.array([[0.9], [0.7], [0.5], [0.3]]), np.array([[1], [0], [0], [1]])
    # naming the first clip gives F1 2/3, and so does naming all four
    assert best_thresholds(given, has) == pytest.approx([0.8])


def test_clips_of_equal_probability_are_named_together() -> None:
    given, has = np.array([[0.5], [0.5], [0.1]]), np.array([[1], [0], [0]])
    (threshold,) = best_thresholds(given, has)
    assert threshold == pytest.approx(0.3)


@settings(deadline=None, max_examples=30)
@given(clips=st.integers(1, 30), seed=st.integers(0, 999))
def test_no_other_threshold_is_better(clips: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    given, has = np.round(rng.random((clips, 1)), 1), rng.random((clips, 1)) < 0.4
    has[0] = True
    (best,) = f1(given >= best_thresholds(given, has), has)
    assert best >= max(f1(given >= value, has)[0] for value in np.linspace(0, 1.01, 203)) - 1e-9


def test_classes_without_positives_get_the_mean_or_a_half() -> None:
    given = np.array([[0.9, 0.5, 0.3], [0.1, 0.4, 0.1]])
    found = best_thresholds(given, np.array([[1, 0, 1], [0, 0, 0]]))
    assert np.isnan(found[1])
    assert filled(found) == pytest.approx([0.5, 0.35, 0.2])
    assert filled(np.full(3, np.nan)).tolist() == [UNKNOWN] * 3
    assert np.isnan(f1(given >= filled(found), np.array([[1, 0, 1], [0, 0, 0]]))[1])
