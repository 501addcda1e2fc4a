"""Tests the norm and projection of GPUs against that of CPUs, on this CPU; parity tests the latter."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avmae_jax.models import projection
from avmae_jax.models.projection import norm_and_project

Arrays = tuple[jax.Array, ...]


def _arguments(outer: tuple[int, ...], seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = (2, 7, 16), (16,), (16,), (16, *outer), outer
    return tuple(jnp.asarray(rng.normal(3 * (number == 0), 1, shape), jnp.float32) for number, shape in enumerate(shapes))


def _with_gradients(way: Callable[..., jax.Array], dtype: str, arguments: Arrays) -> list[np.ndarray]:
    def loss(*arrays: jax.Array) -> jax.Array:
        return jnp.square(way(1e-5, jnp.dtype(dtype), *arrays).astype(jnp.float32)).sum()

    results = way(1e-5, jnp.dtype(dtype), *arguments), *jax.jit(jax.grad(loss, argnums=tuple(range(5))))(*arguments)
    return [np.asarray(each, np.float64) for each in results]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("outer", [(24,), (3, 2, 8)])
def test_the_folded_norm_has_the_output_and_the_gradients_of_the_plain_one(outer: tuple[int, ...], dtype: str, tolerance: float) -> None:
    expected = _with_gradients(projection._apart, "float32", _arguments(outer))
    for found, exact in zip(_with_gradients(projection._folded, dtype, _arguments(outer)), expected, strict=True):
        assert np.linalg.norm(found - exact) < tolerance * np.linalg.norm(exact)


def test_a_scale_of_zero_has_a_gradient() -> None:
    tokens, scale, *others = _arguments((3, 2, 8))
    arguments = tokens, jnp.zeros_like(scale), *others
    found, expected = (_with_gradients(way, "float32", arguments)[2] for way in (projection._folded, projection._apart))
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_platform_of_the_program_chooses_the_way(platform: str) -> None:
    batch = jax.export.symbolic_shape("b")[0]
    tokens, *params = _arguments((3, 2, 8))
    shape = jax.ShapeDtypeStruct((batch, *tokens.shape[1:]), tokens.dtype)
    function = jax.jit(lambda *arrays: norm_and_project(*arrays, epsilon=1e-5, dtype=jnp.dtype("float32")))
    text = jax.export.export(function, platforms=[platform])(shape, *params).mlir_module()
    assert text.count("stablehlo.dot_general ") == (1 if platform == "cpu" else 3)
