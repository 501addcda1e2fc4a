"""Tests that every path of attention computes the same result and the same gradients."""

import os
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from jax.typing import ArrayLike

from avmae_jax.models import attention as module
from avmae_jax.models.attention import attention

# The paths that a CPU can run: `attention` chooses the first on one device, the second on several, and the third on GPUs without cuDNN.
PATHS = {"looped": module._looped, "plain": jax.nn.dot_product_attention, "whole": module._whole}


def _draw(shape: tuple[int, ...], seed: int = 0, size: float = 1.0) -> list[np.ndarray]:
    """Makes query, key, value and a gradient of the output."""
    rng = np.random.default_rng(seed)
    return [(size * rng.standard_normal(shape)).astype(np.float32) for _ in range(4)]


def _reference(query: np.ndarray, key: np.ndarray, value: np.ndarray, out_grad: np.ndarray) -> list[np.ndarray]:
    """Computes the output and the three gradients in float64 by the definition."""
    query, key, value, out_grad = (x.astype(np.float64) for x in (query, key, value, out_grad))
    scale = query.shape[-1] ** -0.5
    logits = np.einsum("bqnd,bknd->bnqk", query, key) * scale
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    weights_grad = np.einsum("bqnd,bknd->bnqk", out_grad, value)
    logits_grad = weights * (weights_grad - (weights * weights_grad).sum(axis=-1, keepdims=True)) * scale
    return [
        np.einsum("bnqk,bknd->bqnd", weights, value),
        np.einsum("bnqk,bknd->bqnd", logits_grad, key),
        np.einsum("bnqk,bqnd->bknd", logits_grad, query),
        np.einsum("bnqk,bqnd->bknd", weights, out_grad),
    ]


def _assert_close(got: list[jax.Array], wanted: list[np.ndarray], tolerance: float) -> None:
    # Where gradients cancel (L = 1), the rounding of their terms remains, which are of size one.
    for name, x, y in zip(("output", "query", "key", "value"), got, wanted, strict=True):
        error = np.abs(np.asarray(x, np.float64) - y).max() / max(np.abs(y).max(), 0.1)
        assert error < tolerance, f"{name} differs by {error:.1e}"


def _output_and_grads(function: Callable[..., jax.Array], *arrays: ArrayLike) -> list[jax.Array]:
    def run(query: jax.Array, key: jax.Array, value: jax.Array, out_grad: jax.Array) -> list[jax.Array]:
        out, vjp = jax.vjp(function, query, key, value)
        return [out, *vjp(out_grad)]

    return jax.jit(run)(*arrays)


@settings(deadline=None, max_examples=10)
@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 7, 16, 49]), st.integers(1, 4), st.sampled_from([1, 3, 8, 32])),
    seed=st.integers(0, 9),
)
@pytest.mark.slow
def test_output_and_gradients_match_float64(shape: tuple[int, ...], seed: int) -> None:
    arrays = _draw(shape, seed)
    _assert_close(_output_and_grads(module._looped, *arrays), _reference(*arrays), 1e-5)


@pytest.mark.parametrize("size", [(4, 49, 3, 64), (2, 177, 5, 32), (1, 1, 1, 8)])
@pytest.mark.slow
def test_paths_agree(size: tuple[int, ...]) -> None:
    arrays = _draw(size)
    wanted = [np.asarray(x) for x in _output_and_grads(PATHS["plain"], *arrays)]
    for function in (attention, PATHS["looped"], PATHS["whole"]):
        _assert_close(_output_and_grads(function, *arrays), wanted, 1e-5)


@pytest.mark.parametrize("path", ["looped", "whole"])
def test_gradient_by_hand_matches_finite_differences(path: str) -> None:
    query, key, value, _ = (jnp.asarray(x) for x in _draw((2, 5, 3, 4)))
    check_grads(jax.jit(PATHS[path]), (query, key, value), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("path", PATHS)
def test_huge_logits_stay_finite_and_pick_the_largest(path: str) -> None:
    query, key, value, out_grad = _draw((1, 9, 2, 16))
    key *= 1e3 / np.abs(_logits(query, key)).max()
    got = _output_and_grads(PATHS[path], query, key, value, out_grad)
    assert all(bool(jnp.isfinite(x).all()) for x in got)
    _assert_close(got, _reference(query, key, value, out_grad), 1e-3)


def _logits(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    return np.einsum("bqnd,bknd->bnqk", query, key) * query.shape[-1] ** -0.5


@pytest.mark.parametrize("function", [attention, module._whole])
def test_bfloat16_in_and_out_float32_in_between(function: Callable[..., jax.Array]) -> None:
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in _draw((2, 200, 2, 32))]
    got = _output_and_grads(function, *arrays)
    assert {x.dtype for x in got} == {jnp.dtype(jnp.bfloat16)}
    # Half a unit in bfloat16's last place: the loop rounds only the result; in sums over 200 tokens the softmax's own rounding cancels out.
    _assert_close(got, _reference(*(np.asarray(x, np.float32) for x in arrays)), 2**-8)


def test_works_inside_checkpoint_and_value_and_grad_under_strict_promotion() -> None:
    query, key, value, _ = (jnp.asarray(x) for x in _draw((2, 6, 3, 8)))

    def loss(query: jax.Array) -> jax.Array:
        return jnp.square(attention(query, key, value)).sum()

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        plain = jax.jit(jax.value_and_grad(loss))(query)
        rematerialised = jax.jit(jax.value_and_grad(jax.checkpoint(loss)))(query)
    np.testing.assert_allclose(rematerialised[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(rematerialised[1], plain[1], rtol=1e-5, atol=1e-6)


def test_one_cpu_device_never_holds_the_logits_of_all_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda _: 1)
    batch, length, heads, channels = 4, 256, 8, 16
    shape = jax.ShapeDtypeStruct((batch, length, heads, channels), jnp.float32)
    gradient = jax.jit(jax.grad(lambda *arrays: attention(*arrays).sum(), (0, 1, 2)))
    memory = gradient.lower(shape, shape, shape).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < batch * heads * length**2 * 4


@pytest.mark.parametrize(
    ("key", "message"),
    [(jnp.zeros((1, 5, 2, 8)), r"key is float32\[1, 5, 2, 8\]"), (jnp.zeros((1, 4, 2, 8), jnp.bfloat16), "key is bfloat16")],
)
def test_refuses_arrays_that_differ_and_says_how(key: jax.Array, message: str) -> None:
    query = jnp.zeros((1, 4, 2, 8))
    with pytest.raises(ValueError, match=message):
        attention(query, key, query)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowers for CUDA on a machine without a GPU, down to cuDNN's custom call; what cuDNN does with it isn't tested."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "cuda_versions", types.SimpleNamespace(cudnn_get_version=lambda: 91000))
    monkeypatch.setattr(module, "_CUDNN_PLUGINS", ("jax",))


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(
    ("length", "channels", "dtype", "uses_cudnn"),
    [
        *((length, 64, jnp.bfloat16, True) for length in (1, 49, 128, 177, 708)),
        (708, 32, jnp.bfloat16, True),
        (128, 20, jnp.bfloat16, False),  # cuDNN doesn't support this head size
        (177, 64, jnp.float32, False),
    ],
)
def test_lowers_for_cuda_with_gradient(length: int, channels: int, dtype: jnp.dtype, uses_cudnn: bool) -> None:
    assert ("__cudnn$fmhaSoftmaxBackward" in gradient_for_cuda(length, channels, dtype)) == uses_cudnn


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("flags", ["--xla_gpu_exclude_nondeterministic_ops=true --other=1", "--xla_gpu_deterministic_ops"])
def test_kernels_that_repeat_to_the_last_bit_are_not_those_of_cudnn(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert "__cudnn" not in gradient_for_cuda(128, 64, jnp.bfloat16)
    monkeypatch.setenv("XLA_FLAGS", flags.split("=")[0] + "=false")
    assert "__cudnn" in gradient_for_cuda(128, 64, jnp.bfloat16)


def gradient_for_cuda(length: int, channels: int, dtype: Any) -> str:
    x = jax.ShapeDtypeStruct((2, length, 3, channels), dtype)
    gradient = jax.jit(lambda *arrays: jax.vjp(attention, *arrays[:3])[1](arrays[3]))
    with jax.numpy_dtype_promotion("standard"):  # JAX's own plain attention mixes bfloat16 and float32
        return gradient.trace(x, x, x, x).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
@pytest.mark.parametrize(("channels", "dtype"), [(64, jnp.float32), (32, jnp.float32), (20, jnp.bfloat16)])
def test_no_matrix_is_kept_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch, platform: str, channels: int, dtype: jnp.dtype) -> None:
    monkeypatch.setattr(jax, "device_count", lambda _: 1)
    length = 177
    x = jax.ShapeDtypeStruct((2, length, 3, channels), dtype)
    forward = jax.jit(lambda *arrays: jax.vjp(attention, *arrays)).trace(x, x, x).lower(lowering_platforms=(platform,))
    kept = [leaf.shape for leaf in jax.tree.leaves(forward.out_info)]  # the output, and what the gradient needs
    assert len(kept) > 3
    assert not [shape for shape in kept if shape.count(length) > 1]


@pytest.mark.parametrize("batch", ["2", "b"])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_platform_of_the_program_chooses_the_path(monkeypatch: pytest.MonkeyPatch, platform: str, batch: str) -> None:
    monkeypatch.setattr(jax, "device_count", lambda _: 1)
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"{batch}, 9, 4, 16"), jnp.float32)
    gradient = jax.jit(lambda *arrays: jax.vjp(attention, *arrays[:3])[1](arrays[3]))
    text = jax.export.export(gradient, platforms=[platform])(x, x, x, x).mlir_module()
    assert ("stablehlo.while" in text) == (platform == "cpu")


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from avmae_jax.models.attention import _looped, _whole, attention

assert jax.device_count() == 4
mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
arrays = [np.random.default_rng(seed).standard_normal((4, 11, 6, 8)).astype(np.float32) for seed in range(4)]
run = lambda function: jax.jit(lambda *x: [function(*x[:3]), *jax.vjp(function, *x[:3])[1](x[3])])
wanted = run(_looped)(*arrays)
for spec in (("data",), (("data", "tensor"),), ("data", None, "tensor")):
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    placed = [jax.device_put(x, sharding) for x in arrays]
    for function in (attention, _whole):
        compiled = run(function).lower(*placed).compile()
        for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
            assert collective not in compiled.as_text(), (spec, collective)
        for x, y in zip(compiled(*placed), wanted, strict=True):
            assert x.sharding.is_equivalent_to(sharding, 4), x.sharding
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
"""


@pytest.mark.slow
@pytest.mark.process
def test_four_devices_give_the_same_numbers_without_communication() -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_machine_may_lack_the_cpu_among_its_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(platform: str) -> int:
        raise RuntimeError(f"Unknown backend {platform}. Available backends are ['cuda']")

    monkeypatch.setattr(jax, "device_count", count)  # as with JAX_PLATFORMS=cuda
    given = jnp.ones((1, 4, 2, 8))
    assert attention(given, given, given).shape == given.shape
