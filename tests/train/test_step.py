"""Checks that a step computed in parts is the step computed at once."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avmae_jax.config import Config, ModelConfig
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.layers import Block, Mlp, run_blocks
from avmae_jax.models.rows import draw
from avmae_jax.train import optim
from avmae_jax.train.losses import pretraining_losses, pretraining_weights
from avmae_jax.train.step import Context, Metrics, State, compiler_options, make_step
from tests.support import TINY, apply

KEY = jax.random.key(7)


class Line(nnx.Module):
    """Computes y = x w + b, with b frozen."""

    def __init__(self) -> None:
        self.w = nnx.Param(jnp.array([2.0, -1.0]))
        self.b = nnx.Variable(jnp.array(0.5))


class Fit:
    """Reports in its metrics which rows, random numbers and groups it was given; `extra` sums the steps' numbers and parameters."""

    def __init__(self, **weights: float):
        self.loss_weights = weights or {"square": 1.0}

    def losses(self, model: Line, batch: dict[str, jax.Array], context: Context) -> tuple[Metrics, Metrics]:
        error = batch["x"] @ model.w[...] + model.b[...] - batch["y"]
        losses = {"square": jnp.square(error).mean(), "absolute": jnp.abs(error).mean()}
        drawn = draw(jax.random.uniform, context.key, batch["row"].shape)
        seen = {"product": jnp.prod(batch["row"]), "drawn": (drawn * batch["row"]).mean(), "groups": jnp.float32(context.groups)}
        return {name: losses[name] for name in self.loss_weights}, seen

    def update_extra(self, extra: Any, params: Any, step: jax.Array) -> Any:
        return {"steps": extra["steps"] + step, "w": extra["w"] + params["w"][...]}


def line_batch(size: int) -> dict[str, jax.Array]:
    x, y = jax.random.normal(KEY, (size, 2)), jax.random.normal(jax.random.key(8), (size,))
    return {"x": x, "y": y, "row": jnp.array([2, 3, 5, 7, 11, 13, 17, 19][:size], jnp.float32)}


def run_line(
    size: int, micro_batches: int, *, groups: int = 1, index: int = 0, objective: Fit | None = None
) -> tuple[State, State, dict[str, Any]]:
    graph, params, frozen = nnx.split(Line(), nnx.Param, ...)
    optimizer, schedule = optax.sgd(1.0), optax.linear_schedule(0.5, 0.0, 10)
    before = State(params, frozen, optimizer.init(params), {"steps": jnp.int32(0), "w": jnp.zeros(2)})
    step = jax.jit(make_step(graph, objective or Fit(), optimizer, schedule, micro_batches=micro_batches, groups=groups))
    after, metrics = step(before, line_batch(size), KEY, jnp.int32(index))
    return before, after, metrics


@pytest.mark.parametrize("micro_batches", [1, 2, 4, 8])
def test_one_step_follows_the_mean_gradient(micro_batches: int) -> None:
    batch = line_batch(8)
    before, after, metrics = run_line(8, micro_batches)
    model = Line()
    error = batch["x"] @ model.w[...] + model.b[...] - batch["y"]
    np.testing.assert_allclose(after.params["w"][...], model.w[...] - 2 * (error[:, None] * batch["x"]).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], jnp.square(error).mean(), rtol=1e-6)
    assert jax.tree.leaves(after.frozen) == jax.tree.leaves(before.frozen)


def test_each_part_takes_rows_of_every_device() -> None:
    """With 8 rows in 2 parts: rows 0, 2, 4, 6 and 1, 3, 5, 7; devices hold neighbouring rows, so each keeps its own."""
    _, _, metrics = run_line(8, 2, groups=2)
    assert metrics["product"] == (2 * 5 * 11 * 17 + 3 * 7 * 13 * 19) / 2
    assert metrics["groups"] == 2


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_each_row_draws_what_it_draws_in_the_whole_batch(micro_batches: int) -> None:
    _, _, whole = run_line(8, 1)
    _, _, parts = run_line(8, micro_batches)
    np.testing.assert_allclose(parts["drawn"], whole["drawn"], rtol=1e-6)


def test_a_step_is_repeated_to_the_last_bit() -> None:
    runs = [run_line(8, 4)[1:] for _ in range(2)]
    assert [leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(runs[0]))] == [
        leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(runs[1]))
    ]


def test_the_length_of_the_gradient_is_reported() -> None:
    before, after, metrics = run_line(8, 2)
    np.testing.assert_allclose(metrics["gradient_norm"], jnp.linalg.norm(after.params["w"][...] - before.params["w"][...]), rtol=1e-5)


def test_losses_by_name_add_up_by_their_weights() -> None:
    before, after, metrics = run_line(8, 2, objective=Fit(square=0.5, absolute=3.0))
    np.testing.assert_allclose(metrics["loss"], 0.5 * metrics["square"] + 3 * metrics["absolute"], rtol=1e-6)
    alone = {name: run_line(8, 1, objective=Fit(**{name: 1.0})) for name in ("square", "absolute")}
    moved = {name: after.params["w"][...] - before.params["w"][...] for name, (before, after, _) in alone.items()}
    np.testing.assert_allclose(after.params["w"][...] - before.params["w"][...], 0.5 * moved["square"] + 3 * moved["absolute"], rtol=1e-5)


def test_extra_is_updated_with_the_new_parameters_and_the_rate_is_the_schedules() -> None:
    _, after, metrics = run_line(8, 2, index=4)
    assert int(after.extra["steps"]) == 4
    np.testing.assert_array_equal(after.extra["w"], after.params["w"][...])
    assert float(metrics["learning_rate"]) == pytest.approx(0.3)


@pytest.mark.slow
def test_micro_batches_of_the_model_give_its_gradient() -> None:
    """Without the contrastive loss, with the same masks, all that is left is rounding."""
    config = apply(Config(), TINY | {"loss.contrast_weight": 0.0})
    graph, params, frozen = nnx.split(CAVMAE(config.model, rngs=nnx.Rngs(0)), optim.trainable(config.model), ...)
    keys = jax.random.split(KEY, 4)
    audio, image = (rows * columns for rows, columns in (config.model.grid("audio"), config.model.grid("image")))
    batch = {
        "inputs": {"audio": jax.random.normal(keys[0], (8, 64, 128)), "image": jax.random.normal(keys[1], (8, 32, 32, 3))},
        "noise": {"audio": jax.random.uniform(keys[2], (8, audio)), "image": jax.random.uniform(keys[3], (8, image))},
    }

    class Masked(Fit):
        def losses(self, model: CAVMAE, batch: dict[str, Any], context: Context) -> tuple[Metrics, Metrics]:  # pyright: ignore[reportIncompatibleMethodOverride]
            out = model(batch["inputs"], batch["noise"])
            return pretraining_losses(out, batch["inputs"], config.loss, patch=config.model.patch, groups=context.groups)

        def update_extra(self, extra: Any, params: Any, step: jax.Array) -> Any:
            return extra

    optimizer, objective = optax.sgd(1.0), Masked(**pretraining_weights(config.loss))
    initial = State(params, frozen, optimizer.init(params), {})
    results = []
    for micro_batches in (1, 4):
        step = jax.jit(make_step(graph, objective, optimizer, optax.constant_schedule(1.0), micro_batches=micro_batches, groups=1))
        results.append(step(initial, batch, KEY, jnp.int32(0)))
    (whole, whole_metrics), (parts, parts_metrics) = results
    for name in ("loss", "mae_audio", "mae_image"):
        np.testing.assert_allclose(parts_metrics[name], whole_metrics[name], rtol=1e-6)
    assert parts_metrics["nce"] < whole_metrics["nce"]  # negatives come from one micro-batch
    changed = 0
    for start, one, other in zip(*map(jax.tree.leaves, jax.device_get((params, whole.params, parts.params))), strict=True):
        np.testing.assert_allclose(other - start, one - start, rtol=1e-4, atol=1e-7)
        changed += bool((one != start).any())
    assert changed > 50


def test_only_training_has_a_key_to_drop_by_which_is_none_of_the_masks() -> None:
    key = jax.random.key(3)
    assert Context(key, 1, {}).drop_key is None
    dropping = Context(key, 1, {}, training=True).drop_key
    assert isinstance(dropping, jax.Array)
    taken = [key, *jax.random.split(key, 4), *(jax.random.fold_in(key, number) for number in range(100))]
    assert not any((jax.random.key_data(dropping) == jax.random.key_data(other)).all() for other in taken)


def widest_kernels(depth: int, options: dict[str, str]) -> int:
    """Returns the most arguments of a kernel in the gradient of a stack of blocks."""
    blocks = nnx.List(Block(ModelConfig(), 16, 2, rngs=nnx.Rngs(0)) for _ in range(depth))
    graph, params = nnx.split(blocks)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        return jnp.square(run_blocks(nnx.merge(graph, params), tokens)).sum()

    compiled = jax.jit(jax.grad(loss), compiler_options=options).lower(params, jnp.ones((2, 8, 16))).compile()
    return max(arguments.count("%") for arguments in re.findall(r" fusion\((.*?)\), kind", compiled.as_text() or ""))


@pytest.mark.slow
def test_a_kernel_on_a_cpu_does_not_grow_with_the_number_of_blocks() -> None:
    """Otherwise no two blocks have the same kernels, and each is compiled by itself."""
    assert widest_kernels(2, compiler_options("cpu")) == widest_kernels(5, compiler_options("cpu"))
    assert widest_kernels(5, compiler_options("cpu")) < widest_kernels(5, {})  # else the options do nothing any more


@pytest.mark.slow
def test_a_cpu_keeps_one_array_of_a_hidden_layer() -> None:
    """Measures what each layer adds: left alone, XLA computes the GELU of the backward pass early, with the other one, and keeps it."""

    def kept(depth: int) -> int:
        graph, params = nnx.split(nnx.List(Mlp(32, 256, jnp.dtype("float32"), rngs=nnx.Rngs(0)) for _ in range(depth)))

        def loss(params: Any, tokens: jax.Array) -> jax.Array:
            for mlp in nnx.merge(graph, params):
                tokens += mlp(tokens)
            return jnp.square(tokens).sum()

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=compiler_options("cpu"))
        needed: Any = gradient.lower(params, jnp.ones((2, 512, 32))).compile().memory_analysis()
        return needed.temp_size_in_bytes

    hidden = 2 * 512 * 256 * 4
    assert kept(6) - kept(2) < 4 * 1.5 * hidden
