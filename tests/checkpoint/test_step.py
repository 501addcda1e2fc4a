"""Tests the checksum of one step's tensors."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.checkpoint.step import checksum


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["float32", "bfloat16", "uint8", "int32"]), st.data())
def test_the_checksum_sees_every_flipped_bit_and_swap(dtype: str, data: st.DataObject) -> None:
    good = np.asarray(jax.random.normal(jax.random.key(0), (4, 3, 5)) * 10).astype(jnp.dtype(dtype))
    flipped = bytearray(good.tobytes())
    bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    assert checksum(jnp.asarray(good)) != checksum(jnp.asarray(np.frombuffer(bytes(flipped), good.dtype).reshape(good.shape)))
    assert checksum(jnp.asarray(good)) != checksum(jnp.asarray(good[::-1]))
