"""Makes what tests of this folder share: models of every kind, and a film to apply them to."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from avmae_jax.config import AppliedConfig
from avmae_jax.export.program import entries_of
from avmae_jax.models.registry import KINDS
from avmae_jax.weights.io import made as model_of
from avmae_jax.weights.trained import Trained
from tests.inference.tiny_models import SMALL
from tests.media import numbered, tone, write_media
from tests.support import made

CLASSES = 5
AUDIO = {"modality": "audio", "audio_frames": 96}


def model(kind: str, *, mode: str = "multimodal", loss: str = "bce", normalise: Any = "dataset", **sizes: Any) -> Trained:
    """Makes a model with random weights."""
    config = dataclasses.replace(SMALL, kind=kind, **sizes)
    classes = CLASSES if KINDS[kind].modes else 0
    weights = made(config, classes)
    weights = weights._replace(params={name: value * np.float32(0.3) for name, value in weights.params.items()})
    whole = AppliedConfig(model=config)
    whole.tune.mode, whole.tune.loss, whole.data.normalise = mode, loss, normalise  # type: ignore[assignment]
    return Trained(kind, model_of(weights), whole, classes, tuple(f"class {number}" for number in range(classes)))


def windows(trained: Trained, batch: int, size: tuple[int, int] = (48, 70)) -> dict[str, np.ndarray]:
    """Makes decoded windows: tones in noise, and frames that are not of the model's size."""
    samples = 160 * trained.config.model.audio_frames + 240
    rng = np.random.default_rng(batch)
    times = np.arange(samples) / 16_000
    waves = [3000 * np.sin(2 * np.pi * 300 * (row + 1) * times) + rng.normal(0, 300, samples) for row in range(batch)]
    return {"waveform": np.array(waves).astype(np.int16), "image": rng.integers(0, 256, (batch, *size, 3), np.uint8)}


def expected(trained: Trained, what: Any, given: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Computes the model's own results."""
    entry = entries_of(trained, what)[given]
    chosen = {name: arrays[name] for name in entry.inputs}
    found = jax.jit(lambda given: entry.function(trained.module, given))(chosen)
    return {name: np.asarray(value) for name, value in found.items()}


ALL = ("both", "audio", "image")
KINDS_OF_MODELS: dict[str, tuple[Callable[[], Trained], Any, tuple[str, ...]]] = {  # how it is made, what is exported, the entries
    "pretraining": (lambda: model("cavmae"), "embed", ALL),
    "both, bce": (lambda: model("cavmae_classifier"), "classify", ALL),
    "audio, vectors": (lambda: model("cavmae_classifier", mode="audioonly"), "embed", ALL),
    "audio, ce": (lambda: model("cavmae_classifier", mode="audioonly", loss="ce", head_pool="attentive"), "classify", ("audio",)),
    "image": (lambda: model("cavmae_classifier", mode="videoonly", head_pool="mean_std"), "classify", ("image",)),
    "late, by clip": (lambda: model("late_classifier", normalise="clip"), "classify", ALL),
    "ast": (lambda: model("ast", mode="audioonly", **AUDIO), "classify", ("audio",)),
}


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a film of 5 s whose frames show their numbers."""
    sound = np.concatenate([tone(300 + 300 * second, 1, 44_100) for second in range(5)])
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_media(path, frames=[numbered(40 * number) for number in range(50)], sound=sound, sample_rate=44_100)
