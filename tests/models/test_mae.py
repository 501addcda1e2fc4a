"""Tests the masked autoencoder of one modality: what it sees, its class token, and training by the common task and loop."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import Config, ModelConfig
from avmae_jax.models.mae import MAE, Reconstruction
from avmae_jax.models.masking import mask_from_noise
from avmae_jax.models.patches import spectrogram_picture
from avmae_jax.train import optim
from avmae_jax.train.loop import Trainer
from avmae_jax.train.losses import reconstruction_loss
from avmae_jax.train.pretraining import SingleModalityTask, make_model, make_task
from avmae_jax.trees import flatten
from tests.support import TINY, Clips, apply

pytestmark = pytest.mark.usefixtures("unpolished")

# grids: audio 2 x 4 patches, image 2 x 2; kept at 0.75: 2 and 1
AUDIO = ModelConfig(
    modality="audio", depth=2, width=16, heads=2, decoder_depth=1, decoder_width=16, decoder_heads=4,
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


def _inputs(config: ModelConfig, batch: int = 3) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    shape = (config.audio_frames, config.mel_bins) if config.modality == "audio" else (config.image_size, config.image_size, 3)
    inputs = rng.standard_normal((batch, *shape))
    noise = rng.random((batch, int(np.prod(config.grid(config.modality)))))
    return jnp.asarray(inputs, jnp.float32), jnp.asarray(noise, jnp.float32)


def _model(config: ModelConfig) -> MAE:
    return MAE(config, rngs=nnx.Rngs(0))


@all_configs
def test_shapes_and_masks(config: ModelConfig) -> None:
    inputs, noise = _inputs(config)
    model = _model(config)
    out: Reconstruction = _run(model, inputs, noise)
    (rows, columns), channels, extra = config.grid(config.modality), config.picture(config.modality)[2], int(config.class_token)
    kept = rows * columns // 4
    assert out.latent.shape == (3, extra + kept, 16)
    assert out.pred.shape == (3, rows * columns, 256 * channels)
    assert (out.mask.hidden.sum(axis=1) == rows * columns - kept).all()
    np.testing.assert_array_equal(out.mask.keep_ids, np.argsort(noise, axis=1)[:, :kept])
    assert jax.eval_shape(model.features, inputs).shape == (3, extra + rows * columns, 16)
    assert out.pred.dtype == out.latent.dtype == jnp.float32


@all_configs
def test_hidden_patches_have_no_influence(config: ModelConfig) -> None:
    inputs, noise = _inputs(config)
    model, mask = _model(config), mask_from_noise(noise, 0.75)
    out = _run(model, inputs, noise)
    hidden = np.asarray(mask.hidden, bool).reshape(3, *config.grid(config.modality)).repeat(16, axis=1).repeat(16, axis=2)
    where = hidden.swapaxes(1, 2) if config.modality == "audio" else hidden[..., None]
    np.testing.assert_array_equal(_run(model, jnp.where(where, 100.0, inputs), noise).pred, out.pred)
    changed = _run(model, jnp.where(where, inputs, inputs + 1), noise)
    assert np.abs(changed.pred - out.pred).max() > 1e-3
    assert np.abs(changed.latent - out.latent).max() > 1e-3


def test_the_class_token_comes_first_and_takes_part() -> None:
    config = CONFIGS["image, class token"]
    inputs, noise = _inputs(config)
    model = _model(config)
    assert model.tower.prefix is not None
    embedded = model.tower.embed(inputs)
    np.testing.assert_array_equal(embedded[:, 0], jnp.broadcast_to(model.tower.prefix[0], (3, 16)))
    np.testing.assert_array_equal(embedded[:, 1:], _without_prefix(model).tower.embed(inputs))
    out = _run(model, inputs, noise)
    model.tower.prefix[...] = -model.tower.prefix[...]
    assert np.abs(_run(model, inputs, noise).pred - out.pred).max() > 1e-3  # all other tokens depend on it, in the decoder too


def _without_prefix(model: MAE) -> MAE:
    alone = nnx.clone(model)
    alone.tower.prefix = None
    return alone


@all_configs
def test_every_parameter_has_a_gradient(config: ModelConfig) -> None:
    """Without learned positions, the positions are frozen and nothing else is."""
    inputs, noise = _inputs(config)
    model = _model(config)
    picture = spectrogram_picture(inputs) if config.modality == "audio" else inputs

    def loss(weights: Any, frozen: Any) -> jax.Array:
        out = nnx.merge(graph, weights, frozen)(inputs, noise)
        return reconstruction_loss(picture, out.pred, out.mask.hidden, patch=16, norm_pix=True)

    graph, weights, frozen = nnx.split(model, optim.trainable(config), ...)
    gradients = flatten(jax.jit(jax.grad(loss))(weights, frozen))
    assert sorted(flatten(frozen)) == [f"decoder.ends.{config.modality}.positions", "tower.positions"]
    assert ("tower.prefix" in gradients) == config.class_token
    for path, gradient in gradients.items():
        assert np.abs(gradient).max() > 0, path


def test_both_modalities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"modality.*both"):
        MAE(dataclasses.replace(AUDIO, modality="both"), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("modality", "held_out"), [("audio", Clips(8)), ("image", None)])
@pytest.mark.usefixtures("optax_promotion")
def test_one_modality_is_pretrained_by_the_same_task_and_loop(modality: str, held_out: Clips | None, tmp_path: Path) -> None:
    changes = {"model.modality": modality, "model.class_token": modality == "image", "model.audio_mask_mode": "time"}
    settings = {"train.workdir": str(tmp_path), "train.steps": 2, "train.eval_every": 2, "optim.learning_rate": 0.01}
    config = apply(Config(), TINY | changes | settings)
    model = make_model(config.model, 0)
    before = {path: np.asarray(value) for path, value in flatten(nnx.state(model)).items()}
    task = make_task(config, held_out, tmp_path)
    assert isinstance(model, MAE)
    assert isinstance(task, SingleModalityTask)
    trainer = Trainer(config, model, task, Clips(16), held_out, micro_batch=8)
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


def test_the_mask_mode_is_for_sound_alone() -> None:
    config = apply(Config(), TINY | {"model.modality": "audio", "model.audio_mask_mode": "time"})
    rows, columns = config.model.grid("audio")
    task = make_task(config, None, Path("unused"))
    hidden = mask_from_noise(task.noise("audio", 4, jax.random.key(0)), 0.75).hidden.reshape(4, rows, columns)
    assert (hidden.min(axis=1).sum(axis=1) == 3).all()  # whole columns, 3 of 4
    image = task.noise("image", 4, jax.random.key(0))
    assert float(image.max()) < 1  # no cell was pushed behind the others
