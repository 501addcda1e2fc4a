"""Records files of values of CAV-MAE Sync, its classifiers and the dual path from the PyTorch reference; see parity/recordings.py."""

# pyright: reportMissingImports=false

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avmae_jax.config import LossConfig, ModelConfig
from parity import reference_sync, reference_training
from parity.recorded.training import ADAM
from parity.recordings import Arrays, gradients, named
from parity.side_by_side import masking_noise, random_inputs, state_of, with_weights

MODALITIES = ("audio", "image")


def record_sync(config: ModelConfig, loss: LossConfig, *, batch: int = 3, steps: int = 2) -> Arrays:
    """Records some optimizer steps of a freshly initialised model: outputs, losses, gradients, features, and the weights after them.

    With loss.contrast_pass it is the dual path, and the teacher's attention is recorded too.
    """
    model = with_weights(lambda: reference_sync.Sync(config), None)
    optimizer = reference_training.adam(model.parameters(), ADAM)
    fbank, image, *_ = random_inputs(config, batch).for_torch()
    arrays: Arrays = {"in.audio": fbank.numpy(), "in.image": image.numpy()} | named("param.", state_of(model))
    arrays |= _features(model, config)
    for step in range(1, steps + 1):
        end = f"_step{step}" if step > 1 else ""
        arrays |= _noise(config, batch, seed=step, end=end)
        found = _run(model, config, loss, arrays, end)
        optimizer.zero_grad()
        found["loss"].backward()
        arrays[f"out.loss_step{step}"] = found["loss"].detach().numpy()
        if step == 1:
            arrays |= {f"out.{name}": value.detach().numpy() for name, value in found.items() if name != "nce"}
            arrays |= gradients(model, "grad.")
            if loss.contrast_pass:
                arrays |= _teacher(model, config, arrays)
        optimizer.step()
    del arrays["out.loss_step1"]  # it is out.loss
    return arrays | named(f"after{steps}.", state_of(model))


def record_classifiers(config: ModelConfig, classes: int, *, clips: int = 2, pairs: int = 3) -> Arrays:
    """Records logits of the published classifiers of one encoder; the loss and its gradients of those with blocks over pairs."""
    fbank, image = _clips(config, clips, pairs)
    labels = torch.tensor(np.random.default_rng(1).integers(0, 2, (clips, classes)).astype(np.float32))
    encoder = state_of(with_weights(lambda: reference_sync.PairEncoder(config), None))
    arrays: Arrays = {"in.audio": fbank.numpy(), "in.image": image.numpy(), "in.labels": labels.numpy()} | named("param.", encoder)
    depth = config.pair_depth
    modes: list[tuple[reference_sync.PairMode, int]] = [("multimodal", depth), ("audioonly", depth), ("videoonly", depth), ("videoonly", 0)]
    for mode, depth in modes:
        own = dataclasses.replace(config, pair_depth=depth)
        model = with_weights(lambda own=own, mode=mode: reference_sync.SyncClassifier(own, classes, mode, heads=config.shape.heads), None)
        model.load_state_dict({name: torch.tensor(value) for name, value in encoder.items()}, strict=False)
        name = mode if depth else f"{mode}_none"
        arrays |= named(f"param_{name}.", {key: value for key, value in state_of(model).items() if key not in encoder})
        logits = model(fbank, image)
        arrays[f"out.{name}.logits"] = logits.detach().numpy()
        if depth:
            bce = F.binary_cross_entropy_with_logits(logits, labels)
            bce.backward()
            arrays |= {f"out.{name}.bce": bce.detach().numpy()} | gradients(model, f"grad.{name}.")
    return arrays


def _noise(config: ModelConfig, batch: int, seed: int, end: str) -> Arrays:
    """Draws the noise of both passes of a step."""
    found = {}
    for part, own in (("", seed), ("_contrast", 1_000 + seed)):
        noise = masking_noise(config, batch, seed=own)
        found |= {f"in.noise_{modality}{part}{end}": values for modality, values in zip(MODALITIES, noise, strict=True)}
    return found


def _run(model: reference_sync.Sync, config: ModelConfig, loss: LossConfig, arrays: Arrays, end: str) -> dict[str, Tensor]:
    """Runs the passes of a step: outputs and losses by their recorded names."""
    fbank, image, *noise = (torch.tensor(arrays[f"in.{name}"]) for name in ("audio", "image", f"noise_audio{end}", f"noise_image{end}"))
    out = model(fbank, image, *noise)
    found, compared = out._asdict(), reference_sync.compared_vectors(out, global_local=loss.global_local)
    second = [arrays.pop(f"in.noise_{modality}_contrast{end}") for modality in MODALITIES]
    if loss.contrast_pass:
        arrays |= {f"in.noise_{modality}_contrast{end}": values for modality, values in zip(MODALITIES, second, strict=True)}
        again = model(fbank, image, *map(torch.tensor, second), ratio=config.contrast_mask_ratio)
        found |= {f"{name}_contrast": value for name, value in again._asdict().items()}
        compared = reference_sync.compared_vectors(again, global_local=loss.global_local)
    losses = reference_sync.pretraining_losses(out, (fbank, image), loss, patch=config.patch, compared=compared)
    return {name: value for name, value in found.items() if value is not None} | losses


@torch.no_grad()
def _features(model: reference_sync.Sync, config: ModelConfig, clips: int = 2, pairs: int = 3) -> Arrays:
    """Records features of unmasked pairs of clips, of length 1 a pair, and the tokens of the first two pairs."""
    given = _clips(config, clips, pairs)
    arrays = {f"in.clips_{modality}": values.numpy() for modality, values in zip(MODALITIES, given, strict=True)}
    for modality, tokens in zip(MODALITIES, model.features(*(values.flatten(0, 1) for values in given)), strict=True):
        vectors = tokens[:, 0] if config.class_token else tokens.mean(dim=1)
        arrays[f"out.feat_{modality}"] = F.normalize(vectors, dim=-1).reshape(clips, pairs, -1).numpy()
        arrays[f"out.feat_{modality}_tokens"] = model.patches_of(tokens)[:2].numpy()
    return arrays


@torch.no_grad()
def _teacher(model: reference_sync.Sync, config: ModelConfig, arrays: Arrays) -> Arrays:
    """Records the attention of a pass that sees every patch, in shuffled order, and scores and ranks in the patches' own numbers."""
    found: Arrays = {}
    patches = model.embed_audio(torch.tensor(arrays["in.audio"])), model.embed_image(torch.tensor(arrays["in.image"]))
    noise = masking_noise(config, len(arrays["in.audio"]), seed=7)
    for modality, mark, own, each in zip(MODALITIES, reference_sync.MARKS, patches, noise, strict=True):
        order = torch.tensor(each).argsort(dim=1)[..., None].expand_as(own)
        attention = model.attention(model.separate(own.gather(1, order), mark), mark)
        scores = reference_sync.token_scores(model.attention(model.separate(own, mark), mark))
        found |= {
            f"in.noise_{modality}_teacher": each,
            f"out.teacher_attention_{modality}": attention.numpy(),
            f"out.teacher_score_{modality}": scores.numpy(),
            f"out.teacher_rank_{modality}": scores.argsort(dim=1, descending=True).numpy(),
        }
    return found


def _clips(config: ModelConfig, clips: int, pairs: int) -> tuple[Tensor, Tensor]:
    """Draws clips of several pairs: [N, F, T, M] and [N, F, 3, H, W]."""
    fbank, image, *_ = random_inputs(config, clips * pairs, seed=5).for_torch()
    return fbank.reshape(clips, pairs, *fbank.shape[1:]), image.reshape(clips, pairs, *image.shape[1:])
