"""The second masked pass: what its loss depends on, its teacher, and pairs of one clip, also in micro-batches."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.data.batches import EvalOptions, eval_batches
from avmae_jax.errors import ConfigError
from avmae_jax.inference.masked import MaskedPass
from avmae_jax.models.guidance import patch_scores
from avmae_jax.models.masking import num_kept
from avmae_jax.models.sync import Sync
from avmae_jax.train.contrast_pass import TEACHER, ContrastPass, cosine_distance
from avmae_jax.train.losses import contrastive_loss
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.step import Context, State, make_step
from avmae_jax.trees import flatten
from tests.support import TINY, Clips, apply

PAIRS = {
    "model.kind": "sync", "model.class_token": True, "model.registers": 2, "model.audio_frames": 32, "model.clip_frames": 64,
    "model.contrast_mask_ratio": 0.25, "loss.contrast_weight": 0.3,
}  # fmt: skip
KEY = jax.random.key(5)


def config_of(**changes: Any) -> Config:
    return apply(Config(), TINY | PAIRS | {name.replace("__", "."): value for name, value in changes.items()})


@pytest.fixture(scope="module")
def model() -> Sync:
    return Sync(config_of().model, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    config = config_of()
    arrays = next(iter(eval_batches(Clips(6), config.model, config.data, 6, EvalOptions(pairs=True, one_pair=True))))
    return {name: jnp.asarray(value) for name, value in arrays.items() if name != "id"}


def losses_of(config: Config, model: Sync, batch: dict[str, jax.Array], extra: Any = None, key: jax.Array = KEY) -> dict[str, jax.Array]:
    task = PretrainingTask(config, None, Path("unused"))
    losses, metrics = nnx.jit(lambda model, batch, extra: task.losses(model, batch, Context(key, 1, extra)))(model, batch, extra or {})
    return losses | metrics


def params_of(model: Sync) -> Any:
    return nnx.state(model, PretrainingTask(config_of(), None, Path("unused")).trainable())


def moved(params: Any, by: float) -> Any:
    return jax.tree.map(lambda leaf: leaf + by * jnp.cos(jnp.arange(1.0, leaf.size + 1).reshape(leaf.shape)), params)


@pytest.mark.slow
def test_the_second_pass_leaves_reconstruction_as_it_is_and_draws_masks_of_its_own(model: Sync, batch: dict[str, jax.Array]) -> None:
    one, two = losses_of(config_of(), model, batch), losses_of(config_of(loss__contrast_pass=True), model, batch)
    for name in ("mae_audio", "mae_image"):
        np.testing.assert_array_equal(one[name], two[name])
    assert one["nce"] != two["nce"]
    same = config_of(loss__contrast_pass=True, model__contrast_mask_ratio=0.75)
    assert losses_of(same, model, batch)["nce"] not in (one["nce"], two["nce"])


def second(config: Config, model: Sync, batch: dict[str, jax.Array], extra: Any = None) -> tuple[Any, dict[str, jax.Array]]:
    masked = MaskedPass(config)
    run = ContrastPass(masked, PretrainingTask(config, None, Path("unused")).trainable())
    inputs, pairs = masked.rows(batch)
    return nnx.jit(lambda model, inputs, extra: run(model, inputs, pairs, Context(KEY, 1, extra)))(model, inputs, extra or {})[0], inputs


def test_it_sees_the_share_of_patches_that_the_config_says(model: Sync, batch: dict[str, jax.Array]) -> None:
    out, _ = second(config_of(loss__contrast_pass=True), model, batch)
    for modality, kept in (("audio", num_kept(16, 0.25)), ("image", num_kept(4, 0.25))):
        assert out.masks[modality].keep_ids.shape == (6, kept)
    order = np.asarray(out.masks["audio"].restore_ids)
    assert len({row.tobytes() for row in order}) == 6


@pytest.mark.slow
def test_a_teacher_s_highest_patches_are_kept(model: Sync, batch: dict[str, jax.Array]) -> None:
    config = config_of(loss__contrast_pass=True, loss__contrast_order="attention")
    teacher = moved(params_of(model), 0.05)
    out, inputs = second(config, model, batch, {TEACHER: teacher})
    graph, _, others = nnx.split(model, PretrainingTask(config, None, Path("unused")).trainable(), ...)
    guide: Any = nnx.merge(graph, teacher, others)
    scores = patch_scores(guide.encoder, guide.encoder.separate(inputs), "audio")
    kept = np.sort(np.asarray(out.masks["audio"].keep_ids), axis=1)
    expected = np.sort(np.argsort(-np.asarray(scores), axis=1)[:, : kept.shape[1]], axis=1)
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.slow
def test_distillation_is_zero_towards_itself_and_pulls_the_student_alone(model: Sync, batch: dict[str, jax.Array]) -> None:
    config = config_of(loss__contrast_pass=True, loss__distill_weight=1.0, model__contrast_mask_ratio=0.0)
    own = params_of(model)
    np.testing.assert_allclose(losses_of(config, model, batch, {TEACHER: own})["distill"], 0, atol=1e-5)
    assert losses_of(config, model, batch, {TEACHER: moved(own, 0.05)})["distill"] > 0.01
    with_weight = losses_of(config_of(loss__contrast_pass=True), model, batch)
    assert "distill" not in with_weight


def test_the_teacher_follows_faster_at_the_beginning(model: Sync) -> None:
    config = config_of(loss__contrast_pass=True, loss__contrast_order="attention", loss__teacher_momentum=0.9)
    task, before = PretrainingTask(config, None, Path("unused")), params_of(model)
    extra, after = task.init_extra(before), moved(before, 1.0)
    for step, momentum in ((0, 0.1), (9, 10 / 19), (1000, 0.9)):
        found = flatten(task.update_extra(extra, after, jnp.int32(step))[TEACHER])
        name = "encoder.audio.blocks.0.attn.qkv.kernel"
        np.testing.assert_allclose(found[name], momentum * flatten(before)[name] + (1 - momentum) * flatten(after)[name], atol=1e-5)
    assert PretrainingTask(config_of(loss__contrast_pass=True), None, Path("unused")).init_extra(before) == {}


def test_distance_is_one_minus_the_cosine() -> None:
    student, teacher = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[3.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(cosine_distance(student, teacher), 0.5, atol=1e-6)


def test_other_pairs_of_a_clip_are_no_negatives() -> None:
    rng = np.random.default_rng(0)
    audio, image = (jnp.asarray(rng.standard_normal((3, 2, 8)), jnp.float32) for _ in range(2))
    loss, _ = contrastive_loss(audio, image, temperature=0.2)
    a, v = (np.asarray(x).reshape(6, 8) / np.linalg.norm(np.asarray(x).reshape(6, 8), axis=1, keepdims=True) for x in (audio, image))
    expected = []
    for query in range(6):
        allowed = [other for other in range(6) if other == query or other // 2 != query // 2]
        scores = {other: a[other] @ v[query] / 0.2 for other in allowed}
        expected.append(np.log(sum(np.exp(score) for score in scores.values())) - scores[query])
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(contrastive_loss(audio[:, :1], image[:, :1])[0], contrastive_loss(audio[:, 0], image[:, 0])[0], rtol=1e-6)
    np.testing.assert_allclose(contrastive_loss(audio[:1], image[:1])[0], 0, atol=1e-6)  # one clip has no negatives


def test_other_pairs_of_a_clip_are_negatives_where_asked_for() -> None:
    rng = np.random.default_rng(0)
    audio, image = (jnp.asarray(rng.standard_normal((3, 2, 8)), jnp.float32) for _ in range(2))
    flat = [rows.reshape(6, 8) for rows in (audio, image)]
    np.testing.assert_allclose(contrastive_loss(audio, image, clip_negatives=True)[0], contrastive_loss(*flat)[0], rtol=1e-6)
    assert contrastive_loss(audio, image)[0] < contrastive_loss(*flat)[0]


def test_global_and_local_losses_are_averaged(model: Sync, batch: dict[str, jax.Array]) -> None:
    both = losses_of(config_of(loss__global_local=True), model, batch)
    alone = losses_of(config_of(), model, batch)
    np.testing.assert_allclose(both["nce_global"], alone["nce"], rtol=1e-6)
    np.testing.assert_allclose(both["nce"], (both["nce_global"] + both["nce_local"]) / 2, rtol=1e-6)
    assert both["nce_local"] != both["nce_global"]


@pytest.mark.parametrize("field", ["contrast_order", "distill_weight"])
def test_what_needs_the_second_pass_says_so(field: str) -> None:
    value = {"contrast_order": "attention", "distill_weight": 0.5}[field]
    with pytest.raises(ConfigError, match=rf"loss\.{field}.*loss\.contrast_pass"):
        dataclasses.replace(config_of().loss, **{field: value}).validate()


@pytest.mark.slow
def test_micro_batches_change_neither_losses_nor_gradient() -> None:
    changes = {"loss__contrast_pass": True, "loss__contrast_order": "attention", "loss__distill_weight": 0.5, "loss__global_local": True}
    config = config_of(**changes, data__frames=2, data__pairs_per_clip=2)
    arrays = next(iter(eval_batches(Clips(6), config.model, config.data, 6, EvalOptions(pairs=True))))
    clips = {name: jnp.asarray(value) for name, value in arrays.items() if name != "id"}
    assert clips["image"].shape[:2] == (6, 2)

    def stepped(micro_batches: int) -> tuple[dict[str, float], np.ndarray]:
        task = PretrainingTask(config, None, Path("unused"))
        graph, params, frozen = nnx.split(Sync(config.model, rngs=nnx.Rngs(0)), task.trainable(), ...)
        optimizer, schedule = optax.sgd(1.0), optax.constant_schedule(1.0)
        step = make_step(graph, task, optimizer, schedule, micro_batches=micro_batches, groups=1, comparing=task.comparing)
        extra = {TEACHER: moved(params, 0.05)}
        after, metrics = jax.jit(step)(State(params, frozen, optimizer.init(params), extra), clips, KEY, jnp.int32(3))
        gradient = [np.asarray(old - new).ravel() for old, new in zip(*map(jax.tree.leaves, (params, after.params)), strict=True)]
        return {name: float(value) for name, value in metrics.items()}, np.concatenate(gradient)

    (metrics, gradient), (parts, other) = stepped(1), stepped(3)
    assert parts == pytest.approx(metrics, rel=1e-5)
    assert metrics["distill"] > 0.001
    assert np.linalg.norm(gradient - other) < 1e-5 * np.linalg.norm(gradient)
