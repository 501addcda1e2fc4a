"""Offers what tests of batches share: clips whose samples and pixels say where they come from, and readers of what was shown."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from avmae_jax.config import ModelConfig
from avmae_jax.data.batches import Batch, TrainBatches
from avmae_jax.data.clip import Clip
from avmae_jax.data.fbank import num_samples
from tests.support import Clips

MODEL = ModelConfig(audio_frames=64, image_size=32)


def take(batches: TrainBatches, count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def ids(batches: list[Batch]) -> list[str]:
    return [str(name) for batch in batches for name in batch["id"]]


def frames(batches: list[Batch]) -> dict[str, int]:
    """Returns which frame of each clip is in a batch."""
    return {str(name): int(image[0, 0, 1]) // 20 for batch in batches for name, image in zip(batch["id"], batch["image"], strict=True)}


def assert_same(got: list[Batch], want: list[Batch]) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value.dtype == other[name].dtype
            np.testing.assert_array_equal(value, other[name])


class Listed:
    """Clips from a list."""

    label_names: Sequence[str] = ("a", "b", "c", "d")

    def __init__(self, *clips: Clip):
        self._clips = clips

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]


FRAMES = Clips(1)[0].frames


SAMPLES = num_samples(64)


COUNTING = np.arange(SAMPLES + 300, dtype=np.int16)  # a sample says where it was cut


def of_modality(name: str) -> ModelConfig:
    return dataclasses.replace(MODEL, modality=name)


LABELS = ((0,), (1, 3), (2,), (3,), (0, 2))


def labelled() -> Listed:
    """Offers clips whose values are all n + 1 for clip n, with LABELS[n]."""
    return Listed(*(Clips(5)[n]._replace(waveform=np.full(SAMPLES - 100 * n, n + 1, np.int16), labels=LABELS[n]) for n in range(5)))
