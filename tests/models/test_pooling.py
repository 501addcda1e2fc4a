"""Tests pooling: which tokens count, and how much."""

import jax.numpy as jnp
import numpy as np
import pytest

from avmae_jax.models.pooling import Pooling, pool, unit_length
from avmae_jax.models.tokens import Tokens

TOKENS: Tokens = {
    "audio.patches": jnp.array([[[1.0], [2.0], [3.0]]]),
    "image.global": jnp.array([[[100.0], [300.0]]]),
    "image.patches": jnp.array([[[10.0]]]),
}


def test_the_mean_counts_every_patch_of_all_modalities_equally_and_nothing_else() -> None:
    np.testing.assert_allclose(pool(TOKENS), [[(1 + 2 + 3 + 10) / 4]])


def test_global_pooling_takes_the_tokens_of_no_patch() -> None:
    np.testing.assert_allclose(pool(TOKENS, "global"), [[200]])


def test_bfloat16_is_summed_in_float32() -> None:
    tokens = {"audio.patches": jnp.ones((1, 1000, 2), jnp.bfloat16)}
    pooled = pool(tokens)
    assert pooled.dtype == jnp.float32
    np.testing.assert_array_equal(pooled, 1)


@pytest.mark.parametrize(("how", "there"), [("mean", "image.global"), ("global", "audio.patches")])
def test_tokens_that_are_not_there_are_refused(how: Pooling, there: str) -> None:
    with pytest.raises(ValueError, match=f"{how}.*{there}"):
        pool({there: TOKENS[there]}, how)


def test_unit_length_leaves_zeros() -> None:
    np.testing.assert_allclose(unit_length(jnp.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]], rtol=1e-6)
