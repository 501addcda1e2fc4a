"""The three jobs that parity/speed.py times, as a PyTorch user does them; parity/speed_jax.py has the same functions.

Eager PyTorch as it is set up by default: its own number of threads, oneDNN, scaled_dot_product_attention. Nothing here imports jax: what
a process takes that runs PyTorch alone is measured too.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avmae_jax.config import Config
from parity import reference

Arrays = Mapping[str, np.ndarray]
Run = Callable[[], list[np.ndarray]]  # does the job once, to its end, and gives what it computed


def description() -> str:
    """What computes here."""
    return f"torch {torch.__version__}, eager, with {torch.get_num_threads()} threads"


def fresh_weights(job: str, config: Config, classes: int) -> dict[str, np.ndarray]:
    """Weights to begin a job with, by their official names."""
    torch.manual_seed(0)
    model = reference.CAVMAEClassifier(config.model, classes) if job == "finetuning" else reference.CAVMAE(config.model)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def pretraining(config: Config, batch: Arrays, weights: Arrays | None = None) -> Run:
    """A pretraining step; see parity.speed_jax.pretraining for the arguments."""
    model = _load(reference.CAVMAE(config.model), weights)
    inputs = _inputs(batch, "fbank", "image", "noise_audio", "noise_image")

    def loss() -> Tensor:
        fbank, image, *_ = inputs
        return reference.pretraining_losses(model(*inputs), fbank, image, config.loss, patch=config.model.patch)["loss"]

    return _training(config, model, loss)


def finetuning(config: Config, batch: Arrays, weights: Arrays | None = None) -> Run:
    """A step of the classifier on both modalities, all parameters trained; see parity.speed_jax.pretraining for the arguments."""
    fbank, image, targets = _inputs(batch, "fbank", "image", "targets")
    model = _load(reference.CAVMAEClassifier(config.model, targets.shape[1]), weights)
    return _training(config, model, lambda: F.binary_cross_entropy_with_logits(model(fbank, image), targets))


def features(config: Config, batch: Arrays, weights: Arrays | None = None) -> Run:
    """Tokens of unmasked sounds and pictures, without gradients; see parity.speed_jax.pretraining for the arguments."""
    model = _load(reference.CAVMAE(config.model), weights).eval()
    fbank, image = _inputs(batch, "fbank", "image")

    @torch.inference_mode()
    def run() -> list[np.ndarray]:
        return [model.audio_features(fbank).numpy(), model.image_features(image).numpy()]

    return run


def _load(model: Any, weights: Arrays | None) -> Any:
    if weights is not None:
        model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.items()})  # copies
    return model


def _inputs(batch: Arrays, *names: str) -> list[Tensor]:
    """Tensors of the batch, pictures with their channels first."""
    return [torch.tensor(batch[name].transpose(0, 3, 1, 2) if name == "image" else batch[name]) for name in names]


def _training(config: Config, model: nn.Module, loss: Callable[[], Tensor]) -> Run:
    """The usual step: forward, backward, Adam."""
    optimizer = reference.adam(model.parameters(), config.optim)

    def run() -> list[np.ndarray]:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return [value.detach().numpy()]

    return run
