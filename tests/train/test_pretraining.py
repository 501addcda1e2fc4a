"""From a batch of bytes to the loss, to pictures and to retrieval."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from avmae_jax.config import Config
from avmae_jax.data.batches import eval_batches
from avmae_jax.data.frontend import model_inputs
from avmae_jax.evals.ranking import rank_partners
from avmae_jax.inference.masked import MaskedPass
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.pooling import unit_length
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.step import Context
from tests.support import TINY, Clips, apply

CONFIG = apply(Config(), TINY | {"loss.contrast_weight": 0.3, "loss.mae_weight": 2.0})


@pytest.fixture(scope="module")
def model() -> CAVMAE:
    return CAVMAE(CONFIG.model, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    arrays = next(iter(eval_batches(Clips(8), CONFIG.model, CONFIG.data, 8)))
    return {name: jnp.asarray(value) for name, value in arrays.items() if name != "id"}


def changed(**groups: dict[str, Any]) -> Config:
    return dataclasses.replace(CONFIG, **{name: dataclasses.replace(getattr(CONFIG, name), **fields) for name, fields in groups.items()})


def masks(config: Config, model: CAVMAE, batch: dict[str, jax.Array], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which patches are hidden: bool[B, rows, columns] of audio and image."""
    out, _ = nnx.jit(MaskedPass(config).__call__)(model, batch, jax.random.key(seed))
    audio, image = (np.asarray(out.masks[name].hidden, bool).reshape(-1, *config.model.grid(name)) for name in ("audio", "image"))
    return audio, image


@pytest.mark.slow
def test_the_key_decides_the_masks_of_each_clip(model: CAVMAE, batch: dict[str, jax.Array]) -> None:
    first, again, other = (masks(CONFIG, model, batch, seed) for seed in (0, 0, 1))
    for one, same, changed in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one != changed).any()
        assert (one.mean(axis=(1, 2)) == 0.75).all()
        assert len({mask.tobytes() for mask in one}) > 1


def test_the_mask_mode_of_the_config_is_used(model: CAVMAE, batch: dict[str, jax.Array]) -> None:
    audio, image = masks(changed(model={"audio_mask_mode": "time"}), model, batch, 0)
    assert (audio.all(axis=1).sum(axis=1) == 3).all()  # of 4 columns
    assert len({mask.tobytes() for mask in image}) > 1


@pytest.mark.parametrize(("negatives", "groups"), [("global", 2), ("shard", 1), ("shard", 2), ("shard", 4)])
@pytest.mark.slow
def test_the_losses_have_their_weights_and_negatives_come_from_where_they_should(
    model: CAVMAE, batch: dict[str, jax.Array], negatives: str, groups: int
) -> None:
    task, key = PretrainingTask(changed(loss={"negatives": negatives}), None, Path("unused")), jax.random.key(3)
    out, _ = nnx.jit(MaskedPass(CONFIG).__call__)(model, batch, key)
    parts, metrics = nnx.jit(lambda model: task.losses(model, batch, Context(key, groups, {})))(model)
    assert (parts.keys(), metrics.keys()) == ({"mae_audio", "mae_image", "nce"}, {"contrast_accuracy"})
    assert task.loss_weights == {"mae_audio": 2.0, "mae_image": 2.0, "nce": 0.3}
    audio, image = (np.asarray(unit_length(vectors)) for vectors in (out.embed_audio, out.embed_image))
    size = 8 // groups if negatives == "shard" else 8
    expected = []
    for start in range(0, 8, size):
        logits = image[start : start + size] @ audio[start : start + size].T / 0.05
        expected += list(np.log(np.exp(logits).sum(axis=1)) - np.diagonal(logits))
    np.testing.assert_allclose(parts["nce"], np.mean(expected), rtol=1e-4)


@pytest.mark.slow
def test_pictures_of_one_model_are_the_same_every_time(model: CAVMAE, tmp_path: Path) -> None:
    task = PretrainingTask(CONFIG, Clips(6), tmp_path)
    task.draw(model, 3)
    task.draw(model, 12)
    first, second = sorted((tmp_path / "pictures").iterdir())
    assert (first.name, second.name) == ("reconstructions_0000003.png", "reconstructions_0000012.png")
    with Image.open(first) as one, Image.open(second) as other:
        assert one.format == "PNG"
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_without_held_out_clips_there_is_nothing_to_draw_or_find(model: CAVMAE, tmp_path: Path) -> None:
    task = PretrainingTask(CONFIG, None, tmp_path)
    task.draw(model, 1)
    assert task.retrieve(model, 10) == {}
    assert PretrainingTask(CONFIG, Clips(6), tmp_path).retrieve(model, 0) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("clips", "batch_size"), [(8, 8), (8, 3), (5, 20)])
@pytest.mark.slow
def test_retrieval_does_not_depend_on_batches(model: CAVMAE, batch: dict[str, jax.Array], clips: int, batch_size: int) -> None:
    task = PretrainingTask(CONFIG, Clips(8), Path("unused"))
    vectors = nnx.jit(lambda model: model.embed(model_inputs(batch, CONFIG)))(model)
    audio, image = (np.asarray(vectors[name])[:clips] for name in ("audio", "image"))
    found = task.retrieve(model, clips, batch_size)
    by_audio, by_image = rank_partners(audio, image).figures, rank_partners(image, audio).figures
    for name in ("r1", "r5", "r10", "median_rank", "ties"):
        assert found[f"audio_to_image_{name}"] == by_audio[name]
        assert found[f"image_to_audio_{name}"] == by_image[name]
    assert found["clips"] == clips


def test_fewer_held_out_clips_than_asked_for_are_announced(model: CAVMAE, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="absl"):
        assert PretrainingTask(CONFIG, Clips(8), Path("unused")).retrieve(model, 200, 8)["clips"] == 8
    assert " 8 " in f" {caplog.messages[-1]} "
