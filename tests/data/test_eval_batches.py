"""Tests that evaluation reads all clips in order, whole or in crops, and refuses what it can't show."""

from collections.abc import Sequence

import numpy as np
import pytest

from avmae_jax.config import DataConfig
from avmae_jax.data.batches import EvalOptions, TrainBatches, eval_batches
from avmae_jax.data.clip import Clip
from avmae_jax.data.example import example
from tests import support
from tests.data.reading import COUNTING, FRAMES, LABELS, MODEL, SAMPLES, Listed, assert_same, frames, ids, labelled, of_modality
from tests.support import Clips


def test_evaluation_reads_all_clips_in_order_with_the_middle_frame() -> None:
    batches = list(eval_batches(Clips(10), MODEL, DataConfig(), 4))
    assert [len(batch["id"]) for batch in batches] == [4, 4, 2]
    assert ids(batches) == [f"clip{n}" for n in range(10)]
    assert set(frames(batches).values()) == {support.FRAMES // 2}
    assert_same(list(eval_batches(Clips(10), MODEL, DataConfig(threads=1), 4)), batches)


@pytest.mark.parametrize(("limit", "sizes"), [(0, [3]), (2, [2]), (9, [3])])
def test_a_held_out_set_smaller_than_the_batch_is_one_batch(limit: int, sizes: list[int]) -> None:
    assert [len(batch["id"]) for batch in eval_batches(Clips(3), MODEL, DataConfig(), 8, EvalOptions(limit=limit))] == sizes


@pytest.mark.parametrize(("limit", "read"), [(6, range(6)), (3, (0, 3, 6)), (1, (0,))])
def test_a_limit_takes_clips_spread_over_the_set(limit: int, read: Sequence[int]) -> None:
    assert ids(list(eval_batches(Clips(10), MODEL, DataConfig(), 4, EvalOptions(limit=limit)))) == [f"clip{n}" for n in read]


@pytest.mark.parametrize("length", [1, 99, 100, 101, 500])
@pytest.mark.parametrize("start", [0, 60])
def test_longer_audio_is_cut_and_a_shorter_one_padded(length: int, start: int) -> None:
    sound = np.arange(1, length + 1, dtype=np.int16)
    clip = Clip("a", sound, Clips(1)[0].frames, ())
    made = example(clip, 0, samples=100, image_size=32, start=start)
    kept = sound[start : start + 100]
    assert made["samples"] == len(kept)
    assert made["waveform"].dtype == np.int16
    np.testing.assert_array_equal(made["waveform"][: len(kept)], kept)
    assert not made["waveform"][len(kept) :].any()


@pytest.mark.parametrize(("crops", "starts"), [(1, [150]), (2, [0, 300]), (4, [0, 100, 200, 300])])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_evaluation_crops_stand_next_to_each_other(crops: int, starts: list[int], batch_size: int) -> None:
    source = Listed(
        *(Clip(name, COUNTING[:length], FRAMES, ()) for name, length in (("a", SAMPLES + 300), ("b", 700), ("c", SAMPLES + 300)))
    )
    batches = list(eval_batches(source, MODEL, DataConfig(), batch_size, EvalOptions(crops=crops)))
    assert [len(batch["id"]) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert ids(batches) == ["a"] * crops + ["b"] + ["c"] * crops
    assert [int(row[0]) for batch in batches for row in batch["waveform"]] == [*starts, 0, *starts]
    assert set(frames(batches).values()) == {support.FRAMES // 2}


def test_evaluation_can_show_every_frame_with_every_crop() -> None:
    source = Listed(Clip("a", COUNTING, FRAMES[:3], ()), Clip("b", COUNTING[:SAMPLES], FRAMES, ()))
    batches = list(eval_batches(source, MODEL, DataConfig(), 5, EvalOptions(crops=2, frames="all")))
    assert ids(batches) == ["a"] * 6 + ["b"] * 10
    assert [int(row[0]) for batch in batches for row in batch["waveform"]] == [0] * 3 + [300] * 3 + [0] * 10
    assert [int(row[0, 0, 1]) // 20 for batch in batches for row in batch["image"]] == [0, 1, 2] * 2 + list(range(10))
    with pytest.raises(ValueError, match=r"crops.*0"):
        eval_batches(source, MODEL, DataConfig(), 5, EvalOptions(crops=0))


@pytest.mark.parametrize(("sound", "pictures", "modality", "lacks"), [(0, 10, "both", "audio"), (5, 0, "both", "image"),
                                                                      (0, 10, "audio", "audio"), (5, 0, "image", "image")])  # fmt: skip
def test_what_a_clip_lacks_is_never_made_up(sound: int, pictures: int, modality: str, lacks: str) -> None:
    source = Listed(Clip("poor", COUNTING[:sound], FRAMES[:pictures], ()))
    with pytest.raises(ValueError, match=f"poor.*{lacks}"):
        next(eval_batches(source, of_modality(modality), DataConfig(), 1))
    batches = TrainBatches(source, of_modality(modality), DataConfig(), 1, 0)
    with pytest.raises(ValueError, match=f"poor.*{lacks}"):
        next(batches)
    batches.close()


def test_a_damaged_frame_is_named() -> None:
    source = Listed(Clip("torn", COUNTING, (*FRAMES[:5], FRAMES[5][:60], *FRAMES[6:]), ()))
    with pytest.raises(ValueError, match=r"torn, frame 5.*60 bytes"):
        next(eval_batches(source, MODEL, DataConfig(), 1))


def test_evaluation_targets_are_the_labels() -> None:
    (batch,) = eval_batches(labelled(), MODEL, DataConfig(), 9, EvalOptions(classes=4))
    assert [tuple(np.flatnonzero(row)) for row in batch["targets"]] == [*LABELS]
    assert set(batch["targets"].ravel()) == {0, 1}
    with pytest.raises(ValueError, match=r"clip1.*\(1, 3\).*\[0, 3\)"):
        list(eval_batches(labelled(), MODEL, DataConfig(), 9, EvalOptions(classes=3)))
