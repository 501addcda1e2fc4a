"""Adam with L2 in the gradient against a plain NumPy loop, the schedule at its boundaries, and which parameters are trained."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.config import ModelConfig, OptimConfig
from avmae_jax.models.layers import Position
from avmae_jax.train.optim import Layers, adam, averaged, learning_rate, trainable
from avmae_jax.trees import flatten
from avmae_jax.weights.build import described

STRONG = OptimConfig(learning_rate=0.01, weight_decay=0.1, decay_start=2, decay_every=1)  # so strong that mistakes show


def _torch_adam(config: OptimConfig, weights: np.ndarray, grads: list[np.ndarray], rates: list[float]) -> list[np.ndarray]:
    """torch.optim.Adam(weight_decay=...) in float64: L2 joins the gradient before the moments."""
    weights, first, second, history = weights.astype(np.float64), 0.0, 0.0, []
    for step, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        grad = grad + config.weight_decay * weights
        first = config.beta1 * first + (1 - config.beta1) * grad
        second = config.beta2 * second + (1 - config.beta2) * grad**2
        corrected = np.sqrt(second / (1 - config.beta2**step)) + config.eps
        weights = weights - rate * (first / (1 - config.beta1**step)) / corrected
        history.append(weights)
    return history


def _run(config: OptimConfig, weights: np.ndarray, grads: list[np.ndarray], steps_per_epoch: float) -> list[np.ndarray]:
    optimizer = adam(config, learning_rate(config, steps_per_epoch))
    params, history = jnp.asarray(weights), []
    state = optimizer.init(params)

    @jax.jit
    def step(grad: jax.Array, state: optax.OptState, params: jax.Array) -> tuple[Any, optax.OptState]:
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power, which strict promotion refuses
        for grad in grads:
            params, state = step(jnp.asarray(grad), state, params)
            history.append(np.asarray(params))
    return history


@pytest.mark.parametrize("config", [STRONG, OptimConfig(learning_rate=1e-3), dataclasses.replace(STRONG, beta1=0.5, beta2=0.9, eps=1e-2)])
def test_adam_is_torchs_with_l2_over_several_steps_and_a_decay(config: OptimConfig) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(7).astype(np.float32)
    grads = [rng.standard_normal(7).astype(np.float32) * scale for scale in (1, 1e-4, 10, 1, 0, 1)]
    rates = [config.learning_rate * config.decay_rate ** max(0, step // 2 - config.decay_start + 1) for step in range(6)]
    ours = _run(config, weights, grads, steps_per_epoch=2)
    for step, (mine, reference) in enumerate(zip(ours, _torch_adam(config, weights, grads, rates), strict=True)):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-7, err_msg=f"step {step}")
        assert mine.dtype == np.float32


def test_l2_goes_through_the_moments_unlike_adamw() -> None:
    # Without a gradient, L2 alone is normalised by its own size: a first step of one learning rate, whatever the weight.
    weights = np.array([1.0, -100.0, 0.01], np.float32)
    after = _run(STRONG, weights, [np.zeros(3, np.float32)], steps_per_epoch=100)[0]
    np.testing.assert_allclose(weights - after, STRONG.learning_rate * np.sign(weights), rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_without_l2_a_step_does_not_depend_on_the_size_of_the_gradients(scale: float) -> None:
    config = dataclasses.replace(STRONG, weight_decay=0.0, eps=1e-20)
    weights, grads = np.zeros(5, np.float32), list(np.random.default_rng(0).uniform(0.1, 1, (2, 5)).astype(np.float32))
    scaled = [grad * np.float32(scale) for grad in grads]
    np.testing.assert_allclose(_run(config, weights, scaled, 100)[-1], _run(config, weights, grads, 100)[-1], rtol=1e-4)


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 41_235, 3.7, 0.5, 1041.6667])
def test_the_rate_halves_once_epoch_10_is_finished_and_then_every_5(steps_per_epoch: float) -> None:
    schedule = jax.jit(learning_rate(OptimConfig(learning_rate=1e-4), steps_per_epoch))
    assert float(schedule(0)) == pytest.approx(1e-4)
    for times, epoch in enumerate((10, 15, 20, 25, 30), start=1):
        boundary = round(steps_per_epoch * epoch)
        assert float(schedule(boundary)) == pytest.approx(1e-4 * 0.5**times), f"first step after epoch {epoch}"
        if boundary > round(steps_per_epoch * (epoch - 5)):
            assert float(schedule(boundary - 1)) == pytest.approx(1e-4 * 0.5 ** (times - 1)), f"last step of epoch {epoch}"


@pytest.mark.parametrize(("start", "every", "rate"), [(5, 1, 0.5), (2, 1, 0.5), (10, 5, 0.1), (1, 3, 1.0)])
def test_the_schedule_is_multisteplr_epoch_by_epoch(start: int, every: int, rate: float) -> None:
    config = OptimConfig(learning_rate=1e-4, decay_start=start, decay_every=every, decay_rate=rate)
    milestones = list(range(start, 1000, every))  # as the original hands them to MultiStepLR
    expected = [1e-4 * rate ** sum(milestone <= epoch for milestone in milestones) for epoch in range(40) for _ in range(3)]
    ours = jax.jit(jax.vmap(learning_rate(config, 3)))(np.arange(120))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(steps_per_epoch=st.floats(0.1, 50_000), epoch=st.floats(0, 250))
def test_a_decay_is_at_most_half_a_step_from_the_end_of_its_epoch(steps_per_epoch: float, epoch: float) -> None:
    schedule = learning_rate(OptimConfig(learning_rate=1.0, decay_start=3, decay_every=2), steps_per_epoch)
    step = round(steps_per_epoch * epoch)
    due = [max(0, 1 + math.floor(((step + slack) / steps_per_epoch - 3) / 2)) for slack in (-0.501, 0.501)]
    assert due[0] <= -math.log2(np.asarray(schedule(step))) <= due[1]


@pytest.mark.parametrize("decay_every", [0, -1])
def test_a_decay_every_no_epochs_is_refused(decay_every: int) -> None:
    with pytest.raises(ValueError, match="decay_every"):
        learning_rate(OptimConfig(decay_every=decay_every), 10)


def test_the_rate_is_0_and_not_nan_after_any_number_of_steps() -> None:
    assert np.asarray(learning_rate(OptimConfig(), 1)(2**31 - 1)) == pytest.approx(0, abs=1e-30)


def test_the_defaults_are_the_recipes() -> None:
    expected = {
        "kind": "adam",
        "clip_norm": 0.0,
        "layer_decay": 1.0,
        "warmup_steps": 0,
        "warmup_share": 0.0,
        "cosine_floor": 0.0,
        "schedule": "steps",
        "learning_rate": 5e-5,
        "weight_decay": 5e-7,
        "beta1": 0.95,
        "beta2": 0.999,
        "eps": 1e-8,
        "decay_start": 10,
        "decay_every": 5,
        "decay_rate": 0.5,
    }
    assert dataclasses.asdict(OptimConfig()) == expected


class _Toy(nnx.Module):
    def __init__(self) -> None:
        self.positions = Position(jnp.ones((3, 2)))
        self.kernel = nnx.Param(jnp.ones((3, 2)))
        self.count = nnx.Variable(jnp.zeros(()))  # neither: no parameter at all


@pytest.mark.parametrize(("learned", "expected"), [(False, {"kernel"}), (True, {"kernel", "positions"})])
def test_positions_are_trained_only_when_learned(learned: bool, expected: set[str]) -> None:
    model, kinds = _Toy(), trainable(ModelConfig(learned_positions=learned))
    assert flatten(nnx.state(model, kinds)).keys() == expected
    optimizer = nnx.Optimizer(model, adam(STRONG, learning_rate(STRONG, 10)), wrt=kinds)

    @nnx.jit
    def step(model: _Toy, optimizer: nnx.Optimizer) -> None:
        grads = nnx.grad(lambda model: (model.positions[...] * model.kernel[...]).sum(), argnums=nnx.DiffState(0, kinds))(model)
        optimizer.update(model, grads)

    with jax.numpy_dtype_promotion("standard"):
        step(model, optimizer)
    assert np.all(model.kernel[...] != 1)
    # also not by weight decay
    assert np.all((model.positions[...] != 1) == learned)


def _update(config: OptimConfig, params: Any, gradients: Any, **options: Any) -> Any:
    """Returns the updates of a first step whose rate is 1."""
    optimizer = adam(config, optax.constant_schedule(1.0), **options)
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(gradients, optimizer.init(params), params)[0]


@pytest.mark.slow
def test_adamw_decays_kernels_alone_and_apart_from_the_moments() -> None:
    params: Any = nnx.state(described(ModelConfig(kind="cavmae_classifier", head_pool="attentive", **SMALL), 3), nnx.Param)
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 3.0), params)
    found = flatten(_update(OptimConfig(kind="adamw", weight_decay=0.1), params, jax.tree.map(jnp.zeros_like, params)))
    kernels = {name for name in found if name.endswith(".kernel")}
    assert {"head.query", "encoder.audio.positions", "encoder.image.modality", "encoder.norm.main.scale"} <= found.keys() - kernels
    assert {"head.linear.kernel", "encoder.audio.patch_embed.kernel", "encoder.blocks.0.attn.qkv.kernel"} <= kernels
    for name, update in found.items():
        np.testing.assert_allclose(update, -0.3 if name in kernels else 0.0, rtol=1e-6, err_msg=name)


def test_adamw_is_optaxs() -> None:
    config, rng = OptimConfig(kind="adamw", weight_decay=0.1), np.random.default_rng(0)
    params: Any = {"kernel": jnp.asarray(rng.standard_normal((3, 2)), jnp.float32)}
    gradients: Any = {"kernel": jnp.asarray(rng.standard_normal((3, 2)), jnp.float32)}
    theirs = optax.adamw(1.0, config.beta1, config.beta2, config.eps, weight_decay=0.1)
    with jax.numpy_dtype_promotion("standard"):
        expected: Any = theirs.update(gradients, theirs.init(params), params)[0]
    np.testing.assert_allclose(_update(config, params, gradients)["kernel"], expected["kernel"], rtol=1e-6)


@pytest.mark.parametrize(("scale", "factor"), [(100.0, 0.02), (0.1, 1.0)])
def test_clipping_shortens_a_gradient_that_is_too_long_and_no_other(scale: float, factor: float) -> None:
    # eps dominates the second moment, so that the update is in proportion to the gradient
    config = OptimConfig(weight_decay=0.0, eps=1e6, clip_norm=10.0)
    params: Any = {"a": jnp.zeros(1), "b": jnp.zeros(2)}
    gradients: Any = {"a": jnp.array([3.0]) * scale, "b": jnp.array([4.0, 0.0]) * scale}
    clipped, plain = (_update(dataclasses.replace(config, clip_norm=norm), params, gradients) for norm in (10.0, 0.0))
    for name in params:
        np.testing.assert_allclose(clipped[name], plain[name] * factor, rtol=1e-3)


SMALL: Any = {"depth": 3, "joint_depth": 1, "width": 8, "heads": 2, "audio_frames": 32, "mel_bins": 32, "image_size": 32}
DEEP: Any = {"decoder_depth": 1, "decoder_width": 8, "decoder_heads": 2, "learned_positions": True}


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        (
            "cavmae_classifier",
            {
                "encoder.audio.patch_embed.kernel": 0.5**4,
                "encoder.image.positions": 0.5**4,
                "encoder.audio.modality": 0.5**4,
                "encoder.audio.blocks.0.attn.qkv.kernel": 0.5**3,
                "encoder.image.blocks.1.norm1.main.scale": 0.5**2,
                "encoder.blocks.0.mlp.fc2.bias": 0.5,
                "encoder.norm.audio.scale": 1.0,
                "head.linear.kernel": 4.0,
            },
        ),
        ("cavmae", {"encoder.blocks.0.mlp.fc1.kernel": 0.5, "decoder.blocks.0.mlp.fc1.kernel": 1.0, "decoder.ends.audio.positions": 1.0}),
        (
            "ast",
            {"tower.prefix": 0.5**4, "tower.blocks.0.mlp.fc1.kernel": 0.5**3, "tower.blocks.2.mlp.fc1.kernel": 0.5, "norm.main.bias": 1.0},
        ),
    ],
)
def test_each_layer_below_the_head_has_a_lower_rate(kind: str, factors: dict[str, float]) -> None:
    model = ModelConfig(kind=kind, modality="audio" if kind == "ast" else "both", **SMALL, **DEEP)
    params: Any = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), nnx.state(described(model, 3), nnx.Param))
    layers = Layers.of(model)
    config, plain = OptimConfig(layer_decay=0.5), OptimConfig()
    found, whole = (flatten(_update(each, params, params, head_ratio=4.0, layers=layers)) for each in (config, plain))
    for name, factor in factors.items():
        np.testing.assert_allclose(found[name], whole[name] * (factor / 4 if name.startswith("head.") else factor), rtol=1e-6, err_msg=name)
    assert {float(np.ravel(found[name] / whole[name])[0]) for name in found} <= {0.5**n for n in range(5)}


def test_layer_decay_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer_decay.*0\.5"):
        adam(OptimConfig(layer_decay=0.5), optax.constant_schedule(1.0))


def test_a_warm_up_rises_evenly_and_then_leaves_the_schedule_alone() -> None:
    config = OptimConfig(learning_rate=1e-3, warmup_steps=4)
    rates = np.asarray(jax.vmap(learning_rate(config, 3))(np.arange(60)))
    np.testing.assert_allclose(rates[:5], np.array([0.25, 0.5, 0.75, 1, 1]) * 1e-3, rtol=1e-6)
    np.testing.assert_array_equal(rates[4:], jax.vmap(learning_rate(OptimConfig(learning_rate=1e-3), 3))(np.arange(4, 60)))


def test_the_cosine_falls_from_the_end_of_the_warm_up_to_0_at_the_end_of_the_run() -> None:
    config = OptimConfig(learning_rate=2.0, warmup_steps=4, schedule="cosine")
    rates = np.asarray(jax.vmap(learning_rate(config, 3, 24))(np.arange(25)))
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates[:4], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(rates[4:], 1 + np.cos(np.pi * np.arange(21) / 20), atol=1e-6)
    assert rates[14] == pytest.approx(1.0)


def test_the_cosine_ends_at_its_floor_after_a_warm_up_over_a_share_of_the_run() -> None:
    config = OptimConfig(learning_rate=2e-4, warmup_share=0.1, schedule="cosine", cosine_floor=0.1)
    rates = np.asarray(jax.vmap(learning_rate(config, 7, 59))(np.arange(60)))
    np.testing.assert_allclose(rates[:5], 2e-4 * np.arange(1, 6) / 5, rtol=1e-6)  # int(5.9) steps
    np.testing.assert_allclose(rates[5:], 2e-5 + 0.9e-4 * (1 + np.cos(np.pi * np.arange(55) / 54)), rtol=1e-5)
    in_steps = OptimConfig(learning_rate=1.0, warmup_share=0.5)
    np.testing.assert_array_equal(
        jax.vmap(learning_rate(in_steps, 3, 8))(np.arange(40)),
        jax.vmap(learning_rate(OptimConfig(learning_rate=1.0, warmup_steps=4), 3))(np.arange(40)),
    )


@pytest.mark.parametrize(
    ("config", "steps", "match"),
    [
        (OptimConfig(warmup_share=0.1), 0, r"optim\.warmup_share is 0\.1.* 0 steps"),
        (OptimConfig(warmup_steps=11), 10, r"optim\.warmup_steps is 11.* 10 steps"),
        (OptimConfig(schedule="cosine"), 0, r"optim\.schedule is cosine.* 0 steps"),
    ],
)
def test_a_schedule_that_does_not_fit_the_run_is_refused(config: OptimConfig, steps: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        learning_rate(config, 5, steps)


def test_the_moving_average_is_its_formula_over_three_steps() -> None:
    values, average = [np.float32(x) for x in (1.0, -2.0, 5.0, 11.0)], {"w": jnp.float32(1.0)}
    expected = values[0]
    for value in values[1:]:
        average = averaged(average, {"w": jnp.float32(value)}, 0.75)
        expected = 0.75 * expected + 0.25 * value
        assert float(average["w"]) == expected
