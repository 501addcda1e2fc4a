"""Tests what the pretraining model keeps in rematerialised and bfloat16 passes: gradients, losses and types."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import LossConfig
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.train.losses import pretraining_losses, pretraining_weights, weighted_sum
from avmae_jax.trees import flatten
from avmae_jax.weights.build import described
from tests.models.tiny_cavmae import CONFIG, Arrays, arrays_of, make_inputs, random_model


def _loss(model: CAVMAE, inputs: Arrays, noise: Arrays) -> tuple[jax.Array, Arrays]:
    config = LossConfig(contrast_weight=1.0)  # so that the gradients of the contrastive loss show
    losses, metrics = pretraining_losses(model(inputs, noise), inputs, config, patch=16)
    return weighted_sum(losses, pretraining_weights(config)), losses | metrics


_step = nnx.jit(nnx.value_and_grad(_loss, has_aux=True))


@pytest.fixture(scope="module")
def step(model: CAVMAE) -> tuple[Any, Any]:
    """Computes ((loss, parts), gradients)."""
    return _step(model, *make_inputs())


@pytest.mark.slow
def test_every_parameter_that_is_used_gets_a_gradient(step: tuple[Any, Any]) -> None:
    grads = {name: np.asarray(value) for name, value in flatten(step[1]).items()}
    assert all(np.isfinite(value).all() for value in grads.values())
    assert not [name for name, value in grads.items() if not np.abs(value).max() > 0]


@pytest.mark.slow
def test_remat_gives_the_same_loss_and_gradients(model: CAVMAE, step: tuple[Any, Any]) -> None:
    rematted = random_model(remat=True)
    graph, weights = nnx.split(rematted)
    jaxpr = jax.make_jaxpr(lambda weights: nnx.merge(graph, weights)(*make_inputs()).predictions["audio"])(weights)
    # one separate block a tower, the joint block three times, one decoder block
    assert sum(equation.primitive.name.startswith("remat") for equation in jaxpr.jaxpr.eqns) == 2 + 3 + 1
    (loss, _), grads = _step(rematted, *make_inputs())
    assert float(loss) == pytest.approx(float(step[0][0]), rel=1e-6)
    again = flatten(grads)
    for name, value in flatten(step[1]).items():
        np.testing.assert_allclose(again[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_bfloat16_is_close_with_float32_parameters_losses_and_gradients(step: tuple[Any, Any]) -> None:
    rough = random_model(compute_dtype="bfloat16")
    assert {value.dtype for value in flatten(rough).values()} == {jnp.dtype("float32")}
    (_, parts), grads = _step(rough, *make_inputs())
    for name, value in parts.items():
        assert value.dtype == jnp.float32
        assert float(value) == pytest.approx(float(step[0][1][name]), rel=0.05, abs=0.05), name
    assert any(float(value) != float(step[0][1][name]) for name, value in parts.items())  # it did compute otherwise
    exact, ours = ({name: np.asarray(value) for name, value in flatten(state).items()} for state in (step[1], grads))
    assert {value.dtype for value in ours.values()} == {np.dtype("float32")}
    norm = math.sqrt(sum(float(np.square(value).sum()) for value in exact.values()))
    error = math.sqrt(sum(float(np.square(ours[name] - value).sum()) for name, value in exact.items()))
    assert error < 0.1 * norm


def test_bfloat16_streams_leave_the_model_in_float32() -> None:
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    out = nnx.eval_shape(lambda model, *inputs: arrays_of(model(*inputs)), described(config), *make_inputs())
    assert {x.dtype for x in out.values()} == {jnp.dtype("float32")}
    tokens = nnx.eval_shape(lambda model, inputs: model.separate(inputs), described(config), make_inputs()[0])
    assert {x.dtype for x in tokens.values()} == {jnp.dtype("bfloat16")}
