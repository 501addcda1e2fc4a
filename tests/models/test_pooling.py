"""Vectors of tokens: the mean at length 1, the same numbers as PyTorch's normalize."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avmae_jax.models.pooling import embedding, unit_length


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_embedding_is_the_mean_token_at_length_one(dtype: jnp.dtype) -> None:
    tokens = jnp.asarray(np.random.default_rng(0).standard_normal((3, 700, 8)) + 1, dtype)
    mean = np.asarray(tokens, np.float64).mean(axis=1)
    pooled = embedding(tokens)
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)


def test_unit_length_is_torchs_normalize_also_at_zero() -> None:
    rows = jnp.asarray([[3.0, 4.0], [0.0, 0.0], [0.0, 1e-13]])
    np.testing.assert_allclose(unit_length(rows), [[0.6, 0.8], [0, 0], [0, 0.1]], rtol=1e-6)
    assert unit_length(rows.astype(jnp.bfloat16)).dtype == jnp.float32


def test_the_gradient_of_unit_length_at_zero_is_finite() -> None:
    # torch gives 1e12 here, the slope of x / 1e-12
    grads = jax.grad(lambda rows: unit_length(rows).sum())(jnp.zeros((1, 3)))
    assert np.isfinite(grads).all()
