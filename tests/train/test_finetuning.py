"""Fine-tuning: which parameters move and how fast, and that a classifier learns what it is shown."""

import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avmae_jax.checkpoint.manager import newest_meta
from avmae_jax.config import Config, ModelConfig, OptimConfig, TuneConfig
from avmae_jax.data.clip import Clip
from avmae_jax.data.example import example
from avmae_jax.data.frontend import model_inputs
from avmae_jax.data.sources import open_source
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import DatasetError
from avmae_jax.inference.forward import Classify, probabilities
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.modes import MULTIMODAL, Mode, find_mode
from avmae_jax.report.build import report
from avmae_jax.report.run_folder import RunFolder
from avmae_jax.train import optim
from avmae_jax.train.finetuning import FinetuningTask, swap
from avmae_jax.train.losses import weighted_sum
from avmae_jax.train.run import finetune
from avmae_jax.train.step import Context, Metrics
from avmae_jax.trees import flatten
from avmae_jax.weights.trained import load_trained
from configs.finetune_instruments import get_config
from tests.support import Clips, apply

pytestmark = pytest.mark.usefixtures("optax_promotion")

TINY = ModelConfig(kind="cavmae_classifier", size="tiny", width=32, heads=4, depth=2, audio_frames=64, image_size=32)
MODES = ["multimodal", "audioonly", "videoonly"]


def task(**tune: object) -> FinetuningTask:
    return FinetuningTask(Config(model=TINY, tune=TuneConfig(**tune)), None, "abc", Path("unused"))  # pyright: ignore[reportArgumentType]


def total_loss(tuning: FinetuningTask, model: Any, batch: Any, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
    losses, _ = tuning.losses(model, batch, Context(jax.random.key(0) if key is None else key, 1, {}))
    return weighted_sum(losses, tuning.loss_weights), losses


def logits(model: CAVMAEClassifier, batch: Any, config: Config, mode: Mode = MULTIMODAL) -> jax.Array:
    return model(model_inputs(batch, config), mode)


def batch(size: int = 4) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    samples = (TINY.audio_frames - 1) * 160 + 400
    image = rng.integers(0, 255, (size, TINY.image_size, TINY.image_size, 3)).astype(np.uint8)
    arrays = {
        "waveform": (rng.standard_normal((size, samples)) * 1000).astype(np.int16),
        "samples": np.full(size, samples, np.int32),
        "image": image,
        "targets": np.eye(3, dtype=np.float32)[np.arange(size) % 3],
    }
    return {name: jnp.asarray(value) for name, value in arrays.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.slow
def test_what_is_trained_is_what_has_a_gradient(mode: str) -> None:
    """The rule by names, against the derivative itself."""
    tuning = task(mode=mode)
    model = CAVMAEClassifier(TINY, 3, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    gradients = flatten(jax.jit(jax.grad(lambda params: total_loss(tuning, nnx.merge(graph, params), batch())[0]))(params))
    _, trained, _ = nnx.split(model, tuning.trainable(), ...)
    # The gradient of a bias of the keys is zero but for rounding; it lies in one tensor with the others'.
    assert set(flatten(trained)) == {name for name, gradient in gradients.items() if jnp.abs(gradient).max() > 0}


@pytest.mark.parametrize(("loss", "audio", "image"), [("bce", 0.5, 0.25), ("ce", 2.0, 0.0)])
@pytest.mark.slow
def test_the_losses_of_one_modality_alone_are_added_by_their_weights(loss: str, audio: float, image: float) -> None:
    """And all that any of the modes runs through is trained."""
    tuning, model, given = task(loss=loss, audio_weight=audio, image_weight=image), CAVMAEClassifier(TINY, 3, rngs=nnx.Rngs(0)), batch()
    cross_entropy = optax.sigmoid_binary_cross_entropy if loss == "bce" else optax.softmax_cross_entropy
    weights = {"multimodal": 1.0, "missingaudioonly": audio, "missingvideoonly": image}
    expected = {name: cross_entropy(logits(model, given, tuning.config, find_mode(name)), given["targets"]).mean() for name in weights}
    graph, params = nnx.split(model)
    both = jax.jit(jax.value_and_grad(lambda params: total_loss(tuning, nnx.merge(graph, params), given), has_aux=True))
    (total, losses), gradients = both(params)
    np.testing.assert_allclose(total, sum(weights[mode] * loss for mode, loss in expected.items()), rtol=1e-5)
    for mode, weight in weights.items():
        assert (f"loss_{mode}" in losses) == (weight > 0)
        if weight:
            np.testing.assert_allclose(losses[f"loss_{mode}"], expected[mode], rtol=1e-5)
    _, trained, _ = nnx.split(model, tuning.trainable(), ...)
    assert set(flatten(trained)) == {name for name, gradient in flatten(gradients).items() if jnp.abs(gradient).max() > 0}


def test_a_share_of_the_clips_gets_the_picture_before() -> None:
    images = jnp.arange(400.0).reshape(400, 1, 1, 1) * jnp.ones((1, 2, 2, 3))
    swapped = np.asarray(swap(images, 0.3, jax.random.key(0)))
    assert (swapped == swapped[:, :1, :1, :1]).all()  # whole pictures
    moved = swapped[:, 0, 0, 0] != np.arange(400)
    np.testing.assert_array_equal(swapped[:, 0, 0, 0], np.where(moved, np.roll(np.arange(400), 1), np.arange(400)))
    assert 90 <= moved.sum() <= 150
    for share, expected in ((0.0, images), (1.0, jnp.roll(images, 1, axis=0))):
        np.testing.assert_array_equal(swap(images, share, jax.random.key(0)), expected)


@pytest.mark.slow
def test_swapped_pictures_reach_the_loss_of_a_classifier_of_both_alone() -> None:
    """The labels stay with the sounds."""
    model, given, key = CAVMAEClassifier(TINY, 3, rngs=nnx.Rngs(0)), batch(), jax.random.key(0)
    moved = {**given, "image": jnp.roll(given["image"], 1, axis=0)}
    for mode, changes in (("multimodal", True), ("audioonly", False), ("videoonly", False)):
        plain, swapping = task(mode=mode), task(mode=mode, swap_pictures=1.0)
        expected, _ = total_loss(plain, model, moved if changes else given, key)
        np.testing.assert_allclose(total_loss(swapping, model, given, key)[0], expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"tune\.swap_pictures.*1\.5"):
        task(swap_pictures=1.5)


def test_weights_of_single_modalities_are_checked_and_have_no_effect_on_a_model_of_one() -> None:
    with pytest.raises(ValueError, match=r"tune\.image_weight.*-1"):
        task(image_weight=-1)
    alone = [task(mode="audioonly", audio_weight=weight) for weight in (0.0, 1.0)]
    model, given = CAVMAEClassifier(TINY, 3, rngs=nnx.Rngs(0)), batch()
    first, second = (float(total_loss(tuning, model, given)[0]) for tuning in alone)
    assert first == second


def test_a_frozen_base_trains_the_head_alone() -> None:
    _, trained, _ = nnx.split(CAVMAEClassifier(TINY, 3, rngs=nnx.Rngs(0)), task(freeze_base=True).trainable(), ...)
    assert set(flatten(trained)) == {"head.norm.scale", "head.norm.bias", "head.linear.kernel", "head.linear.bias"}


def test_the_head_has_a_rate_of_its_own() -> None:
    params: Any = {"encoder": {"w": jnp.ones(3)}, "head": {"w": jnp.ones(3)}}
    gradients = jax.tree.map(lambda x: 0.1 * x, params)
    for ratio in (1.0, 7.0):
        optimizer = optim.adam(OptimConfig(), optax.constant_schedule(1e-3), head_ratio=ratio)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        moved: Any = optax.apply_updates(params, updates)
        np.testing.assert_allclose(1 - moved["encoder"]["w"], 1e-3, rtol=1e-3)
        np.testing.assert_allclose(1 - moved["head"]["w"], ratio * 1e-3, rtol=1e-3)


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_the_losses_are_their_formulas(loss: str) -> None:
    tuning, model, given = task(loss=loss), CAVMAEClassifier(TINY, 3, rngs=nnx.Rngs(0)), batch()
    value = float(total_loss(tuning, model, given)[0])
    found, targets = np.asarray(logits(model, given, tuning.config, tuning.mode), np.float64), np.asarray(given["targets"], np.float64)
    if loss == "bce":
        expected = -(targets * np.log(1 / (1 + np.exp(-found))) + (1 - targets) * np.log(1 / (1 + np.exp(found)))).mean()
    else:
        expected = -(targets * (found - np.log(np.exp(found).sum(axis=1, keepdims=True)))).sum(axis=1).mean()
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_predictions_of_a_clip_are_averaged_over_its_crops_and_frames() -> None:
    clips = Labelled(3, seconds=2.0)  # three times what the model hears
    model = CAVMAEClassifier(TINY, 3, rngs=nnx.Rngs(0))
    classify = Classify(task().config, 3, MULTIMODAL)
    ids, whole, targets = classify(model, clips, crops=3, frames="all")
    assert ids == [clips[number].id for number in range(3)]
    assert whole.shape == targets.shape == (3, 3)
    np.testing.assert_array_equal(targets, np.eye(3))
    samples = (TINY.audio_frames - 1) * 160 + 400
    config = task().config
    rows = []
    for number in range(3):
        spare = 32_000 - samples
        for start in (0, spare // 2, spare):
            rows += [example(clips[number], frame, samples=samples, image_size=TINY.image_size, start=start) for frame in range(10)]
    given = {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in ("waveform", "samples", "image")}
    each = jax.jit(lambda given: probabilities(config, logits(model, given, config)))(given)
    np.testing.assert_allclose(whole, np.asarray(each).reshape(3, 30, 3).mean(axis=1), rtol=1e-4)
    assert np.abs(whole - classify(model, clips).probabilities).max() > 1e-4


class Labelled(Clips):
    several = False

    def __init__(self, count: int, *, several: bool = False, **more: Any):
        super().__init__(count, **more)
        self.several = several

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__(index)._replace(labels=(0, 2) if self.several and index == 1 else (index % 3,))


@pytest.mark.parametrize("loss", ["bce", "ce"])
@pytest.mark.slow
def test_what_is_measured_has_an_accuracy_where_each_clip_has_one_class(loss: str) -> None:
    model = CAVMAEClassifier(TINY, 3, rngs=nnx.Rngs(0))
    clips = Labelled(3)
    tuning = FinetuningTask(Config(model=TINY, tune=TuneConfig(loss=loss)), clips, "abc", Path("unused"))
    found = tuning.evaluate(model, dict)
    scores = Classify(tuning.config, 3, MULTIMODAL)(model, clips)
    own = scores.probabilities[np.arange(3), np.arange(3)]
    losses = -np.log(own) if loss == "ce" else -np.log(np.where(np.eye(3), scores.probabilities, 1 - scores.probabilities)).mean(axis=1)
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert found["accuracy"] == (scores.probabilities.argmax(axis=1) == np.arange(3)).mean()
    assert tuning.better(found) == found["accuracy" if loss == "ce" else "map"]
    more = dataclasses.replace(tuning.config, tune=TuneConfig(loss=loss, audio_weight=1.0))
    named = FinetuningTask(more, clips, "abc", Path("unused")).evaluate(model, dict)
    assert named["loss_multimodal"] == found["loss"]
    assert "loss" not in named  # in training that is the sum, which isn't evaluated
    several = FinetuningTask(tuning.config, Labelled(3, several=True), "abc", Path("unused")).evaluate(model, dict)
    assert "accuracy" not in several
    assert tuning.better(several) == several["map"]


@pytest.mark.parametrize(
    ("field", "value", "message"), [("mode", "both", "multimodal, audio"), ("loss", "mse", "bce, ce"), ("head_lr_ratio", 0, "0")]
)
def test_a_field_that_cannot_work_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"tune\.{field}.*{message}"):
        task(**{field: value})


def make(job: Job) -> Iterator[Clip]:
    """Class 0 is a low tone, class 1 a high one; the pictures say nothing."""
    label = job.args[0] % 2
    wave = 8000 * np.sin(2 * np.pi * (300 if label == 0 else 2500) * np.arange(10_480) / 16_000 + job.args[0])
    yield Clips(1)[0]._replace(id=job.id, waveform=wave.astype(np.int16), labels=(label,))


def make_heard(job: Job) -> Iterator[Clip]:
    """The same without pictures."""
    yield next(make(job))._replace(frames=(), frame_times=())


def small_run(folder: Path, **changes: object) -> Config:
    """Returns the config of a run in folder/run on the data set folder/set."""
    config = get_config()
    apply(config, {f"model.{name}": getattr(TINY, name) for name in ("size", "width", "heads", "depth", "audio_frames", "image_size")})
    apply(config, {"data.path": str(folder / "set"), "data.source": "prepared", "train.workdir": str(folder / "run"), "data.workers": 0})
    apply(config, {"augment.specaug_freq": 8, "augment.specaug_time": 4, "train.batch_size": 8, "init_from": ""})
    return apply(config, {name.replace("__", "."): value for name, value in changes.items()})


def write_tones(folder: Path, train: int, test: int, *, make: Any = make, label_names: Sequence[str] = ("low", "high")) -> None:
    jobs = {"train": [Job(f"t{n}", (n,)) for n in range(train)], "test": [Job(f"e{n}", (n,)) for n in range(test)]}
    write_dataset(folder / "set", DatasetSpec("tones", jobs, make, list(label_names)))


@pytest.mark.parametrize(("kind", "both_weight"), [("cavmae_classifier", 1.0), ("late_classifier", 0.0)])
@pytest.mark.slow
def test_a_classifier_learns_what_it_is_shown(tmp_path: Path, kind: str, both_weight: float) -> None:
    write_tones(tmp_path, 32, 8)
    changes: dict[str, Any] = {"model__kind": kind, "tune__both_weight": both_weight}
    changes |= {"model__image_factor": 1.0} if both_weight else {}
    changes |= {"tune__average_first": 10, "tune__average_last": 12, "train__epochs": 12, "train__checkpoint_every": 48}
    summary = finetune(small_run(tmp_path, optim__learning_rate=0.001, **changes))
    assert summary is not None
    assert summary == json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["held_out"]["accuracy"] == summary["held_out"]["map"] == summary["averaged"]["accuracy"] == 1.0
    assert newest_meta(tmp_path / "run/averaged")["epochs"] == [10, 11, 12]  # pyright: ignore[reportOptionalSubscript]
    trained = load_trained(tmp_path / "run/best")
    assert (trained.label_names, trained.config.tune.loss, trained.kind) == (("low", "high"), "ce", kind)


@pytest.mark.slow
def test_a_classifier_of_audio_needs_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tones(tmp_path, 19, 8, make=make_heard)  # 2.4 steps an epoch
    with caplog.at_level(logging.INFO, logger="absl"):
        finetune(small_run(tmp_path, tune__mode="audioonly", train__epochs=1, tune__average_first=1, tune__average_last=1))
    assert re.search("19 .* 2 classes, 8 held out", caplog.text)
    assert (tmp_path / "run/averaged/2").is_dir()


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("train.epochs", 4, r"tune\.average_last is 90.* 4"),
        ("train.steps", 3, r"tune\.average_last is 90.* 3 whole epochs"),
        ("model.kind", "cavmae", r"model\.kind is 'cavmae'.*cavmae_classifier or late_classifier or .*ast"),
    ],
)
def test_a_config_that_cannot_be_tuned_is_refused_before_it_runs(field: str, value: object, match: str, tmp_path: Path) -> None:
    write_tones(tmp_path, 8, 1)
    with pytest.raises(ValueError, match=match):
        finetune(small_run(tmp_path, **{field: value}))


def test_clips_without_classes_are_refused(tmp_path: Path) -> None:
    write_tones(tmp_path, 8, 1, label_names=())
    with pytest.raises(DatasetError, match="labels"):
        finetune(small_run(tmp_path))


TUNERS = {
    "optim__kind": "adamw", "optim__weight_decay": 0.05, "optim__schedule": "cosine", "optim__warmup_steps": 4, "optim__clip_norm": 1.0,
    "optim__layer_decay": 0.8, "model__drop_path": 0.1, "model__head_dropout": 0.1, "train__ema": 0.9, "data__normalise": "clip",
    "augment__gain": 3.0, "augment__noise_floor": 30.0, "augment__brightness": 0.2, "augment__cutout": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("head_pool", ["mean_std", "attentive"])
@pytest.mark.slow
def test_a_classifier_is_tuned_with_everything_on_and_its_average_is_a_model(tmp_path: Path, head_pool: str) -> None:
    write_tones(tmp_path, 32, 8)
    changes = {"tune__average_first": 0, "tune__average_last": 0, "train__epochs": 10, "train__checkpoint_every": 20}
    config = small_run(tmp_path, optim__learning_rate=0.003, model__head_pool=head_pool, **changes, **TUNERS)
    summary = finetune(config)
    assert summary is not None
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    averaged = load_trained(tmp_path / "run/ema")
    assert (averaged.config.model.head_pool, averaged.config.data.normalise, averaged.step) == (head_pool, "clip", 40)
    tuning = FinetuningTask(config, open_source(config.data, "test", "both"), ["low", "high"], tmp_path)
    assert tuning.evaluate(averaged.module, dict) == summary["ema"] != summary["held_out"]
    assert RunFolder(tmp_path / "run").recommended == tmp_path / "run/ema"
    assert "(train.ema)" in report(tmp_path / "run")


@pytest.mark.parametrize("settings", [{"drop_path": 0.5}, {"head_dropout": 0.5}])
@pytest.mark.slow
def test_dropping_changes_the_loss_of_training_alone(settings: dict[str, float]) -> None:
    config = Config(model=dataclasses.replace(TINY, **settings))
    tuning, model = FinetuningTask(config, None, "abc", Path("unused")), CAVMAEClassifier(config.model, 3, rngs=nnx.Rngs(0))
    plain = CAVMAEClassifier(TINY, 3, rngs=nnx.Rngs(0))

    def loss(model: Any, seed: int, training: bool) -> float:
        losses, _ = tuning.losses(model, batch(), Context(jax.random.key(seed), 1, {}, training))
        return float(losses["loss"])

    expected = loss(plain, 0, False)
    assert loss(plain, 0, True) == loss(model, 0, False) == loss(model, 1, False) == expected
    assert loss(model, 0, True) == loss(model, 0, True)
    assert len({loss(model, 0, True), loss(model, 1, True), expected}) == 3


@pytest.mark.slow
def test_an_ast_is_tuned_with_drop_path_and_dropout(tmp_path: Path) -> None:
    write_tones(tmp_path, 8, 2, make=make_heard)
    changes = {"model__kind": "ast", "model__modality": "audio", "model__drop_path": 0.2, "model__head_dropout": 0.2, "train__epochs": 1}
    config = small_run(tmp_path, **changes, tune__average_first=0, tune__average_last=0)
    config.model.head_pool, config.model.patch_dropout, config.model.image_factor = "mean", 0.0, 1.0  # what an AST hasn't
    summary = finetune(config)
    assert summary is not None
    assert summary["steps"] == 1
