"""Every epoch shows every clip once, in an order that a resumed run, other readers and other hosts repeat."""

import dataclasses
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avmae_jax.config import AugmentConfig, DataConfig, ModelConfig
from avmae_jax.data.augment import soft_targets
from avmae_jax.data.batches import Batch, EvalOptions, TrainBatches, TrainOptions, eval_batches, example
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.fbank import num_samples
from tests import support
from tests.support import Clips

MODEL = ModelConfig(audio_frames=64, image_size=32)


def train_batches(source: ClipSource, batch_size: int, *, seed: int = 0, **data: Any) -> TrainBatches:
    return TrainBatches(source, MODEL, DataConfig(**data), batch_size, seed)


def take(batches: TrainBatches, count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def ids(batches: list[Batch]) -> list[str]:
    return [str(name) for batch in batches for name in batch["id"]]


def frames(batches: list[Batch]) -> dict[str, int]:
    """Which frame of each clip was shown."""
    return {str(name): int(image[0, 0, 1]) // 20 for batch in batches for name, image in zip(batch["id"], batch["image"], strict=True)}


def assert_same(got: list[Batch], want: list[Batch]) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value.dtype == other[name].dtype
            np.testing.assert_array_equal(value, other[name])


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


def as_host(monkeypatch: pytest.MonkeyPatch, index: int, count: int) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(jax, "process_count", lambda: count)


def test_hosts_share_the_batch_that_one_host_would_read(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_batches(Clips(12), 4)
    expected = [set(ids([batch])) for batch in take(whole, 6)]
    shown = frames(take(whole, 3))
    shares, states = [], []
    for host in range(2):
        as_host(monkeypatch, host, 2)
        batches = train_batches(Clips(12), 4)
        shares.append(take(batches, 6))
        states.append(batches.state)
        assert frames(take(batches, 3)).items() <= shown.items()
        batches.close()
    assert all(len(batch["id"]) == 2 for share in shares for batch in share)
    assert [set(ids([one, other])) for one, other in zip(*shares, strict=True)] == expected
    assert states[0] == states[1]
    as_host(monkeypatch, 0, 1)  # the state of two hosts is that of one
    alone = train_batches(Clips(12), 4)
    alone.state = states[0]
    assert frames(take(alone, 3)) == shown
    alone.close()
    whole.close()


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


def of_modality(name: str) -> ModelConfig:
    return dataclasses.replace(MODEL, modality=name)


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


LABELS = ((0,), (1, 3), (2,), (3,), (0, 2))


def labelled() -> Listed:
    """Clip n is filled with the number n + 1 and has LABELS[n]."""
    return Listed(*(Clips(5)[n]._replace(waveform=np.full(SAMPLES - 100 * n, n + 1, np.int16), labels=LABELS[n]) for n in range(5)))


ALL_ON = AugmentConfig(specaug_freq=4, specaug_time=9, noise=True, mixup=0.5, mixup_alpha=2.0, label_smoothing=0.1, balanced=True)


def augmented(
    augment: AugmentConfig, batch_size: int = 8, *, source: ClipSource | None = None, data: DataConfig | None = None
) -> TrainBatches:
    weights = np.array([1.0, 2, 0, 4, 3])
    source, data = source or labelled(), data or DataConfig(prefetch=1)
    return TrainBatches(source, MODEL, data, batch_size, 0, TrainOptions(augment=augment, classes=4, weights=weights))


@pytest.mark.slow
def test_a_mixed_batch_carries_partners_shares_and_targets() -> None:
    batches = augmented(AugmentConfig(mixup=0.5, mixup_alpha=2.0, label_smoothing=0.2), 600)
    batch = next(batches)
    batches.close()
    mixed = batch["mix"] < 1
    assert {name: (value.dtype, value.shape) for name, value in batch.items() if name in ("mix", "samples_b", "targets")} == {
        "mix": (np.float32, (600,)),
        "samples_b": (np.int32, (600,)),
        "targets": (np.float32, (600, 4)),
    }
    assert abs(mixed.mean() - 0.5) < 4 * 0.5 / np.sqrt(600)
    assert not any(batch[name][~mixed].any() for name in ("waveform_b", "samples_b", "image_b"))
    own, partner = (batch[name][:, 0] - 1 for name in ("waveform", "waveform_b"))
    counts = np.bincount(partner[mixed], minlength=5)
    np.testing.assert_allclose(counts / mixed.sum(), 0.2, atol=4 * 0.4 / np.sqrt(mixed.sum()))  # drawn uniformly ...
    assert abs((own == partner)[mixed].mean() - 0.2) < 4 * 0.4 / np.sqrt(mixed.sum())  # ... whatever the clip is
    shares = batch["mix"][mixed]
    np.testing.assert_allclose((shares.mean(), shares.var()), (0.5, 1 / 20), atol=0.05)  # of Beta(2, 2)
    for row in np.flatnonzero(mixed):
        assert batch["samples_b"][row] == SAMPLES - 100 * partner[row]
        assert batch["image_b"][row, 0, 0, 0] == partner[row]
        expected = soft_targets(LABELS[own[row]], 4, 0.2, (LABELS[partner[row]], float(batch["mix"][row])))
        np.testing.assert_allclose(batch["targets"][row], expected, atol=1e-6)
    for row in np.flatnonzero(~mixed):
        np.testing.assert_array_equal(batch["targets"][row], soft_targets(LABELS[own[row]], 4, 0.2))
    assert len({(n, int(image[0, 0, 1])) for n, image in zip(partner[mixed], batch["image_b"][mixed], strict=True)}) > 40  # frames too


def test_a_mixture_gets_the_partners_own_frame_and_piece() -> None:
    batches = augmented(AugmentConfig(mixup=1.0), 64, source=Listed(*[Clip("a", COUNTING, FRAMES, (0,))] * 5))
    batch = next(batches)
    batches.close()
    assert (batch["waveform"][:, 0] != batch["waveform_b"][:, 0]).mean() > 0.9
    assert (batch["image"][:, 0, 0, 1] != batch["image_b"][:, 0, 0, 1]).mean() > 0.7


def test_balanced_sampling_draws_by_weight() -> None:
    batches = augmented(AugmentConfig(balanced=True), 100)
    taken = take(batches, 20)
    batches.close()
    counts = np.bincount([int(name.removeprefix("clip")) for name in ids(taken)], minlength=5)
    expected = 2000 * np.array([0.1, 0.2, 0, 0.4, 0.3])
    assert counts[2] == 0
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected.max() * 0.6)
    assert len({tuple(ids([batch])) for batch in taken}) == 20


def test_balanced_sampling_of_two_million_clips_opens_without_reading_one() -> None:
    class Many(Clips):
        def __len__(self) -> int:
            return 2_000_000

        def __getitem__(self, index: int) -> Clip:
            raise AssertionError(f"clip {index} is read")

    batches = TrainBatches(Many(1), MODEL, DataConfig(), 4, 0, TrainOptions(augment=AugmentConfig(balanced=True), weights=np.ones(2000000)))
    batches.close()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, "weights"),
        (np.ones(4), r"float64\[4\].* 5 "),
        (np.zeros(5), "weights"),
        (np.array([1, 1, 1, 1, -1.0]), "weights"),
        (np.array([1, 1, 1, 1, np.nan]), "weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainBatches(Clips(5), MODEL, DataConfig(), 2, 0, TrainOptions(augment=AugmentConfig(balanced=True), weights=weights))


def test_only_what_is_switched_on_is_in_the_batch() -> None:
    plain = {"id", "waveform", "samples", "image"}
    for augment, more in (
        (AugmentConfig(), set()),
        (AugmentConfig(noise=True), {"augment_seed"}),
        (AugmentConfig(specaug_freq=1), {"augment_seed"}),
        (AugmentConfig(specaug_time=1), {"augment_seed"}),
        (AugmentConfig(label_smoothing=0.1), set()),
    ):
        batches = augmented(augment)
        assert next(batches).keys() == plain | {"targets"} | more
        batches.close()
    assert next(eval_batches(labelled(), MODEL, DataConfig(), 2, EvalOptions(classes=4))).keys() == plain | {"targets"}


def test_evaluation_targets_are_the_labels() -> None:
    (batch,) = eval_batches(labelled(), MODEL, DataConfig(), 9, EvalOptions(classes=4))
    assert [tuple(np.flatnonzero(row)) for row in batch["targets"]] == [*LABELS]
    assert set(batch["targets"].ravel()) == {0, 1}
    with pytest.raises(ValueError, match=r"clip1.*\(1, 3\).*\[0, 3\)"):
        list(eval_batches(labelled(), MODEL, DataConfig(), 9, EvalOptions(classes=3)))


@settings(deadline=None, max_examples=10)
@given(done=st.integers(0, 5), batch_size=st.integers(1, 7))
def test_an_augmented_reader_goes_on_where_another_stopped(done: int, batch_size: int) -> None:
    batches = augmented(ALL_ON, batch_size)
    take(batches, done)
    state = json.loads(json.dumps(batches.state))
    expected = take(batches, 3)
    batches.close()
    resumed = augmented(ALL_ON, batch_size)
    resumed.state = state
    assert_same(take(resumed, 3), expected)
    resumed.close()


@pytest.mark.parametrize("reader", [DataConfig(threads=8, prefetch=9), DataConfig(workers=1), DataConfig(workers=2)])
@pytest.mark.slow
def test_the_number_of_readers_changes_nothing_about_augmentation(reader: DataConfig) -> None:
    flags.FLAGS(["test"])
    runs = []
    for data in (DataConfig(), reader):
        batches = augmented(ALL_ON, 4, data=data)
        runs.append(take(batches, 3))
        batches.close()
    assert_same(*runs)


def test_hosts_share_the_augmented_batch_that_one_host_would_read(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = augmented(ALL_ON, 8)
    whole = take(batches, 2)
    batches.close()
    for host in range(2):
        as_host(monkeypatch, host, 2)
        batches = augmented(ALL_ON, 8)
        assert_same(take(batches, 2), [{name: value[host::2] for name, value in batch.items()} for batch in whole])
        batches.close()


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


def test_pictures_are_cut_and_mirrored_in_training_alone() -> None:
    """A ramp from left to right: its mean tells where it was cut, its slope whether it was mirrored."""
    ramp = np.repeat(np.repeat(np.linspace(0, 255, 64)[None, :, None], 64, axis=0), 3, axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "png")

    class Ramps(Clips):
        def __getitem__(self, index: int) -> Clip:
            return super().__getitem__(index)._replace(frames=(file.getvalue(),))

    def slopes(**options: Any) -> np.ndarray:
        batches = TrainBatches(Ramps(8), MODEL, DataConfig(threads=1), 8, 0, TrainOptions(augment=AugmentConfig(**options)))
        pictures = np.concatenate([next(batches)["image"] for _ in range(4)]).astype(np.float64)
        batches.close()
        assert np.ptp(pictures, axis=1).max() <= 1  # rows stay alike
        return pictures[:, 0, -1, 0] - pictures[:, 0, 0, 0]

    assert set(slopes()) == {slopes()[0]}
    mirrored = slopes(flip=True)
    assert 5 < (mirrored < 0).sum() < 27
    assert set(abs(mirrored)) == set(slopes())
    cut = slopes(crop_area=0.2)
    assert (cut > 0).all()
    assert cut.min() < 0.7 * slopes()[0]
    assert len(set(cut)) > 20
