"""Every epoch shows every clip once, in an order that a resumed run, other readers and other hosts repeat."""

import json
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.config import AugmentConfig, DataConfig
from avmae_jax.data.batches import EvalOptions, TrainBatches, TrainOptions, eval_batches
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.fbank import num_samples
from tests import support
from tests.data.reading import COUNTING, FRAMES, MODEL, SAMPLES, Listed, assert_same, frames, ids, of_modality, take
from tests.support import Clips


def train_batches(source: ClipSource, batch_size: int, *, seed: int = 0, **data: Any) -> TrainBatches:
    return TrainBatches(source, MODEL, DataConfig(**data), batch_size, seed)


def test_a_batch_is_what_the_module_says() -> None:
    batches = train_batches(Clips(6), 4)
    batch = next(batches)
    batches.close()
    samples = num_samples(64)
    assert {name: (str(value.dtype)[:4], value.shape) for name, value in batch.items()} == {
        "id": ("<U5", (4,)),
        "waveform": ("int1", (4, samples)),
        "samples": ("int3", (4,)),
        "image": ("uint", (4, 32, 32, 3)),
    }
    for row, name in enumerate(batch["id"]):
        number = int(name.removeprefix("clip"))
        whole = Clips(6)[number].waveform
        starts = [start for start in range(len(whole) - samples + 1) if whole[start] == batch["waveform"][row, 0]]
        assert any((whole[start : start + samples] == batch["waveform"][row]).all() for start in starts)
        assert batch["image"][row, 0, 0, 0] == number


def test_each_epoch_shows_every_clip_once_in_another_order() -> None:
    batches = train_batches(Clips(12), 4)
    epochs = [ids(take(batches, 3)) for _ in range(3)]
    batches.close()
    assert all(sorted(epoch) == sorted(f"clip{n}" for n in range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_each_epoch_shows_another_frame_of_most_clips() -> None:
    batches = train_batches(Clips(40), 20)
    first, second = frames(take(batches, 2)), frames(take(batches, 2))
    batches.close()
    assert sum(first[name] != second[name] for name in first) > 20
    assert set(first.values()) | set(second.values()) == set(range(support.FRAMES))


def test_an_epoch_that_the_batch_does_not_divide_runs_on_into_the_next() -> None:
    batches = train_batches(Clips(6), 4)
    names = ids(take(batches, 6))
    batches.close()
    assert all(sorted(names[start : start + 6]) == [f"clip{n}" for n in range(6)] for start in range(0, 24, 6))


def test_fewer_clips_than_a_batch_repeat_within_it() -> None:
    batches = train_batches(Clips(3), 8)
    taken = take(batches, 3)
    batches.close()
    assert [len(batch["id"]) for batch in taken] == [8, 8, 8]
    assert Counter(ids(taken)) == {"clip0": 8, "clip1": 8, "clip2": 8}


def test_the_seed_decides_order_and_frames() -> None:
    runs = []
    for seed in (0, 0, 1):
        batches = train_batches(Clips(12), 6, seed=seed)
        runs.append(take(batches, 2))
        batches.close()
    assert_same(runs[0], runs[1])
    assert ids(runs[0]) != ids(runs[2])
    assert frames(runs[0]) != frames(runs[2])


@settings(deadline=None, max_examples=10)
@given(done=st.integers(0, 9), batch_size=st.integers(1, 7))
@pytest.mark.slow
def test_a_reader_goes_on_where_another_stopped(done: int, batch_size: int) -> None:
    clips = Clips(10)
    batches = train_batches(clips, batch_size)
    take(batches, done)
    state = json.loads(json.dumps(batches.state))
    expected = take(batches, 4)
    batches.close()
    resumed = train_batches(clips, batch_size)
    resumed.state = state
    assert_same(take(resumed, 4), expected)
    resumed.close()


@pytest.mark.parametrize("reader", [{"threads": 1, "prefetch": 1}, {"threads": 8, "prefetch": 9}, {"workers": 2}])
@pytest.mark.slow
def test_the_number_of_readers_changes_nothing(reader: dict[str, int]) -> None:
    flags.FLAGS(["test"])  # as app.run does; grain's processes ask for it
    runs = []
    for data in ({}, reader):
        batches = train_batches(Clips(10), 4, **data)
        runs.append([*take(batches, 3), batches.state])
        batches.close()
    assert_same(runs[0][:3], runs[1][:3])
    assert runs[0][3] == runs[1][3]


@pytest.mark.parametrize("shares", [([0, 1], [2, 3]), ([0, 3], [1, 2]), ([0, 1, 2, 3], [0, 1, 2, 3]), ([2], [0, 1, 3])])
def test_processes_read_their_rows_of_the_batch_that_one_would_read(shares: tuple[list[int], ...]) -> None:
    whole = train_batches(Clips(10), 4)
    expected, state = take(whole, 4), whole.state
    later = take(whole, 2)
    for rows in shares:
        own = TrainBatches(Clips(10), MODEL, DataConfig(), 4, 0, rows=rows)
        assert_same(take(own, 4), [{name: value[rows] for name, value in batch.items()} for batch in expected])
        assert own.state == state
        own.close()
        other = TrainBatches(Clips(10), MODEL, DataConfig(), 4, 0, rows=rows[:1])  # goes on with another number of processes
        other.state = state
        assert_same(take(other, 2), [{name: value[rows[:1]] for name, value in batch.items()} for batch in later])
        other.close()
    whole.close()


def test_evaluation_reads_only_the_clips_that_are_named() -> None:
    options = EvalOptions(limit=5, only=[0, 3, 4])
    assert ids(list(eval_batches(Clips(10), MODEL, DataConfig(), 2, options))) == ["clip0", "clip6", "clip8"]


@pytest.mark.slow
def test_training_cuts_longer_audio_anywhere() -> None:
    batches = train_batches(Listed(Clip("long", COUNTING, FRAMES, ()), Clip("short", COUNTING[:50], FRAMES, ())), 400, prefetch=1)
    batch = next(batches)
    batches.close()
    starts = {name: batch["waveform"][batch["id"] == name, 0] for name in ("long", "short")}
    assert set(starts["short"]) == {0}
    assert set(batch["samples"][batch["id"] == "short"]) == {50}
    assert starts["long"].min() < 15
    assert starts["long"].max() > 285
    assert starts["long"].max() <= 300
    assert abs(starts["long"].mean() - 150) < 4 * 300 / np.sqrt(12 * 200)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_any_number_of_frames_is_drawn_from_and_the_middle_one_evaluated(count: int) -> None:
    source = Listed(Clip("a", COUNTING[:SAMPLES], FRAMES[:count], ()))
    batches = train_batches(source, 100)
    drawn = next(batches)["image"][:, 0, 0, 1] // 20
    batches.close()
    assert set(drawn) == set(range(count))
    assert frames(list(eval_batches(source, MODEL, DataConfig(), 4))) == {"a": count // 2}


def test_one_modality_reads_only_its_own() -> None:
    deaf, blind = Clip("deaf", np.zeros(0, np.int16), FRAMES, ()), Clip("blind", COUNTING, (), ())
    for clip, modality, carried in ((deaf, "image", {"image"}), (blind, "audio", {"waveform", "samples"})):
        for augment, partner in ((AugmentConfig(), set()), (AugmentConfig(mixup=1.0), {f"{name}_b" for name in carried} | {"mix"})):
            batches = TrainBatches(Listed(clip), of_modality(modality), DataConfig(), 2, 0, TrainOptions(augment=augment))
            assert next(batches).keys() == {"id"} | carried | partner
            batches.close()
        (batch,) = eval_batches(Listed(clip), of_modality(modality), DataConfig(), 40, EvalOptions(frames="all", crops=3))
        assert batch.keys() == {"id"} | carried
        assert len(batch["id"]) == {"image": 10, "audio": 3}[modality]


def test_only_so_many_batches_are_read_ahead() -> None:
    """A batch of the base model is 23 MB: what is read ahead is counted in batches."""
    read: list[int] = []

    class Counted(Clips):
        def __getitem__(self, index: int) -> Clip:
            read.append(index)
            return super().__getitem__(index)

    batches = train_batches(Counted(500), 10, prefetch=2, threads=2)
    next(batches)
    time.sleep(0.5)
    batches.close()
    assert 10 <= len(read) <= 40
    read.clear()
    evaluated = eval_batches(Counted(500), MODEL, DataConfig(prefetch=2, threads=2), 10)
    next(evaluated)
    time.sleep(0.5)
    assert 10 <= len(read) <= 40
