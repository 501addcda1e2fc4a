"""Tests augmented training batches: partners, shares and targets, the same for every number of readers and hosts."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avmae_jax.config import AugmentConfig, DataConfig
from avmae_jax.data.augment import soft_targets
from avmae_jax.data.batches import EvalOptions, TrainBatches, TrainOptions, eval_batches
from avmae_jax.data.clip import Clip, ClipSource
from tests.data.reading import COUNTING, FRAMES, LABELS, MODEL, SAMPLES, Listed, assert_same, ids, labelled, take
from tests.support import Clips

ALL_ON = AugmentConfig(specaug_freq=4, specaug_time=9, noise=True, mixup=0.5, mixup_alpha=2.0, label_smoothing=0.1, balanced=True)


def augmented(
    augment: AugmentConfig,
    batch_size: int = 8,
    *,
    source: ClipSource | None = None,
    data: DataConfig | None = None,
    rows: Sequence[int] | None = None,
) -> TrainBatches:
    weights = np.array([1.0, 2, 0, 4, 3])
    source, data = source or labelled(), data or DataConfig(prefetch=1)
    return TrainBatches(source, MODEL, data, batch_size, 0, TrainOptions(augment=augment, classes=4, weights=weights), rows)


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


def test_processes_read_their_rows_of_the_augmented_batch_that_one_would_read() -> None:
    batches = augmented(ALL_ON, 8)
    whole = take(batches, 2)
    batches.close()
    for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [1, 6]):
        batches = augmented(ALL_ON, 8, rows=rows)
        assert_same(take(batches, 2), [{name: value[rows] for name, value in batch.items()} for batch in whole])
        batches.close()


def test_pictures_are_cut_and_mirrored_in_training_alone() -> None:
    """Makes a ramp from left to right: the mean of a piece tells where it was cut, and its slope whether it was mirrored."""
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
