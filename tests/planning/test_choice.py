"""Tests how a batch that doesn't fit is computed."""

from typing import NamedTuple

import pytest

from avmae_jax.planning.choice import Way, choose, parts_of


class Bytes(NamedTuple):
    """Holds the memory of a made-up step."""

    peak: float
    temporaries: float


class Compiler:
    """Compiles made-up steps: 10 bytes of state, and a pair takes 4, or 1 with recomputed blocks, and gradients of a split batch take 5."""

    def __init__(self, batch: int, groups: int = 1):
        self.batch, self.groups, self.calls = batch, groups, list[Way]()

    def __call__(self, remat: bool, micro_batch: int) -> Bytes:
        self.calls.append(Way(remat, micro_batch))
        each = micro_batch / self.groups * (1 if remat else 4) + 5 * (micro_batch < self.batch)
        return Bytes(10 + each, each)


@pytest.mark.parametrize(
    ("limit", "remat", "way", "compilations"),
    [
        (500, False, Way(False, 96), 1),
        (500, True, Way(True, 96), 1),
        (200, False, Way(True, 96), 2),  # the negatives stay whole, though halves would fit without
        (70, False, Way(True, 48), 3),
        (60, False, Way(True, 32), 4),  # the first estimate is too low by what sums of gradients take
        (16, True, Way(True, 1), 6),
        (10, False, None, 3),
    ],
)
def test_recomputing_comes_before_splitting(limit: float, remat: bool, way: Way | None, compilations: int) -> None:
    compiler = Compiler(96)
    assert choose(compiler, 96, 1, limit, remat=remat) == way
    assert len(compiler.calls) == compilations
    assert not remat or all(call.remat for call in compiler.calls)


def test_parts_can_be_shared_by_the_devices() -> None:
    assert parts_of(96, 8) == [96, 48, 32, 24, 16, 8]
    compiler = Compiler(96, groups=8)
    assert choose(compiler, 96, 8, 20, remat=False) == Way(True, 32)
