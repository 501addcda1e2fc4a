"""Records files of values from the PyTorch reference, with the names and the layout of those that were recorded from the originals."""

# pyright: reportMissingImports=false

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from avmae_jax.config import LossConfig, ModelConfig
from parity import reference, reference_training
from parity.recorded.training import ADAM
from parity.side_by_side import masking_noise, random_inputs, state_of, with_weights

Arrays = dict[str, np.ndarray]


def gradients(model: torch.nn.Module, prefix: str) -> Arrays:
    """Returns the gradients of all parameters that have one."""
    return {prefix + name: weight.grad.numpy().copy() for name, weight in model.named_parameters() if weight.grad is not None}


def record_pretraining(config: ModelConfig, loss: LossConfig, *, batch: int = 3, steps: int = 2) -> Arrays:
    """Records some optimizer steps of a freshly initialised CAV-MAE: outputs, losses, gradients, and the weights after them."""
    inputs = random_inputs(config, batch)
    model = with_weights(lambda: reference.CAVMAE(config), None)
    optimizer = reference_training.adam(model.parameters(), ADAM)
    fbank, image, *_ = inputs.for_torch()
    arrays: Arrays = {"in.audio": fbank.numpy(), "in.image": image.numpy()} | named("param.", state_of(model))
    for step in range(steps):
        end = f"_step{step}" if step else ""
        noise = masking_noise(config, batch, seed=step)
        arrays |= {f"in.noise_{modality}{end}": own for modality, own in zip(("audio", "image"), noise, strict=True)}
        out = model(fbank, image, *map(torch.tensor, noise))
        parts = reference_training.pretraining_losses(out, fbank, image, loss, patch=config.patch)
        optimizer.zero_grad()
        parts["loss"].backward()
        arrays[f"out.loss_step{step}"] = parts["loss"].detach().numpy()
        if step == 0:
            arrays |= {f"out.{name}": value.detach().numpy() for name, value in (out._asdict() | parts).items() if name != "nce"}
            arrays |= gradients(model, "grad.")
        optimizer.step()
    return arrays | named(f"after{steps}.", state_of(model))


def record_classifier(config: ModelConfig, classes: int, modes: tuple[reference.Mode, ...], *, batch: int = 2) -> Arrays:
    """Records logits, losses and gradients of a freshly initialised classifier of CAV-MAE in some modes."""
    fbank, image, *_ = random_inputs(config, batch).for_torch()
    model = with_weights(lambda: reference.CAVMAEClassifier(config, classes), None)
    labels = torch.tensor(np.random.default_rng(1).integers(0, 2, (batch, classes)).astype(np.float32))
    arrays: Arrays = {"in.audio": fbank.numpy(), "in.image": image.numpy(), "in.labels": labels.numpy()} | named("param.", state_of(model))
    for mode in modes:
        model.zero_grad()
        logits = model(fbank, image, mode)
        bce = F.binary_cross_entropy_with_logits(logits, labels)
        bce.backward()
        found = {"logits": logits, "bce": bce, "ce": F.cross_entropy(logits, labels)}
        arrays |= {f"out.{name}.{mode}": value.detach().numpy() for name, value in found.items()} | gradients(model, f"grad.{mode}.")
    return arrays


def named(prefix: str, state: dict[str, Any]) -> Arrays:
    """Puts a prefix before the names of tensors."""
    return {prefix + name: value for name, value in state.items()}
