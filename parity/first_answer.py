"""Classifies one clip with the PyTorch reference in a process of its own, for launch.benchmark --export.

    python -m parity.first_answer WEIGHTS.pth CONFIG.json FOLDER CLIP

WEIGHTS.pth holds a classifier's state dict, CONFIG.json the fields of its ModelConfig, and FOLDER is an export, whose media.py decodes.
"""

# pyright: reportMissingImports=false

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio

from avmae_jax.config import ModelConfig
from parity.reference import CAVMAEClassifier

_MEAN, _STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


def load(weights: str | Path, config: ModelConfig) -> CAVMAEClassifier:
    """Loads the reference's classifier."""
    state = torch.load(weights, mmap=True)
    with torch.device("meta"):  # no time for initialising what is replaced
        model = CAVMAEClassifier(config, len(state["mlp_head.1.bias"]))
    model.load_state_dict(state, assign=True)
    return model.eval()


def computing(weights: str | Path, config: ModelConfig, fbank: np.ndarray, image: np.ndarray) -> Callable[[], np.ndarray]:
    """Returns a function that computes the probabilities of a model's inputs, [B, T, M] and [B, H, W, 3]."""
    model, given = load(weights, config), (torch.tensor(fbank), torch.tensor(image).permute(0, 3, 1, 2).contiguous())

    @torch.inference_mode()
    def compute() -> np.ndarray:
        return model(*given).sigmoid().numpy()

    return compute


def inputs(arrays: Mapping[str, np.ndarray], config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the model's inputs of int16[1, S] and uint8[1, H, W, 3] by torchaudio and torch, unless for the log-mel's normalisation."""
    waveform = torch.from_numpy(arrays["waveform"].astype(np.float32) / 32_768)
    options = {"htk_compat": True, "use_energy": False, "window_type": "hanning", "num_mel_bins": config.mel_bins, "dither": 0.0}
    fbank = torchaudio.compliance.kaldi.fbank(waveform - waveform.mean(), sample_frequency=16_000, frame_shift=10, **options)
    image = ((torch.from_numpy(arrays["image"]) / 255 - _MEAN) / _STD).permute(0, 3, 1, 2)
    return fbank[None], F.interpolate(image, (config.image_size, config.image_size), mode="bicubic", antialias=True)


def main(weights: str, config: str, folder: str, clip: str) -> None:
    """Prints the likeliest class."""
    sys.path.insert(0, folder)
    import media  # of the export

    described: Any = json.loads((Path(folder) / "config.json").read_text())
    sizes = ModelConfig(**json.loads(Path(config).read_text()))
    windows: Iterable[Mapping[str, np.ndarray]] = media.windows(clip, described["window"], described["channels"])
    model = load(weights, sizes)
    with torch.inference_mode():
        logits = torch.stack([model(*inputs(arrays, sizes)) for arrays in windows])
    print(int(logits.sigmoid().mean(dim=0).argmax()))


if __name__ == "__main__":
    main(*sys.argv[1:])
