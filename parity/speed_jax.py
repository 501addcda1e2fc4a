"""The three jobs that parity/speed.py times, as this project does them; parity/speed_torch.py has the same functions.

Nothing here imports torch: what a process takes that runs JAX alone is measured too.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.train import losses, optim
from avmae_jax.train.step import Metrics, State, make_step
from avmae_jax.weights import build

Arrays = Mapping[str, np.ndarray]
Run = Callable[[], list[np.ndarray]]  # does the job once, to its end, and gives what it computed

_STEPS_PER_EPOCH = 1e6  # the learning rate stays as it is


def description() -> str:
    """What computes here."""
    return f"jax {jax.__version__} on {len(os.sched_getaffinity(0))} cores"


def on_cpu() -> bool:
    """Whether JAX computes where the reference does."""
    return jax.default_backend() == "cpu"


def pretraining(config: Config, batch: Arrays, weights: Arrays | None = None) -> Run:
    """The step of launch.pretrain, from normalised inputs and with given masking noise: see parity.speed.random_batch.

    Args:
      config: its model, loss and optim.
      batch: one batch.
      weights: official ones; None: fresh ones.
    """

    def loss(model: CAVMAE, batch: Any, key: jax.Array, groups: int) -> tuple[jax.Array, Metrics]:
        out = model(batch["fbank"], batch["image"], batch["noise_audio"], batch["noise_image"])
        return losses.pretraining_loss(out, batch["fbank"], batch["image"], config.loss, patch=config.model.patch, groups=groups)

    model = _build(partial(CAVMAE, config.model), weights)
    return _training(config, model, optim.trainable(config.model), loss, batch)


def finetuning(config: Config, batch: Arrays, weights: Arrays | None = None) -> Run:
    """A step of the classifier on both modalities, all parameters trained; see pretraining for the arguments."""

    def loss(model: CAVMAEClassifier, batch: Any, key: jax.Array, groups: int) -> tuple[jax.Array, Metrics]:
        bce = optax.sigmoid_binary_cross_entropy(model(batch["fbank"], batch["image"]), batch["targets"]).mean()
        return bce, {"loss": bce}

    model = _build(partial(CAVMAEClassifier, config.model, batch["targets"].shape[1]), weights)
    return _training(config, model, nnx.Param, loss, batch)


def features(config: Config, batch: Arrays, weights: Arrays | None = None) -> Run:
    """Tokens of unmasked sounds and pictures, without gradients; see pretraining for the arguments."""
    model = _build(partial(CAVMAE, config.model), weights)
    extract = nnx.jit(lambda model, fbank, image: (model.audio_features(fbank), model.image_features(image)))
    inputs = jax.device_put((batch["fbank"], batch["image"]))
    return lambda: [np.asarray(tokens) for tokens in jax.block_until_ready(extract(model, *inputs))]


def _build(make: Callable[..., Any], weights: Arrays | None) -> Any:
    def fresh() -> Any:
        return make(rngs=nnx.Rngs(0))

    return fresh() if weights is None else build.build_official(fresh, weights)


def _training(config: Config, model: Any, trainable: Any, loss: Callable[..., Any], batch: Arrays) -> Run:
    """A step as train.Trainer has it: state donated, batch on the device."""
    graph, params, frozen = nnx.split(model, trainable, ...)
    optimizer = optim.adam(config.optim, _STEPS_PER_EPOCH)
    state = State(params, frozen, jax.jit(optimizer.init)(params))
    step = jax.jit(make_step(graph, loss, optimizer, micro_batches=1, groups=1), donate_argnums=0)
    on_device, key = jax.device_put(dict(batch)), jax.random.key(0)

    def run() -> list[np.ndarray]:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, on_device, key))
        return [np.asarray(metrics["loss"])]

    return run
