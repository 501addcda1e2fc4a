"""Tests where epochs end among steps."""

from hypothesis import given
from hypothesis import strategies as st

from avmae_jax.train.epochs import Epochs


@given(st.floats(0.2, 50), st.integers(1, 12))
def test_each_epoch_ends_once(steps_per_epoch: float, epochs: int) -> None:
    """Compares with the step nearest to an epoch's end; of epochs shorter than a step the last one counts."""
    steps = range(1, round(epochs * steps_per_epoch) + 1)
    ended = [(step, epoch) for step in steps if (epoch := Epochs(steps_per_epoch).ended_at(step))]
    expected = {round(epoch * steps_per_epoch): epoch for epoch in range(1, epochs + 20)}
    assert ended == [(step, epoch) for step, epoch in expected.items() if step in steps]


def test_an_epoch_that_ends_half_way_between_steps_isn_t_missed() -> None:
    """Takes 65 clips in batches of 14, so that seven epochs are 32.5 steps, which floats put slightly below."""
    assert (round(7 * (65 / 14)), Epochs(65 / 14).ended_at(32)) == (32, 7)
