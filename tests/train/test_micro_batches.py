"""Checks that micro-batches give the losses and the gradient of the whole batch, with random masks and drop-path."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.data.batches import eval_batches
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.step import State, make_evaluation, make_step
from tests.support import TINY, Clips, apply

KEY = jax.random.key(5)
CHANGES = TINY | {"loss.contrast_weight": 1.0, "model.drop_path": 0.4, "model.audio_mask_mode": "tf", "train.batch_size": 8}


@functools.cache
def batch() -> dict[str, jax.Array]:
    config = apply(Config(), CHANGES)
    arrays = next(iter(eval_batches(Clips(8), config.model, config.data, 8)))
    return {name: jnp.asarray(value) for name, value in arrays.items() if name != "id"}


@functools.cache
def compiled(micro_batches: int, **changes: Any) -> tuple[Any, State]:
    """Returns the compiled step, with a rate of 1, and the state before it."""
    config = apply(Config(), CHANGES | {name.replace("__", "."): value for name, value in changes.items()})
    task = PretrainingTask(config, None, Path("unused"))
    graph, params, frozen = nnx.split(CAVMAE(config.model, rngs=nnx.Rngs(0)), task.trainable(), ...)
    optimizer, schedule = optax.sgd(1.0), optax.constant_schedule(1.0)
    step = make_step(graph, task, optimizer, schedule, micro_batches=micro_batches, groups=1, comparing=task.comparing)
    state = State(params, frozen, optimizer.init(params), {})
    return jax.jit(step).lower(state, batch(), KEY, jnp.int32(3)).compile(), state


def stepped(micro_batches: int, **changes: Any) -> tuple[dict[str, float], list[np.ndarray]]:
    """Returns the metrics of a step and its gradient."""
    step, state = compiled(micro_batches, **changes)
    after, metrics = step(state, batch(), KEY, jnp.int32(3))
    moved = jax.tree.map(lambda old, new: np.asarray(old - new), state.params, after.params)
    return {name: float(value) for name, value in metrics.items()}, jax.tree.leaves(moved)


@pytest.mark.parametrize(("micro_batches", "remat"), [(2, False), (8, False), (4, True)])
@pytest.mark.slow
def test_with_global_negatives_micro_batches_change_nothing(micro_batches: int, remat: bool) -> None:
    (metrics, gradient), (parts, other) = stepped(1), stepped(micro_batches, model__remat=remat)
    assert metrics["nce"] > 1
    assert parts == pytest.approx(metrics, rel=1e-5)
    difference = np.sqrt(sum(np.square(one - same).sum() for one, same in zip(gradient, other, strict=True)))
    assert difference < 1e-5 * metrics["gradient_norm"]
    assert len(gradient) > 50


@pytest.mark.slow
def test_other_negatives_come_from_what_is_computed_at_once() -> None:
    whole, _ = stepped(1)
    parts, _ = stepped(8, loss__negatives="micro_batch")
    assert parts["nce"] < whole["nce"]
    for name in ("mae_audio", "mae_image"):  # with the same masks
        assert parts[name] == pytest.approx(whole[name], rel=1e-5)


@pytest.mark.slow
def test_two_passes_need_the_memory_of_a_micro_batch() -> None:
    whole, once, twice = (
        compiled(count, **changes)[0].memory_analysis().temp_size_in_bytes
        for count, changes in ((1, {}), (8, {"loss__negatives": "micro_batch"}), (8, {}))
    )
    assert twice < 1.1 * once < 0.6 * whole


@pytest.mark.parametrize(("negatives", "expected"), [("global", 8), ("micro_batch", 4), ("shard", 2)])
def test_the_pairs_compared_are_counted(negatives: str, expected: int) -> None:
    task = PretrainingTask(apply(Config(), CHANGES | {"loss.negatives": negatives}), None, Path("unused"))
    assert task.negatives(micro_batch=4, groups=2) == expected
    assert (task.comparing is task) == (negatives == "global")


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.slow
def test_an_evaluation_in_parts_is_that_of_the_whole_batch(remat: bool) -> None:
    found = []
    for micro_batch, recomputed in ((8, False), (2, remat)):
        config = apply(Config(), CHANGES | {"model.remat": recomputed})
        task = PretrainingTask(config, None, Path("unused"))
        graph, params, frozen = nnx.split(CAVMAE(config.model, rngs=nnx.Rngs(0)), task.trainable(), ...)
        evaluate = make_evaluation(graph, task, micro_batch=micro_batch, groups=1, comparing=task.comparing)
        found.append({name: float(value) for name, value in jax.jit(evaluate)(State(params, frozen, {}, {}), batch(), KEY).items()})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
