"""Tests the block against NumPy in torch's layout, its norm streams, its initialisation, its precisions."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.layers import ALL_STREAMS, Attention, Block, Mlp, drop_path, drop_rate, layer_norm, run_blocks
from avmae_jax.trees import flatten

WIDTH, HEADS, LENGTH = 16, 4, 5
FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")

_run = nnx.jit(lambda block, tokens, stream="main": block(tokens, stream), static_argnums=2)
_call = nnx.jit(lambda module, tokens: module(tokens))


def _tokens() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, LENGTH, WIDTH)), jnp.float32)


def _fresh(width: int = WIDTH, streams: tuple[str, ...] = ("main",), **settings: Any) -> Block:
    return Block(ModelConfig(**settings), width, HEADS, streams=streams, rngs=nnx.Rngs(0))


def _block(**settings: Any) -> Block:
    """Makes a joint block with random biases and norms too, so that a missing one shows."""
    block = _fresh(streams=ALL_STREAMS, **settings)
    rng = np.random.default_rng(1)
    for path, value in nnx.to_flat_state(nnx.state(block, nnx.Param)):
        if path[-1] != "kernel":
            value[...] = value[...] + jnp.asarray(rng.uniform(-0.5, 0.5, value.shape), jnp.float32)
    return block


@pytest.fixture(scope="module")
def block() -> Block:
    return _block()


def _layer_norm(tokens: np.ndarray, params: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)  # biased, as in torch.nn.LayerNorm
    return centred / np.sqrt(variance + 1e-5) * params[f"{name}.scale"] + params[f"{name}.bias"]


def _attention(tokens: np.ndarray, params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Computes timm's Attention: one fused linear [3D, D], whose output is (q/k/v, head, channel)."""
    weight, bias = params["qkv.kernel"].reshape(WIDTH, 3 * WIDTH).T, params["qkv.bias"].reshape(3 * WIDTH)
    fused, channels, out = tokens @ weight.T + bias, WIDTH // HEADS, []
    for head in range(HEADS):
        query, key, value = (fused[..., i * WIDTH + head * channels : i * WIDTH + (head + 1) * channels] for i in range(3))
        logits = query @ key.swapaxes(1, 2) / math.sqrt(channels)
        weights = np.exp(logits)
        out.append(weights / weights.sum(axis=-1, keepdims=True) @ value)
    return np.concatenate(out, axis=-1) @ params["proj.kernel"].reshape(WIDTH, WIDTH) + params["proj.bias"]


def _mlp(tokens: np.ndarray, params: Mapping[str, np.ndarray]) -> np.ndarray:
    hidden = tokens @ params["fc1.kernel"] + params["fc1.bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return hidden @ params["fc2.kernel"] + params["fc2.bias"]


def _params(module: nnx.Module, prefix: str = "") -> dict[str, np.ndarray]:
    params = {name: np.asarray(value, np.float64) for name, value in flatten(module).items()}
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def _reference(block: Block, inputs: jax.Array, stream: str) -> np.ndarray:
    """Computes the pre-norm block in float64."""
    params = _params(block)
    tokens = np.asarray(inputs, np.float64)
    tokens = tokens + _attention(_layer_norm(tokens, params, f"norm1.{stream}"), _params(block, "attn."))
    return tokens + _mlp(_layer_norm(tokens, params, f"norm2.{stream}"), _params(block, "mlp."))


@pytest.mark.parametrize("stream", ALL_STREAMS)
def test_a_block_is_pre_norm_attention_and_mlp_with_the_norms_of_its_stream(block: Block, stream: str) -> None:
    np.testing.assert_allclose(_run(block, _tokens(), stream), _reference(block, _tokens(), stream), rtol=1e-4, atol=1e-5)


def test_the_fused_projection_is_ordered_by_query_key_value_then_head(block: Block) -> None:
    expected = _attention(np.asarray(_tokens(), np.float64), _params(block.attn))
    np.testing.assert_allclose(_call(block.attn, _tokens()), expected, rtol=1e-4, atol=1e-5)


def test_gelu_is_exact() -> None:
    mlp = Mlp(1, 1, FLOAT32, rngs=nnx.Rngs(0))
    mlp.fc1.kernel[...] = mlp.fc2.kernel[...] = jnp.ones((1, 1))
    x = np.linspace(-4, 4, 81, dtype=np.float32)[:, None]
    expected = [[float(v) * 0.5 * (1 + math.erf(float(v) / math.sqrt(2)))] for v in x[:, 0]]
    np.testing.assert_allclose(_call(mlp, x), expected, atol=1e-6)  # the tanh approximation is 5e-4 off


@pytest.mark.parametrize(("dtype", "tolerance"), [(FLOAT32, 1e-5), (BFLOAT16, 2e-2)])
@pytest.mark.slow
def test_the_gradient_of_an_mlp_needs_the_input_of_its_gelu_alone(dtype: jnp.dtype, tolerance: float) -> None:
    graph, params = nnx.split(Mlp(WIDTH, 4 * WIDTH, dtype, rngs=nnx.Rngs(0)))
    tokens = _tokens().astype(dtype)

    def plain(params: Any, tokens: jax.Array) -> jax.Array:
        mlp = nnx.merge(graph, params)
        assert mlp.fc1.bias is not None
        assert mlp.fc2.bias is not None
        hidden = tokens @ mlp.fc1.kernel[...].astype(dtype) + mlp.fc1.bias[...].astype(dtype)[None, None]
        hidden = (hidden * 0.5 * (1 + jax.lax.erf(hidden * math.sqrt(0.5)))).astype(dtype)
        return hidden @ mlp.fc2.kernel[...].astype(dtype) + mlp.fc2.bias[...].astype(dtype)[None, None]

    out, pull = jax.vjp(lambda params, tokens: nnx.merge(graph, params)(tokens), params, tokens)
    wanted, pull_plain = jax.vjp(plain, params, tokens)
    hidden = [leaf for leaf in jax.tree.leaves(pull) if leaf.size == tokens.size * 4]
    assert len(hidden) == 1
    cotangent = jnp.sin(jnp.arange(out.size)).reshape(out.shape).astype(dtype)
    for ours, theirs in zip(jax.tree.leaves((out, pull(cotangent))), jax.tree.leaves((wanted, pull_plain(cotangent))), strict=True):
        ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
        np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max())


def test_layer_norm_adds_1e_5_to_the_biased_variance() -> None:
    norm = layer_norm(4, ModelConfig().norm_eps, nnx.Rngs(0))
    tokens = np.array([[1.0, -1.0, 1.0, -1.0]], np.float32) * np.float32(2e-3)  # variance 4e-6, less than eps
    np.testing.assert_allclose(_call(norm, tokens), tokens / math.sqrt(4e-6 + 1e-5), rtol=1e-5)


def test_layer_norm_survives_a_large_mean() -> None:
    norm = layer_norm(4, 1e-5, nnx.Rngs(0))
    tokens = np.array([[1.0, -1.0, 1.0, -1.0]], np.float32)
    # E[x^2] - E[x]^2 would be wrong by half here
    np.testing.assert_allclose(_call(norm, tokens + 4096), tokens / math.sqrt(1 + 1e-5), rtol=1e-5)


def test_streams_share_attention_and_mlp_and_have_their_own_norms(block: Block) -> None:
    params = flatten(block)
    shared = {f"{part}.{kind}" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2") for kind in ("kernel", "bias")}
    own = {f"{norm}.{stream}.{kind}" for norm in ("norm1", "norm2") for stream in ALL_STREAMS for kind in ("scale", "bias")}
    assert set(params) == shared | own


@pytest.mark.parametrize("norm", ["norm1", "norm2"])
def test_a_norm_changes_its_own_stream_only(norm: str) -> None:
    block = _block()
    before = {stream: np.asarray(_run(block, _tokens(), stream)) for stream in ALL_STREAMS}
    getattr(block, norm)["audio"].bias[...] = getattr(block, norm)["audio"].bias[...] + jnp.arange(WIDTH, dtype=jnp.float32)
    changed = {stream for stream in ALL_STREAMS if not np.array_equal(before[stream], _run(block, _tokens(), stream))}
    assert changed == {"audio"}


@pytest.mark.parametrize("remat", [False, True])
def test_blocks_of_a_shape_are_traced_once(monkeypatch: pytest.MonkeyPatch, remat: bool) -> None:
    traced = []
    apply = Attention.__call__
    monkeypatch.setattr(Attention, "__call__", lambda *given: traced.append(1) or apply(*given))
    blocks = [Block(ModelConfig(remat=remat), WIDTH, HEADS, drop=0.1 * number, rngs=nnx.Rngs(number)) for number in range(3)]
    tokens = jnp.zeros((3 + remat, 11, WIDTH))  # a shape that no other test has
    jax.make_jaxpr(jax.grad(lambda tokens: run_blocks(blocks, tokens).sum()))(tokens)
    assert len(traced) == 1


def test_a_single_stream_block_knows_no_other_stream() -> None:
    block = _fresh()
    assert {name for name in flatten(block) if name.startswith("norm")} == {
        f"{norm}.main.{kind}" for norm in ("norm1", "norm2") for kind in ("scale", "bias")
    }
    with pytest.raises(KeyError, match="audio"):
        block(_tokens(), "audio")


def test_tokens_have_no_order(block: Block) -> None:
    order = np.random.default_rng(0).permutation(LENGTH)
    np.testing.assert_allclose(_run(block, _tokens()[:, order]), np.asarray(_run(block, _tokens()))[:, order], atol=1e-5)


def test_linear_layers_start_xavier_uniform_with_the_fused_qkv_as_one_matrix() -> None:
    width, hidden = 48, 96
    params = flatten(_fresh(width, mlp_ratio=2.0))
    fans = {"attn.qkv": (width, 3 * width), "attn.proj": (width, width), "mlp.fc1": (width, hidden), "mlp.fc2": (hidden, width)}
    for name, (fan_in, fan_out) in fans.items():
        kernel = np.asarray(params[f"{name}.kernel"])
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert kernel.size == fan_in * fan_out, name
        assert 0.98 * bound < np.abs(kernel).max() <= bound, name
        assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.05), name  # uniform, not normal
        assert abs(kernel.mean()) < 4 * bound / math.sqrt(3 * kernel.size), name


def test_biases_start_at_0_and_norms_as_the_identity() -> None:
    params = flatten(_fresh(streams=ALL_STREAMS))
    for name, value in params.items():
        if not name.endswith("kernel"):
            np.testing.assert_array_equal(value, 1 if name.endswith("scale") else 0, err_msg=name)


def test_every_kernel_starts_with_its_own_numbers() -> None:
    rngs = nnx.Rngs(0)
    params = [flatten(Attention(WIDTH, HEADS, FLOAT32, rngs=rngs)) for _ in range(2)]
    assert not np.array_equal(params[0]["qkv.kernel"], params[1]["qkv.kernel"])
    thirds = np.moveaxis(np.asarray(params[0]["qkv.kernel"]), 1, 0)
    assert not np.array_equal(thirds[0], thirds[1])


@pytest.mark.slow
def test_remat_changes_neither_values_nor_gradients() -> None:
    def loss(block: Block, tokens: jax.Array) -> jax.Array:
        return jnp.square(block(tokens, "audio")).mean()

    plain, remat = (nnx.jit(nnx.value_and_grad(loss))(_block(remat=remat), _tokens()) for remat in (False, True))
    np.testing.assert_allclose(plain[0], remat[0], rtol=1e-6)
    ours, again = flatten(plain[1]), flatten(remat[1])
    assert set(ours) == set(again)
    assert np.abs(ours["norm1.audio.scale"]).max() > 0
    for name, value in ours.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-4, atol=1e-7, err_msg=name)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters() -> None:
    rough, exact = _block(compute_dtype="bfloat16"), _block()
    assert {value.dtype for value in flatten(rough).values()} == {FLOAT32}
    out = _run(rough, _tokens().astype(jnp.bfloat16))
    assert out.dtype == BFLOAT16
    reference = np.asarray(_run(exact, _tokens()))
    error = np.abs(np.asarray(out, np.float32) - reference).max() / np.abs(reference).max()
    assert 0 < error < 0.03


def test_drop_path_at_0_and_in_evaluation_is_the_block_without_it() -> None:
    plain, dropping = _fresh(), Block(ModelConfig(), WIDTH, HEADS, drop=0.9, rngs=nnx.Rngs(0))
    key, expected = jax.random.key(0), plain(_tokens())
    np.testing.assert_array_equal(plain(_tokens(), "main", key), expected)
    np.testing.assert_array_equal(dropping(_tokens()), expected)
    assert (dropping(_tokens(), "main", key) != expected).any()


def test_drop_path_at_1_skips_the_block() -> None:
    block = Block(ModelConfig(), WIDTH, HEADS, drop=1.0, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(block(_tokens(), "main", jax.random.key(0)), _tokens())


@pytest.mark.parametrize("remat", [False, True])
def test_drop_path_leaves_whole_branches_out_by_its_key(remat: bool) -> None:
    block = Block(ModelConfig(remat=remat), WIDTH, HEADS, drop=0.5, rngs=nnx.Rngs(0))
    run = nnx.jit(lambda block, tokens, key: block(tokens, "main", key))
    tokens = jnp.tile(_tokens()[:1], (200, 1, 1))
    found = np.asarray(run(block, tokens, jax.random.key(1)))
    np.testing.assert_array_equal(found, run(block, tokens, jax.random.key(1)))
    assert (found != run(block, tokens, jax.random.key(2))).any()
    kinds = np.unique(found.round(4).reshape(200, -1), axis=0, return_counts=True)[1]
    assert len(kinds) == 4  # neither branch, one of the two, or both
    assert kinds.min() > 25


def test_drop_path_keeps_the_mean_of_a_branch() -> None:
    branch = jnp.ones((4000, 1, 1))
    found = np.asarray(drop_path(branch, 0.2, jax.random.key(0)))
    assert set(np.unique(found)) == {np.float32(0.0), np.float32(1.25)}
    assert found.mean() == pytest.approx(1, abs=0.05)


def test_drop_path_rises_with_depth_to_the_configs_rate() -> None:
    config = ModelConfig(depth=4, drop_path=0.4)
    assert [drop_rate(config, block) for block in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
