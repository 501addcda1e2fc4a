"""Makes what tests of this folder share: a folder of models and media."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avmae_jax import load
from avmae_jax.inference.api import Model
from avmae_jax.weights.io import write
from tests.inference.tiny_models import NAMES, weights
from tests.media import numbered, tone, write_clip, write_media


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a classifier and a pretraining model, and media: a film of 5 s, audio, an image, and two broken files."""
    root = tmp_path_factory.mktemp("predict")
    write(weights(4, loss="ce", label_names=NAMES), root / "run.safetensors")
    write(weights(0, seed=1), root / "pre.safetensors")
    media = root / "media"
    sound = np.concatenate([tone(300 + 300 * second, 1) for second in range(5)])
    write_media(media / "film.mp4", frames=[numbered(40 * number) for number in range(50)], sound=sound)
    write_clip(media / "deep" / "short.mp4", 1.6, first=700, hertz=2000)
    write_media(media / "sound.wav", sound=tone(500, 2), audio_codec="pcm_s16le")
    Image.fromarray(numbered(77)).save(media / "picture.png")
    (media / "broken.mp4").write_bytes((media / "film.mp4").read_bytes()[:3000])
    (media / "empty.wav").touch()
    (media / "notes.txt").write_text("no media")
    return root


@pytest.fixture(scope="session")
def trained(folder: Path) -> Model:
    return load(folder / "run.safetensors")
