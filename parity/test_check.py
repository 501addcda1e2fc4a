"""Runs python -m parity.check as a user runs it, on checkpoints of both kinds and on a video."""

# pyright: reportMissingImports=false

import sys
from pathlib import Path

import pytest

pytest.importorskip("timm", reason='the reference needs PyTorch and timm: pip install -e ".[parity]"')

import av
import numpy as np
import torch

from parity import check, reference, side_by_side

pytestmark = pytest.mark.usefixtures("unpolished")
CONFIG = side_by_side.small(depth=2)
SIZES = ["--heads=4", "--decoder_heads=2", "--mel_bins=48"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A second of noise, seen and heard."""
    path, rng = tmp_path / "noise.mp4", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("mpeg4", rate=10), container.add_stream("aac", rate=16_000, layout="mono")
        video.width = video.height = 64
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(rng.integers(0, 255, (64, 64, 3), np.uint8))))
        sound = av.AudioFrame.from_ndarray(rng.uniform(-0.3, 0.3, (1, 16_000)).astype(np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16_000
        container.mux([*audio.encode(sound), *audio.encode(None), *video.encode(None)])
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["parity.check", *map(str, arguments)])
    return check.main()


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.slow
def test_a_checkpoint_is_compared_on_random_and_real_input(
    classes: int, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = reference.CAVMAEClassifier(CONFIG, classes) if classes else reference.CAVMAE(CONFIG)
    torch.save({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "model.pth")
    assert run(monkeypatch, tmp_path / "model.pth", *SIZES, "--media", clip) == 0
    printed = capsys.readouterr().out
    for kind in ("random", "media"):
        assert f"{kind}: {'logits.missingvideoonly' if classes else 'contrast_image_tokens'}" in printed
    assert not classes or f" {classes} classes" in printed
    assert (" 10 of 10 " if classes else " 36 of 36 ") in f" {printed} ".replace("\n", " ")


def test_real_input_is_what_training_would_see(clip: Path) -> None:
    fbank, image = check.media_inputs(CONFIG, [clip, clip])
    assert fbank.shape == (2, 80, 48)
    assert image.shape == (2, 48, 48, 3)
    assert abs(fbank).max() > 0.1
    assert 0.1 < image.std() < 3


@pytest.mark.parametrize("kind", ["missing", "text", "media"])
def test_a_file_that_cannot_be_used_is_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, media = tmp_path / "model.pth", tmp_path / "text.mp4"
    media.write_text("no film")
    if kind == "text":
        path.write_text("no weights")
    elif kind == "media":
        torch.save(reference.CAVMAE(CONFIG).state_dict(), path)
    assert run(monkeypatch, path, *SIZES, "--media", media) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert str(media if kind == "media" else path) in printed.err


@pytest.mark.parametrize("installed", [[], ["nvidia-cudnn-cu12"], ["nvidia-cudnn-cu13"], ["nvidia-cudnn-cu12", "nvidia-cudnn-cu13"]])
def test_two_versions_of_cudnn_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str]) -> None:
    for name in installed:
        folder = tmp_path / f"{name.replace('-', '_')}-9.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.1\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert bool(check.overwritten()) == (len(installed) == 2)
    if check.overwritten():
        assert all(name in check.overwritten() for name in [*installed, "cuda13"])
