"""Tests what can be listened to: three stages of the right length, rate and loudness, for a run of audio alone too."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from avmae_jax.config import AppliedConfig, Config
from avmae_jax.config_history import older_kind
from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.evals.listening import CLIPS, SECONDS, STAGES, listen_into
from avmae_jax.evals.origin import Origin
from avmae_jax.weights import io
from avmae_jax.weights.trained import Trained
from tests.support import TINY, Clips, apply, made


def trained(modality: str) -> Trained:
    """Makes a model whose weights are small enough for its predictions to be audio."""
    config = apply(Config(), TINY | {"model.modality": modality, "model.kind": older_kind(modality, classifies=False)})
    found = made(config.model)
    module = io.made(found._replace(params={name: 0.1 * value for name, value in found.params.items()}))
    return Trained("model", module, AppliedConfig(model=config.model), 0, (), step=7)


def samples(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (SAMPLE_RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_each_stage_is_written_as_long_as_its_clip(tmp_path: Path) -> None:
    found = listen_into(tmp_path / "new", trained("both"), Clips(5), Origin("d", "test"))
    assert json.loads((tmp_path / "new/listening.json").read_text()) == found
    assert [clip["id"] for clip in found["clips"]] == ["clip0", "clip2"]
    assert len(found["clips"]) == CLIPS
    for clip in found["clips"]:
        stages = [samples(tmp_path / "new" / clip["files"][stage]) for stage in STAGES]
        assert {len(stage) for stage in stages} == {len(stages[0])}
        assert 400 <= len(stages[0]) <= SECONDS * SAMPLE_RATE
        original, masked, reconstructed = (stage.astype(float) for stage in stages)
        assert (masked != original).any()
        assert (reconstructed != original).any()
        assert 0 < clip["hidden"] < 1
    assert (found["step"], found["data"], found["split"], found["norm_pix"]) == (7, "d", "test", True)


def test_images_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image"):
        listen_into(tmp_path, trained("image"), Clips(1), Origin())
    assert not list(tmp_path.iterdir())
