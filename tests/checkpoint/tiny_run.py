"""Offers what tests of checkpoints share: a model of two blocks with its optimizer state, saved and compared bit by bit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from avmae_jax.checkpoint.manager import Checkpoints

META = {"config": {"model": {"size": "tiny", "patch": 16}}}


class Attention(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)


class Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.attn = Attention(width, rngs)


class Model(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.blocks_audio = nnx.List([Block(width, rngs) for _ in range(2)])


class Run(NamedTuple):
    params: Any
    opt_state: Any
    rng: jax.Array


def make_run(seed: int, width: int = 64) -> Run:
    params = nnx.state(Model(width, nnx.Rngs(seed)), nnx.Param)
    opt_state = optax.adam(1e-3).init(params)
    moments = jax.tree.map(lambda x: jax.random.normal(jax.random.key(seed), x.shape).astype(x.dtype), opt_state)
    return Run(params, moments, jax.random.key(seed))


def save(checkpoints: Checkpoints, step: int, run: Run | None = None) -> None:
    params, opt_state, rng = run or make_run(step)
    checkpoints.save(step, params=params, opt_state=opt_state, rng=rng, data={"next_index": step * 10}, meta=META)


def assert_same(restored: Any, expected: Any) -> None:
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert as_bytes(got) == as_bytes(want)


def as_bytes(leaf: jax.Array) -> bytes:
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf).tobytes()


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
