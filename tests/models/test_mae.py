"""The masked autoencoder of one modality: what it sees, what its class token does, and that it trains through the same task and loop."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import Config, LossConfig, ModelConfig
from avmae_jax.inference.masked import MaskedPass
from avmae_jax.models.mae import MAE, Reconstruction
from avmae_jax.models.masking import mask_from_noise
from avmae_jax.models.registry import build
from avmae_jax.models.tokens import join
from avmae_jax.train import optim
from avmae_jax.train.fitting import Fit
from avmae_jax.train.loop import Trainer
from avmae_jax.train.losses import reconstruction_losses
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.trees import flatten
from tests.support import TINY, Clips, apply

# grids: audio 2 x 4 patches, image 2 x 2; kept at 0.75: 2 and 1
AUDIO = ModelConfig(
    kind="mae", modality="audio", depth=2, width=16, heads=2, decoder_depth=1, decoder_width=16, decoder_heads=4,
    audio_frames=64, mel_bins=32, image_size=32,
)  # fmt: skip
IMAGE = dataclasses.replace(AUDIO, modality="image")
CONFIGS = {
    "audio": AUDIO,
    "image": IMAGE,
    "audio, class token": dataclasses.replace(AUDIO, class_token=True),
    "image, class token": dataclasses.replace(IMAGE, class_token=True),
}
all_configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())

_run = nnx.jit(MAE.__call__)


def _inputs(config: ModelConfig, batch: int = 3) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Returns the input and the masking noise, by modality."""
    rng = np.random.default_rng(0)
    shape = (config.audio_frames, config.mel_bins) if config.modality == "audio" else (config.image_size, config.image_size, 3)
    inputs = rng.standard_normal((batch, *shape))
    noise = rng.random((batch, int(np.prod(config.grid(config.modality)))))
    return {config.modality: jnp.asarray(inputs, jnp.float32)}, {config.modality: jnp.asarray(noise, jnp.float32)}


def _model(config: ModelConfig) -> MAE:
    return MAE(config, rngs=nnx.Rngs(0))


@all_configs
def test_shapes_and_masks(config: ModelConfig) -> None:
    inputs, noise = _inputs(config)
    model = _model(config)
    out: Reconstruction = _run(model, inputs, noise)
    pred, mask = out.predictions[config.modality], out.masks[config.modality]
    (rows, columns), channels, extra = config.grid(config.modality), config.input_shape(config.modality)[2], int(config.class_token)
    kept = rows * columns // 4
    assert join(out.latent).shape == (3, extra + kept, 16)
    assert pred.shape == (3, rows * columns, 256 * channels)
    assert (mask.hidden.sum(axis=1) == rows * columns - kept).all()
    np.testing.assert_array_equal(mask.keep_ids, np.argsort(noise[config.modality], axis=1)[:, :kept])
    features = jax.eval_shape(model.features, inputs)
    names = [f"{config.modality}.global"] * extra + [f"{config.modality}.patches"]
    assert list(features) == list(out.latent) == names
    assert [x.shape for x in features.values()] == [(3, 1, 16)] * extra + [(3, rows * columns, 16)]
    assert pred.dtype == join(out.latent).dtype == jnp.float32


@all_configs
def test_hidden_patches_have_no_influence(config: ModelConfig) -> None:
    inputs, noise = _inputs(config)
    model, mask = _model(config), mask_from_noise(noise[config.modality], 0.75)
    run = nnx.jit(lambda model, x: _latent_and_prediction(model({config.modality: x}, noise)))
    latent, pred = run(model, inputs[config.modality])
    hidden = np.asarray(mask.hidden, bool).reshape(3, *config.grid(config.modality)).repeat(16, axis=1).repeat(16, axis=2)
    where = hidden.swapaxes(1, 2) if config.modality == "audio" else hidden[..., None]
    x = inputs[config.modality]
    np.testing.assert_array_equal(run(model, jnp.where(where, 100.0, x))[1], pred)
    changed = run(model, jnp.where(where, x, x + 1))
    assert np.abs(changed[0] - latent).max() > 1e-3
    assert np.abs(changed[1] - pred).max() > 1e-3


def _latent_and_prediction(out: Reconstruction) -> tuple[jax.Array, jax.Array]:
    (pred,) = out.predictions.values()
    return join(out.latent), pred


def test_the_class_token_comes_first_and_takes_part() -> None:
    config = CONFIGS["image, class token"]
    inputs, noise = _inputs(config)
    model = _model(config)
    assert model.tower.prefix is not None
    embedded = model.tower.embed(inputs["image"])
    np.testing.assert_array_equal(embedded["image.global"], jnp.broadcast_to(model.tower.prefix[...][None], (3, 1, 16)))
    np.testing.assert_array_equal(join(embedded)[:, 1:], embedded["image.patches"])
    before = _latent_and_prediction(_run(model, inputs, noise))[1]
    model.tower.prefix[...] = -model.tower.prefix[...]
    after = _latent_and_prediction(_run(model, inputs, noise))[1]
    assert np.abs(after - before).max() > 1e-3  # all others attend to it, in the decoder too


@all_configs
@pytest.mark.slow
def test_every_parameter_has_a_gradient(config: ModelConfig) -> None:
    """Without learned positions those are frozen, and nothing else is."""
    inputs, noise = _inputs(config)
    model = _model(config)

    def loss(weights: Any, frozen: Any) -> jax.Array:
        out = nnx.merge(graph, weights, frozen)(inputs, noise)
        return reconstruction_losses(out, inputs, LossConfig(norm_pix=True), patch=16)[f"mae_{config.modality}"]

    graph, weights, frozen = nnx.split(model, optim.trainable(config), ...)
    gradients = flatten(jax.jit(jax.grad(loss))(weights, frozen))
    assert sorted(flatten(frozen)) == [f"decoder.ends.{config.modality}.positions", "tower.positions"]
    assert ("tower.prefix" in gradients) == config.class_token
    for path, gradient in gradients.items():
        assert np.abs(gradient).max() > 0, path


def test_both_modalities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.modality.*both"):
        MAE(dataclasses.replace(AUDIO, modality="both"), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("modality", "held_out"), [("audio", Clips(8)), ("image", None)])
@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.slow
def test_one_modality_is_pretrained_by_the_same_task_and_loop(modality: str, held_out: Clips | None, tmp_path: Path) -> None:
    changes = {"model.kind": "mae", "model.modality": modality, "model.class_token": modality == "image", "model.audio_mask_mode": "time"}
    settings = {"train.workdir": str(tmp_path), "train.steps": 2, "train.eval_every": 2, "optim.learning_rate": 0.01}
    config = apply(Config(), TINY | changes | settings)
    model = build(config.model, rngs=nnx.Rngs(0))
    before = {path: np.asarray(value) for path, value in flatten(nnx.state(model)).items()}
    task = PretrainingTask(config, held_out, tmp_path)
    assert isinstance(model, MAE)
    trainer = Trainer(config, model, task, Clips(16), held_out, fit=Fit(8))
    assert trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["split"]) for row in rows] == [(1, "train"), (2, "train"), *([(2, "eval")] if held_out else [])]
    for row in rows:
        assert row["loss"] == row[f"mae_{modality}"] > 0
        assert {"nce", "mae_audio", "mae_image"} & row.keys() == {f"mae_{modality}"}
    frozen = {"tower.positions", f"decoder.ends.{modality}.positions"}
    assert {path for path, value in flatten(nnx.state(trainer.model)).items() if np.array_equal(value, before[path])} == frozen
    assert [path.name for path in tmp_path.glob("pictures/*")] == (["reconstructions_0000002.png"] if held_out else [])
    assert task.retrieve(trainer.model, 8) == {}


def test_the_mask_mode_is_for_audio_alone() -> None:
    config = apply(Config(), TINY | {"model.kind": "mae", "model.modality": "audio", "model.audio_mask_mode": "time"})
    rows, columns = config.model.grid("audio")
    masked = MaskedPass(config)
    audio = masked.noise({"audio": jnp.zeros((4, 64, 128))}, jax.random.key(0))["audio"]
    hidden = mask_from_noise(audio, 0.75).hidden.reshape(4, rows, columns)
    assert (hidden.min(axis=1).sum(axis=1) == 3).all()  # whole columns, 3 of 4
    image = masked.noise({"image": jnp.zeros((4, 32, 32, 3))}, jax.random.key(0))["image"]
    assert float(image.max()) < 1  # no cell was pushed behind others
