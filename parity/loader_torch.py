"""A PyTorch DataLoader that does to each clip what the original's does in pretraining, for `python -m launch.benchmark --data loader`.

Read a wav file, take its mean away, Kaldi's log-mel by torchaudio, pad or cut to 1024 frames, normalise; decode one of ten JPEGs with
Pillow, resize, crop, normalise. The wav file is read by SciPy, the fastest plain way: torchaudio's own needs yet another package.
"""

# pyright: reportMissingImports=false

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
import torchvision.transforms as T
from PIL import Image
from scipy.io import wavfile
from torch.utils.data import DataLoader, Dataset

from avmae_jax.config import DataConfig, ModelConfig
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.frontend import IMAGENET_MEAN, IMAGENET_STD
from avmae_jax.data.sources import MANIFEST_FRAMES


def write_files(clips: Iterable[Clip], folder: Path) -> list[str]:
    """Writes clips in the layout of the original, <name>.wav and frame_{0..9}/<name>.jpg; returns the names."""
    for number in range(MANIFEST_FRAMES):
        (folder / f"frame_{number}").mkdir()
    names = []
    for index, clip in enumerate(clips):
        names.append(f"{index:06d}")
        wavfile.write(folder / f"{names[-1]}.wav", SAMPLE_RATE, clip.waveform)
        for number in range(MANIFEST_FRAMES):
            jpeg = clip.frames[min(number, len(clip.frames) - 1)]  # a short clip may have fewer
            (folder / f"frame_{number}" / f"{names[-1]}.jpg").write_bytes(jpeg)
    return names


class Files(Dataset):
    """The clips that write_files wrote, each as (float32[T, M], float32[3, H, W]), normalised."""

    def __init__(self, folder: Path, names: Sequence[str], model: ModelConfig, data: DataConfig) -> None:
        self._folder, self._names, self._model, self._data = folder, names, model, data
        size = model.image_size
        steps = [T.Resize(size, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(size), T.ToTensor()]
        self._to_image: Any = T.Compose([*steps, T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """With one of the frames, at random."""
        return self.load(index, random.randrange(MANIFEST_FRAMES))  # noqa: S311, no secret

    def load(self, index: int, frame: int) -> tuple[torch.Tensor, torch.Tensor]:
        """With a given frame."""
        name = self._names[index]
        with Image.open(self._folder / f"frame_{frame}" / f"{name}.jpg") as picture:
            return self._fbank(self._folder / f"{name}.wav"), self._to_image(picture)

    def _fbank(self, file: Path) -> torch.Tensor:
        rate, samples = wavfile.read(file)
        waveform = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
        fbank = torchaudio.compliance.kaldi.fbank(
            waveform - waveform.mean(),
            htk_compat=True,
            sample_frequency=rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=self._model.mel_bins,
            dither=0.0,
            frame_shift=10,
        )
        missing = self._model.audio_frames - len(fbank)
        fbank = torch.nn.functional.pad(fbank, (0, 0, 0, missing)) if missing > 0 else fbank[: self._model.audio_frames]
        return (fbank - self._data.audio_mean) / self._data.audio_std


def batches(files: Files, batch_size: int) -> DataLoader:
    """Shuffled batches, made in this process by one thread."""
    torch.set_num_threads(1)
    return DataLoader(files, batch_size=batch_size, shuffle=True, num_workers=0, drop_last=True)
