"""The PyTorch loader that ours is held against in time gives what ours and the device give."""

# pyright: reportMissingImports=false

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchaudio", reason='the loader needs PyTorch: pip install -e ".[parity]"')
pytest.importorskip("torchvision", reason='the loader needs PyTorch: pip install -e ".[parity]"')

import jax
import torch

from avmae_jax.config import Config, ModelConfig, TrainConfig
from avmae_jax.data.batches import example
from avmae_jax.data.clip import Clip
from avmae_jax.data.frontend import model_inputs
from avmae_jax.data.instruments import make_clip
from launch.benchmarks import data
from parity import loader_torch

CONFIG = Config(name="mini", model=ModelConfig(audio_frames=64, image_size=32), train=TrainConfig(batch_size=3))


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Sounds that are cut and one that is padded, with pictures that are resized."""
    return [make_clip("train", index, seed=1, seconds=0.5 if index else 0.8, image_size=48) for index in range(6)]


@pytest.mark.parametrize("index", [0, 1])
def test_both_loaders_give_the_same(clips: list[Clip], index: int, tmp_path: Path) -> None:
    files = loader_torch.Files(tmp_path, loader_torch.write_files(clips, tmp_path), CONFIG.model, CONFIG.data)
    theirs = [tensor.numpy() for tensor in files.load(index, 7)]
    batch = example(clips[index], 7, samples=(64 - 1) * 160 + 400, image_size=32)
    ours = model_inputs({name: jax.numpy.asarray(batch[name])[None] for name in ("waveform", "samples", "image")}, CONFIG)
    np.testing.assert_allclose(theirs[0], ours[0][0], atol=1e-3)
    np.testing.assert_allclose(theirs[1].transpose(1, 2, 0), ours[1][0], atol=1e-6)


def test_loaders_take_turns_on_the_same_clips(
    clips: list[Clip], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_CLIPS", len(clips))
    monkeypatch.setattr(data, "open_source", lambda *_: clips)
    speeds = data.compare_loaders(CONFIG, rounds=2)
    assert {side: len(turns) for side, turns in speeds.items()} == {"ours": 2, "PyTorch": 2}
    assert min(min(speed) for turns in speeds.values() for speed in turns) > 0
    assert torch.get_num_threads() == 1
    data.show_loaders(CONFIG, rounds=1)
    printed = capsys.readouterr().out
    assert "64 frames of sound, 32 x 32 pixels, batches of 3" in printed
    assert "ours/PyTorch per CPU second" in printed
