"""Runs the PyTorch side of launch.benchmark: three jobs of the reference, and a loader that works like the original's.

PyTorch is eager and has its default settings. Importing this module doesn't import JAX, whose memory would be counted as PyTorch's.
"""

# pyright: reportMissingImports=false

import io
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
import torchvision.transforms as T
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from avmae_jax.config import Config
from parity import reference, reference_training

Arrays = Mapping[str, np.ndarray]


def prepare(job: str, config: Config, batch: Arrays) -> Callable[[], list[np.ndarray]]:
    """Returns a function that does a job once in PyTorch and returns [loss], or [audio features, image features].

    Args:
      job: pretraining, finetuning or features.
      config: its model, loss and optim are used.
      batch: float32 arrays: fbank [B, T, M], image [B, H, W, 3], noise_audio and noise_image [B, L], targets [B, C].
    """
    model = _model(job, config, batch)
    fbank, image, noise_audio, noise_image, targets = (
        torch.tensor(batch[name]) for name in ("fbank", "image", "noise_audio", "noise_image", "targets")
    )
    image = image.permute(0, 3, 1, 2).contiguous()
    optimizer = reference_training.adam(model.parameters(), config.optim)

    @torch.inference_mode()
    def extract() -> list[np.ndarray]:
        return [model.audio_features(fbank).numpy(), model.image_features(image).numpy()]

    def train() -> list[np.ndarray]:
        optimizer.zero_grad(set_to_none=True)
        if job == "finetuning":
            loss = F.binary_cross_entropy_with_logits(model(fbank, image), targets)
        else:
            out = model(fbank, image, noise_audio, noise_image)
            loss = reference_training.pretraining_losses(out, fbank, image, config.loss, patch=config.model.patch)["loss"]
        loss.backward()
        optimizer.step()
        return [loss.detach().numpy()]

    return extract if job == "features" else train


def time_pretraining(
    config: Config, batch: Arrays, *, compiled: bool, steps: int, ready: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Times pretraining steps in bfloat16 on the GPU, or on the CPU where there is none.

    Args:
      config: its model, loss and optim are used.
      batch: as in prepare.
      compiled: whether torch.compile makes kernels of the forward pass and its gradient.
      steps: that are timed; three come before.
      ready: is called between the two.

    Returns:
      "ms a step", "peak GiB" (0 on a CPU), "first steps s" (of those three, with their compilation) and the last "loss".
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _model("pretraining", config, batch).to(device)
    optimizer = reference_training.adam(model.parameters(), config.optim)
    fbank, image, *noise = (torch.tensor(batch[name], device=device) for name in ("fbank", "image", "noise_audio", "noise_image"))
    image = image.permute(0, 3, 1, 2).contiguous()
    forward = torch.compile(model) if compiled else model

    def train(steps: int) -> tuple[float, float]:
        begin, loss = time.perf_counter(), torch.zeros(())
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                out = forward(fbank, image, *noise)
                loss = reference_training.pretraining_losses(out, fbank, image, config.loss, patch=config.model.patch)["loss"]
            loss.backward()
            optimizer.step()
        return loss.item(), time.perf_counter() - begin  # item waits for the device

    _, first = train(3)
    ready()
    loss, seconds = train(steps)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"ms a step": 1e3 * seconds / steps, "peak GiB": peak, "first steps s": first, "loss": loss}


def initial_weights(job: str, config: Config, batch: Arrays) -> dict[str, np.ndarray]:
    """Returns the weights that `prepare` starts from, by their official names."""
    return {name: tensor.numpy() for name, tensor in _model(job, config, batch).state_dict().items()}


def _model(job: str, config: Config, batch: Arrays) -> Any:
    torch.manual_seed(0)
    return reference.CAVMAEClassifier(config.model, batch["targets"].shape[1]) if job == "finetuning" else reference.CAVMAE(config.model)


class Examples(Dataset):
    """Makes examples of clips as the original does in pretraining: (float32[T, M], float32[3, H, W]), from memory, which costs least.

    Audio: subtract the mean, compute Kaldi's log-mel with torchaudio, pad or cut it, normalise. Image: decode a JPEG with Pillow, resize,
    crop, normalise.
    """

    def __init__(self, clips: Sequence[Any], config: Config) -> None:
        """Keeps clips (data.clip.Clip)."""
        from avmae_jax.data.frontend import IMAGENET_MEAN, IMAGENET_STD  # imports JAX

        self._clips, self._config, size = clips, config, config.model.image_size
        steps = [T.Resize(size, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(size), T.ToTensor()]
        self._to_image: Any = T.Compose([*steps, T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes an example with one of the clip's frames at random."""
        return self.make(index, random.randrange(len(self._clips[index].frames)))  # noqa: S311, no secret

    def make(self, index: int, frame: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes an example with a given frame."""
        clip, model, data = self._clips[index], self._config.model, self._config.data
        waveform = torch.from_numpy(clip.waveform.astype(np.float32) / 32768)[None]
        options = {"htk_compat": True, "use_energy": False, "window_type": "hanning", "num_mel_bins": model.mel_bins, "dither": 0.0}
        fbank = torchaudio.compliance.kaldi.fbank(waveform - waveform.mean(), sample_frequency=16_000, frame_shift=10, **options)
        fbank = F.pad(fbank, (0, 0, 0, model.audio_frames - len(fbank)))  # a negative length cuts
        with Image.open(io.BytesIO(clip.frames[frame])) as image:
            mean, std = data.normalisation
            return (fbank - mean) / std, self._to_image(image)


def loader(examples: Examples, batch_size: int) -> DataLoader:
    """Returns a loader of shuffled batches that works in this process with one thread."""
    torch.set_num_threads(1)
    return DataLoader(examples, batch_size=batch_size, shuffle=True, num_workers=0, drop_last=True)
