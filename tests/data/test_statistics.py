"""Tests the mean and deviation of the log-mel and the sampling weights, computed and stored with a data set."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avmae_jax.data.clip import Clip
from avmae_jax.data.fbank import log_mel
from avmae_jax.data.statistics import audio_statistics, write_statistics, write_weights
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.data.store.writer import write_dataset


def clip(number: int, offset: int = 0) -> Clip:
    waveform = (np.random.default_rng(number).standard_normal(4000 + 100 * number) * 1000 + offset).astype(np.int16)
    return Clip(f"v{number}", waveform, (), (number % 2,))


def make(job: Job) -> Iterator[Clip]:
    yield clip(job.args[0])._replace(**({"labels": ()} if "bare" in job.id else {}))


def prepare(out: Path, names: str) -> Path:
    jobs = {"train": [Job(name, (number,)) for number, name in enumerate(names.split())], "test": []}
    write_dataset(out, DatasetSpec("clips", jobs, make, ["harp", "oboe"]))
    return out


def mel_of(clips: list[Clip]) -> np.ndarray:
    return np.concatenate([log_mel(each.waveform.astype(np.float32) / 32768).astype(np.float64).ravel() for each in clips])


def test_audio_of_any_level_gives_exact_statistics() -> None:
    clips = [*(clip(number, offset=20_000) for number in range(3)), clip(7)]
    found, values = audio_statistics(clips), mel_of(clips)
    assert (found.mean, found.std) == pytest.approx((values.mean(), values.std()), rel=1e-12)
    with pytest.raises(ValueError, match="audio"):
        audio_statistics([clip(0)._replace(waveform=np.zeros(0, np.int16))])


@pytest.mark.parametrize(("limit", "numbers"), [(0, [0, 1, 2, 3, 4]), (2, [0, 2]), (9, [0, 1, 2, 3, 4])])
def test_clips_spread_over_the_set_are_read(tmp_path: Path, limit: int, numbers: list[int]) -> None:
    progress: list[tuple[int, int, int]] = []
    found = write_statistics(prepare(tmp_path / "out", "a b c d e"), limit, lambda *counts: progress.append(counts))
    values = mel_of([clip(number) for number in numbers])
    assert found["clips"] == len(numbers)
    assert (found["audio_mean"], found["audio_std"]) == pytest.approx((values.mean(), values.std()), abs=1e-4)
    assert progress[-1] == (len(numbers), 0, len(numbers))


def test_without_all_labels_there_are_no_weights(tmp_path: Path) -> None:
    out = prepare(tmp_path / "out", "a bare")
    assert write_weights(out) is None
    assert PreparedSource(out, "train", "audio").weights is None
