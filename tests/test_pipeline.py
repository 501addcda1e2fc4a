"""Every epoch shows every clip once, in an order that a resumed run, other readers and other hosts repeat."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from conftest import Clips
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avmae_jax.config import DataConfig, ModelConfig
from avmae_jax.data.clip import NUM_FRAMES, Clip, ClipSource
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.pipeline import EVAL_FRAME, Batch, TrainBatches, decode_image, eval_batches, example

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
        np.testing.assert_array_equal(batch["waveform"][row], Clips(6)[number].waveform[:samples])
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
    assert set(first.values()) | set(second.values()) == set(range(NUM_FRAMES))


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
    assert set(frames(batches).values()) == {EVAL_FRAME}
    assert_same(list(eval_batches(Clips(10), MODEL, DataConfig(threads=1), 4)), batches)


@pytest.mark.parametrize(("limit", "sizes"), [(0, [3]), (2, [2]), (9, [3])])
def test_a_held_out_set_smaller_than_the_batch_is_one_batch(limit: int, sizes: list[int]) -> None:
    assert [len(batch["id"]) for batch in eval_batches(Clips(3), MODEL, DataConfig(), 8, limit=limit)] == sizes


@pytest.mark.parametrize(("limit", "read"), [(6, range(6)), (3, (0, 3, 6)), (1, (0,))])
def test_a_limit_takes_clips_spread_over_the_set(limit: int, read: Sequence[int]) -> None:
    assert ids(list(eval_batches(Clips(10), MODEL, DataConfig(), 4, limit=limit))) == [f"clip{n}" for n in read]


@pytest.mark.parametrize("length", [0, 1, 99, 100, 101, 500])
def test_a_longer_sound_is_cut_and_a_shorter_one_padded(length: int) -> None:
    sound = np.arange(1, length + 1, dtype=np.int16)
    clip = Clip("a", sound, Clips(1)[0].frames, ())
    made = example(clip, 0, samples=100, image_size=32)
    kept = min(length, 100)
    assert made["samples"] == kept
    assert made["waveform"].dtype == np.int16
    np.testing.assert_array_equal(made["waveform"][:kept], sound[:kept])
    assert not made["waveform"][kept:].any()


def encoded(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.getvalue()


def test_a_picture_of_the_right_height_is_only_cropped() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 50, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(picture), 32), picture[:, 9:41])
    np.testing.assert_array_equal(decode_image(encoded(picture.swapaxes(0, 1)), 32), picture.swapaxes(0, 1)[9:41])


@pytest.mark.parametrize(("width", "left"), [(35, 2), (37, 2), (39, 4), (41, 4)])
def test_half_a_pixel_beside_the_crop_goes_to_the_even_side(width: int, left: int) -> None:
    """As torchvision's CenterCrop rounds it."""
    picture = np.random.default_rng(0).integers(0, 256, (32, width, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(picture), 32), picture[:, left : left + 32])


@pytest.mark.parametrize(("width", "resized"), [(35, 17), (33, 16), (39, 19)])
def test_the_long_side_is_rounded_down(width: int, resized: int) -> None:
    """As torchvision's Resize does, also where half a pixel and more is left."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, width, 3)).astype(np.uint8))
    expected = np.asarray(picture.resize((resized, 10), Image.Resampling.BICUBIC))
    left = round((resized - 10) / 2)
    np.testing.assert_array_equal(decode_image(encoded(np.asarray(picture)), 10), expected[:, left : left + 10])


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 120), width=st.integers(1, 120), size=st.integers(1, 64))
def test_any_picture_becomes_a_square_of_its_own_middle(height: int, width: int, size: int) -> None:
    side = min(height, width)
    picture = np.full((height, width, 3), 200, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    picture[top : top + side, left : left + side] = 100
    got = decode_image(encoded(picture), size)
    assert got.shape == (size, size, 3)
    if side >= 16 and size >= 16:  # else smoothing mixes in what lies beside
        assert (got[size // 4 : size - size // 4, size // 4 : size - size // 4] == 100).all()


def test_a_grey_or_transparent_picture_has_three_channels() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(grey), 32), np.repeat(grey[..., None], 3, axis=2))
    assert decode_image(encoded(np.zeros((40, 40, 4), np.uint8)), 32).shape == (32, 32, 3)
