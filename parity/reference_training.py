"""Implements the losses, the optimizer and the learning-rate schedule of CAV-MAE in PyTorch, for the model of parity/reference.py.

Axis letters: B batch, T spectrogram frames, M mel bins, C channels, H W image, P patch, L tokens, D width.
"""

# torch is optional
# pyright: reportMissingImports=false

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avmae_jax.config import LossConfig, OptimConfig
from parity.reference import Pretraining, spectrogram_image


def patchify(image: Tensor, patch: int) -> Tensor:
    """Cuts images into patches: [B, C, H, W] -> [B, L, P * P * C], inside a patch in the order (row, column, channel)."""
    return image.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def reconstruction_loss(image: Tensor, pred: Tensor, hidden: Tensor, *, patch: int, norm_pix: bool) -> Tensor:
    """Computes the mean squared error over the hidden patches of images [B, C, H, W]; 0 if nothing is hidden."""
    target = patchify(image, patch)
    if norm_pix:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)  # torch's default variance is the unbiased one
        target = (target - mean) / (variance + 1e-6).sqrt()
    return ((pred - target).square().mean(dim=-1) * hidden).sum() / hidden.sum().clamp(min=1)


def contrastive_loss(audio: Tensor, image: Tensor, config: LossConfig, *, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Computes InfoNCE of pooled tokens [B, D]: (nats, accuracy). Negatives come from the same one of `groups` equal parts of the batch."""
    audio, image = (F.normalize(rows, dim=-1).reshape(groups, -1, rows.shape[1]) for rows in (audio, image))
    over_audio = torch.bmm(audio, image.mT) / config.temperature  # cross_entropy and argmax below reduce axis 1, here the audio
    partner = torch.arange(audio.shape[1], device=audio.device).expand(groups, -1)
    directions = [over_audio, over_audio.mT] if config.bidirectional else [over_audio]
    nce = torch.stack([F.cross_entropy(logits, partner) for logits in directions]).mean()
    return nce, torch.stack([(logits.argmax(dim=1) == partner).float().mean() for logits in directions]).mean()


def pretraining_losses(
    out: Pretraining, fbank: Tensor, image: Tensor, config: LossConfig, *, patch: int, groups: int = 1
) -> dict[str, Tensor]:
    """Computes the total loss and its parts, named as in the recorded files; those of one modality and "nce" are not weighted.

    Args:
      out: the outputs of CAVMAE for these inputs.
      fbank: normalised log-mel, float[B, T, M].
      image: normalised image, float[B, 3, H, W].
      config: weights and options.
      patch: P.
      groups: into how many parts the batch is cut for negatives; the number of devices if they come from one device's share.
    """
    options = {"patch": patch, "norm_pix": config.norm_pix}
    mae_audio = reconstruction_loss(spectrogram_image(fbank), out.pred_audio, out.mask_audio, **options)
    mae_image = reconstruction_loss(image, out.pred_image, out.mask_image, **options)
    pooled = out.contrast_audio_tokens.mean(dim=1), out.contrast_image_tokens.mean(dim=1)
    nce, accuracy = contrastive_loss(*pooled, config, groups=groups)
    mae, contrast = config.mae_weight * (mae_audio + mae_image), config.contrast_weight * nce
    parts = {"loss_mae": mae, "loss_mae_audio": mae_audio, "loss_mae_image": mae_image, "loss_contrast_weighted": contrast}
    return {"loss": mae + contrast, **parts, "nce": nce, "contrast_accuracy": accuracy}


def adam(params: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Adam:
    """Makes the recipe's optimizer; its weight_decay is L2 inside the gradient. Parameters without a gradient stay as they are."""
    return torch.optim.Adam(
        params, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.eps, weight_decay=config.weight_decay
    )


def schedule(optimizer: torch.optim.Optimizer, config: OptimConfig) -> torch.optim.lr_scheduler.MultiStepLR:
    """Makes the recipe's learning-rate schedule; call step() after each epoch."""
    milestones = range(config.decay_start, 1000, config.decay_every)  # no run is longer
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=config.decay_rate)
