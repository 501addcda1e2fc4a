"""Which images of a clip batches of pairs hold, and where their audio is."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avmae_jax.config import AugmentConfig, Config, DataConfig, ModelConfig
from avmae_jax.data.batches import Batch, EvalOptions, TrainBatches, TrainOptions, eval_batches, frames_a_clip
from avmae_jax.data.clip import Clip, ClipSource, even_times
from avmae_jax.data.drawing import Drawn
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.pairs import all_images, draw_images, window_starts
from avmae_jax.data.sources import open_source
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.data.store.tolerant import Tolerant
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import ConfigError, DatasetError
from avmae_jax.train.finetuning import FinetuningTask
from tests.data.reading import FRAMES, Listed, assert_same
from tests.support import ROOT, Clips

MODEL = ModelConfig(audio_frames=32, clip_frames=64, window_rate=100.0, image_size=32)
SAMPLES = num_samples(64)  # 0.655 s


def clip(seconds: float = 0.65, frames: int = 10, **changed: Any) -> Clip:
    """Makes a clip whose sample number n is n, and whose frames divide it evenly."""
    wave = np.arange(round(seconds * 16_000), dtype=np.int16)
    return Clip("a", wave, FRAMES[:frames], (0,), frame_times=even_times(frames, seconds))._replace(**changed)


def evaluated(*clips: Clip, model: ModelConfig = MODEL, batch: int = 8, **data: Any) -> Batch:
    return next(eval_batches(Listed(*clips), model, DataConfig(**data), batch, EvalOptions(pairs=True)))


def trained(source: ClipSource, batch: int = 4, model: ModelConfig = MODEL, augment: AugmentConfig | None = None, **data: Any) -> Batch:
    options = TrainOptions(augment=augment or AugmentConfig(), classes=4 * bool(source[0].labels), pairs=True)
    batches = TrainBatches(source, model, DataConfig(prefetch=1, **data), batch, 0, options)
    made = next(batches)
    batches.close()
    return made


def numbers(batch: Batch, name: str = "image") -> np.ndarray:
    """int[B, F]: which frame of its clip each image is."""
    return batch[name][:, :, 0, 0, 1] // 20


def test_evaluation_gives_one_row_a_clip_with_all_frames() -> None:
    batch = evaluated(clip(), clip(id="b"))
    assert {name: (value.dtype.str[1:], value.shape) for name, value in batch.items() if name != "id"} == {
        "waveform": ("i2", (2, SAMPLES)),
        "samples": ("i4", (2,)),
        "window": ("i4", (2, 10)),
        "image": ("u1", (2, 10, 32, 32, 3)),
    }
    assert numbers(batch).tolist() == [list(range(10))] * 2
    np.testing.assert_array_equal(batch["window"][0], window_starts(even_times(10, 0.65), MODEL))


@pytest.mark.parametrize(
    ("wanted", "there", "shown"),
    [
        (5, 10, [0, 2, 4, 6, 8]),
        (4, 10, [0, 2, 5, 7]),
        (0, 3, [0, 1, 2]),
        (4, 1, [0] * 4),
        (6, 3, [0, 0, 1, 1, 2, 2]),
        (7, 3, [0, 0, 0, 1, 1, 2, 2]),
    ],
)
def test_frames_are_spread_or_repeated_evenly(wanted: int, there: int, shown: list[int]) -> None:
    assert numbers(evaluated(clip(frames=there), frames=wanted)).tolist() == [shown]
    drawn = numbers(trained(Listed(clip(frames=there)), 200, frames=wanted))
    assert set(drawn.flat) == set(shown)
    assert drawn.shape == (200, 1)


def test_training_draws_different_frames_with_their_windows() -> None:
    batch = trained(Clips(6), 12, pairs_per_clip=4, model=dataclasses.replace(MODEL, clip_frames=80))
    shown = numbers(batch)
    assert all(len(set(row)) == 4 for row in shown)
    assert len({tuple(row) for row in shown}) > 8
    times = np.array(Clips(6)[0].frame_times)[shown]
    np.testing.assert_array_equal(batch["window"], [window_starts(row, dataclasses.replace(MODEL, clip_frames=80)) for row in times])


def test_more_pairs_than_frames_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"pairs_per_clip is 5.* 3 frames"):
        trained(Listed(clip(frames=3)), 50, pairs_per_clip=5)


def test_a_classifier_is_trained_on_all_pairs(tmp_path: Path) -> None:
    model = dataclasses.replace(MODEL, kind="sync_classifier")
    config = Config(model=model, data=DataConfig(frames=4, prefetch=1), augment=AugmentConfig(mixup=0.5))
    task = FinetuningTask(config, None, ["a"], tmp_path)
    batches = TrainBatches(Listed(clip(), clip(id="b")), model, config.data, 3, 0, task.train_options(None))
    made = next(batches)
    batches.close()
    assert made["image"].shape == made["image_b"].shape == (3, 4, 32, 32, 3)
    assert made["window"].shape == (3, 4)
    assert [sorted(row) for row in numbers(made).tolist()] == [[0, 2, 5, 7]] * 3  # those of evaluation


def test_a_long_clip_gives_a_random_piece_and_frames_of_that_piece() -> None:
    long = clip(2.0, 10)  # a frame each 0.2 s: the piece holds three or four of them
    batch = trained(Listed(long), 300, pairs_per_clip=2)
    starts, shown = batch["waveform"][:, 0] / 16_000, numbers(batch)
    assert starts.min() < 0.1
    assert starts.max() > 1.2
    times = np.array(long.frame_times)[shown] - starts[:, None]
    assert ((times >= 0) & (times < SAMPLES / 16_000)).all()
    np.testing.assert_array_equal(batch["window"], window_starts(times, MODEL))
    assert (shown[:, 0] != shown[:, 1]).all()


def test_a_long_clip_is_evaluated_at_its_centre() -> None:
    batch = evaluated(clip(2.0, 10), clip(2.0, 10, frame_times=(0.05,) * 10))
    start = (32_000 - SAMPLES) // 2
    assert batch["waveform"][:, 0].tolist() == [start] * 2
    assert numbers(batch)[0].tolist() == [4, 4, 4, 4, 5, 5, 5, 6, 6, 6]
    shown = numbers(batch)[0]
    np.testing.assert_array_equal(batch["window"][0], window_starts(np.array(even_times(10, 2.0))[shown] - start / 16_000, MODEL))
    assert batch["window"][1].tolist() == [0] * 10  # no frame lies in the piece: the nearest one


def test_a_piece_without_frames_moves_to_the_nearest_one() -> None:
    batch = trained(Listed(clip(2.0, 1, frame_times=(1.5,))), 60)
    starts = batch["waveform"][:, 0] / 16_000
    assert ((starts <= 1.5) & (starts + SAMPLES / 16_000 > 1.5)).all()
    np.testing.assert_array_equal(batch["window"], window_starts(1.5 - starts[:, None], MODEL))
    assert len(set(starts)) > 3


def test_a_clip_shorter_than_a_window_is_filled_up() -> None:
    short = clip(0.1, 4)
    for batch in (evaluated(short), trained(Listed(short), 1, pairs_per_clip=4)):
        assert batch["samples"].tolist() == [1600]
        assert not batch["waveform"][0, 1600:].any()
        assert batch["window"].tolist() == [[0] * 4]


def test_frames_of_unknown_time_divide_the_clip_evenly() -> None:
    known, unknown = evaluated(clip()), evaluated(clip(frame_times=()))
    assert_same([known], [unknown])


def test_modalities_alone_carry_their_own() -> None:
    deaf, blind = clip(frame_times=(), waveform=np.zeros(0, np.int16)), clip(frames=0, frame_times=())
    for modality, one, carried in (("image", deaf, {"image"}), ("audio", blind, {"waveform", "samples", "window"})):
        model = dataclasses.replace(MODEL, modality=modality)
        assert evaluated(one, model=model, frames=6).keys() == {"id"} | carried
        assert trained(Listed(one), model=model, frames=6).keys() == {"id", "targets"} | carried
    every = evaluated(blind, model=dataclasses.replace(MODEL, modality="audio"), frames=5)
    np.testing.assert_array_equal(every["window"][0], window_starts(even_times(5, 0.65), MODEL))
    long = evaluated(clip(2.0), model=dataclasses.replace(MODEL, modality="image"))
    assert numbers(long).tolist() == [list(range(10))], "audio that isn't used doesn't choose the frames"


def test_crops_hold_the_frames_of_their_own_piece() -> None:
    options = EvalOptions(pairs=True, crops=2)
    batch = next(eval_batches(Listed(clip(1.31, 2)), MODEL, DataConfig(), 8, options))
    assert numbers(batch).tolist() == [[0, 0], [1, 1]]


def test_partners_have_frames_of_the_same_times() -> None:
    source = Listed(clip(frames=10), clip(frames=5, id="b"))
    batch = trained(source, 100, augment=AugmentConfig(mixup=0.7, label_smoothing=0.1), pairs_per_clip=3)
    mixed = batch["mix"] < 1
    assert batch["image_b"].shape == batch["image"].shape
    assert 0 < mixed.sum() < 100
    assert not batch["image_b"][~mixed].any()
    times = {"a": np.array(even_times(10, 0.65)), "b": np.array(even_times(5, 0.65))}
    for name, own, other in zip(batch["id"][mixed], numbers(batch)[mixed], numbers(batch, "image_b")[mixed], strict=True):
        wanted = times[name][own]
        nearest = [np.abs(clips[None] - wanted[:, None]).argmin(axis=1).tolist() for clips in times.values()]
        assert other.tolist() in nearest
    assert batch["targets"].shape == (100, 4)


def test_flips_mirror_all_images_of_a_clip() -> None:
    half = np.zeros((32, 32, 3), np.uint8)
    half[:, :16] = 255
    file = io.BytesIO()
    Image.fromarray(half).save(file, "png")
    batch = trained(
        Listed(clip(frame_times=())._replace(frames=(file.getvalue(),) * 3)), 40, augment=AugmentConfig(flip=True), pairs_per_clip=3
    )
    left, right = batch["image"][:, :, 0, 0, 0], batch["image"][:, :, 0, -1, 0]
    assert (left != right).all()
    assert {tuple(row) for row in left} == {(255,) * 3, (0,) * 3}


@settings(deadline=None, max_examples=80)
@given(
    seconds=st.floats(0.05, 4),
    times=st.lists(st.floats(0, 4), min_size=1, max_size=10),
    frames=st.integers(1, 12),
    count=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_whatever_a_clip_holds_its_images_are_near_their_piece(
    seconds: float, times: list[float], frames: int, count: int, seed: int
) -> None:
    one = clip(seconds, len(times), frame_times=tuple(sorted(times)))
    last = max(0, len(one.waveform) - SAMPLES)
    drawn = draw_images(one, MODEL, np.random.default_rng(seed), frames, count)
    every = all_images(one, MODEL, last // 2, frames)
    assert (drawn.frames.shape, every.frames.shape) == ((count,), (frames,))
    assert 0 <= drawn.start <= last
    for found in (drawn, every):
        np.testing.assert_allclose(found.times, np.array(one.frame_times)[found.frames] - found.start / 16_000)
    assert (np.diff(every.frames) >= 0).all()
    if last and max(times) < len(one.waveform) / 16_000 - 0.01:
        assert ((drawn.times >= -1e-4) & (drawn.times <= SAMPLES / 16_000)).all()


def builtin(cache: Path, **changed: Any) -> DataConfig:
    sizes = {"builtin_train": 14, "builtin_test": 2, "builtin_seconds": 0.3, "builtin_image_size": 32}
    return DataConfig(cache_dir=str(cache), **{**sizes, **changed})


@pytest.mark.parametrize("there", [10, 4])
def test_data_with_fewer_frames_are_refused_or_used_as_they_are(tmp_path: Path, there: int) -> None:
    data = builtin(tmp_path, builtin_frames=there)
    source = open_source(data, "train", workers=0)
    for wrapped in (source, Tolerant(source, 0), Drawn(source, 1, 0)):
        assert frames_a_clip(wrapped, data) == there
        assert frames_a_clip(wrapped, dataclasses.replace(data, frames=3)) == 3
        with pytest.raises(DatasetError, match=rf"data\.frames is 16.* {there} frames.*data\.frames=0.*--frames=16"):
            frames_a_clip(wrapped, dataclasses.replace(data, source="prepared", frames=16))
    assert frames_a_clip(Listed(clip(frames=7)), DataConfig(frames=16)) == 16
    assert frames_a_clip(Listed(clip(frames=7)), DataConfig()) == 7


def test_the_number_that_data_were_prepared_with_is_in_their_plan(tmp_path: Path) -> None:
    spec = DatasetSpec("clips", {"train": [Job("a", ())]}, lambda job: iter([clip(id=job.id)]), ["x"], {"frames": 16})
    write_dataset(tmp_path / "set", spec)
    assert frames_a_clip(PreparedSource(tmp_path / "set", "train"), DataConfig(frames=16)) == 16  # of a clip that is longer
    assert frames_a_clip(PreparedSource(ROOT / "tests/old/prepared", "train"), DataConfig()) == 10


def test_more_frames_than_the_built_in_set_draws_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.frames is 16.*builtin_frames"):
        DataConfig(frames=16).validate()
    DataConfig(frames=16, builtin_frames=16).validate()
