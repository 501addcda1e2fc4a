"""Tests when a measurement is on too few clips."""

import pytest

from avmae_jax.evals.few_clips import few_clips, few_in
from tests.support import Clips


@pytest.mark.parametrize(
    ("labels", "names", "parts"),
    [
        ([(0,)] * 5 + [(1,)] * 5, "ab", []),
        ([(0,)] * 5 + [(1,)] * 4, "ab", ["1 of 2", "b (4)"]),
        ([(0, 1)] * 5, "abc", ["1 of 3", "c (0)"]),
        ([()] * 5, "", []),
        ([()] * 4, "", ["4 clips"]),
        ([()] * 4, "ab", ["4 clips"]),
    ],
)
def test_fewer_than_five_clips_of_a_class_or_in_all_are_warned_of(labels: list[tuple[int, ...]], names: str, parts: list[str]) -> None:
    warning = few_clips(labels, list(names))
    assert bool(warning) == bool(parts)
    for part in parts:
        assert part in warning


def test_clips_without_classes_are_counted() -> None:
    assert few_in(Clips(3))
    assert not few_in(Clips(5))
