"""Segments of a sequence: joining and splitting, the order that jax can't change, selecting by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.models.tokens import Tokens, join, of_modality, of_part, split, through

NAMES = ["audio.global", "audio.patches", "image.global", "image.patches", "image.registers"]


def _tokens(lengths: dict[str, int], width: int = 3) -> Tokens:
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.standard_normal((2, length, width)), jnp.float32) for name, length in lengths.items()}


segments = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 4), min_size=1).map(_tokens)


@settings(deadline=None, max_examples=20)
@given(segments)
@pytest.mark.slow
def test_split_undoes_join(tokens: Tokens) -> None:
    sequence = join(tokens)
    assert sequence.shape == (2, sum(x.shape[1] for x in tokens.values()), 3)
    again = split(sequence, tokens)
    assert again.keys() == tokens.keys()
    for name, expected in tokens.items():
        np.testing.assert_array_equal(again[name], expected)


@settings(deadline=None, max_examples=10)
@given(segments)
def test_the_order_is_that_of_the_names_whatever_jax_does_with_a_dict(tokens: Tokens) -> None:
    sequence = np.concatenate([tokens[name] for name in sorted(tokens)], axis=1)
    backwards = dict(reversed(tokens.items()))
    np.testing.assert_array_equal(join(tokens), sequence)
    np.testing.assert_array_equal(join(backwards), sequence)
    np.testing.assert_array_equal(jax.jit(lambda tokens: join(split(join(tokens), tokens)))(backwards), sequence)


def test_a_sequence_of_another_length_is_refused() -> None:
    tokens = _tokens({"audio.patches": 2, "image.patches": 3})
    for length in (4, 6):
        with pytest.raises(ValueError, match=rf"{length}.*audio\.patches.*2.*image\.patches.*3"):
            split(jnp.zeros((2, length, 3)), tokens)


def test_split_takes_a_sequence_of_another_width() -> None:
    tokens = _tokens({"audio.patches": 2, "image.patches": 3})
    assert {name: x.shape for name, x in split(jnp.zeros((2, 5, 7)), tokens).items()} == {
        "audio.patches": (2, 2, 7),
        "image.patches": (2, 3, 7),
    }


def test_through_applies_a_function_once_to_the_whole_sequence() -> None:
    tokens, seen = _tokens({"audio.patches": 2, "image.global": 1, "image.patches": 3}), []

    def reverse(sequence: jax.Array) -> jax.Array:
        seen.append(sequence.shape)
        return sequence[:, ::-1]

    out = through(reverse, tokens)
    assert seen == [(2, 6, 3)]
    assert list(out) == list(tokens)
    np.testing.assert_array_equal(out["audio.patches"], tokens["image.patches"][:, :0:-1])


def test_segments_are_selected_by_modality_and_by_part() -> None:
    tokens = _tokens({"audio.patches": 2, "image.global": 1, "image.patches": 3})
    assert set(of_modality(tokens, "image")) == {"image.global", "image.patches"}
    assert set(of_part(tokens, "patches")) == {"audio.patches", "image.patches"}
    assert of_part(tokens, "registers") == {}
    with pytest.raises(ValueError, match=r"audio.*image\.global, image\.patches"):
        of_modality(of_modality(tokens, "image"), "audio")
