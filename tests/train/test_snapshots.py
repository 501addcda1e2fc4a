import logging
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avmae_jax.checkpoint.manager import newest_meta, restore_params
from avmae_jax.errors import CheckpointError
from avmae_jax.train.snapshots import AVERAGED, BEST, Snapshots, set_aside


def params(value: float) -> dict[str, jax.Array]:
    return {"head.linear.bias": jnp.full(3, value, jnp.float32)}


def opened(folder: Path, first: int = 2, last: int = 4) -> Snapshots:
    return Snapshots(folder, lambda: {"label_names": ["a"]}, first, last)


def save_epoch_2(folder: Path) -> None:
    snapshots = opened(folder)
    snapshots.epoch_ended(2, params(2.0))
    snapshots.save_mean(20)


def kept(folder: Path, name: str) -> tuple[int, float]:
    restored = restore_params(folder / name)
    return restored.step, float(restored.params["head.linear.bias"][0])


def test_the_best_weights_stay_through_a_restart(tmp_path: Path) -> None:
    snapshots = opened(tmp_path)
    for step, measured in ((10, 0.3), (20, 0.7), (30, 0.5)):
        snapshots.measured(step, params(step), measured)
    assert kept(tmp_path, BEST) == (20, 20.0)
    assert newest_meta(tmp_path / BEST) == {"label_names": ["a"], "measured": 0.7}
    resumed = opened(tmp_path)
    resumed.measured(40, params(40), 0.6)
    assert kept(tmp_path, BEST) == (20, 20.0)
    resumed.measured(50, params(50), 0.8)
    assert kept(tmp_path, BEST) == (50, 50.0)
    assert [path.name for path in (tmp_path / BEST).iterdir()] == ["50"]


def test_the_mean_is_that_of_its_epochs_both_ends_included(tmp_path: Path) -> None:
    snapshots, values = opened(tmp_path), (1.0, 4.0, -3.0, 11.5, 70.0)
    for epoch, value in enumerate(values, start=1):
        snapshots.epoch_ended(epoch, params(value))
        snapshots.save_mean(10 * epoch)
    step, mean = kept(tmp_path, AVERAGED)
    assert step == 40
    assert mean == pytest.approx(np.mean(values[1:4]), rel=1e-6)
    assert newest_meta(tmp_path / AVERAGED) == {"label_names": ["a"], "epochs": [2, 3, 4]}


def test_a_run_that_passes_epochs_again_does_not_count_them_twice(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.epoch_ended(2, params(2.0))
    first.epoch_ended(3, params(4.0))
    assert not (tmp_path / AVERAGED).exists()
    first.save_mean(30)
    again = opened(tmp_path)
    again.epoch_ended(2, params(2.0))
    again.epoch_ended(3, params(4.0))
    again.epoch_ended(4, params(9.0))
    again.save_mean(40)
    assert kept(tmp_path, AVERAGED) == (40, pytest.approx(5.0))


def test_an_epoch_that_is_missing_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="absl"):
        opened(tmp_path).epoch_ended(3, params(4.0))
    assert re.search(r"averaged .*\[\].*\[2\]", caplog.text)


def test_a_damaged_mean_stops_the_run(tmp_path: Path) -> None:
    save_epoch_2(tmp_path)
    for path in (tmp_path / AVERAGED / "20" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"averaged.*damaged"):
        opened(tmp_path).epoch_ended(3, params(2.0))


def test_no_mean_unless_asked_for(tmp_path: Path) -> None:
    snapshots = opened(tmp_path, 0, 0)
    snapshots.epoch_ended(1, params(1.0))
    snapshots.save_mean(10)
    assert not (tmp_path / AVERAGED).exists()


def test_a_resumed_run_that_goes_another_way_can_still_become_better(tmp_path: Path) -> None:
    snapshots = opened(tmp_path)
    snapshots.measured(60, params(60), 0.5)
    resumed = opened(tmp_path)  # from step 40, on other devices
    resumed.measured(50, params(50), 0.9)
    assert kept(tmp_path, BEST) == (50, 50.0)
    resumed.measured(60, params(61), 0.8)
    assert kept(tmp_path, BEST) == (50, 50.0)


def test_a_mean_whose_note_is_damaged_stops_the_run(tmp_path: Path) -> None:
    save_epoch_2(tmp_path)
    for path in (tmp_path / AVERAGED / "20" / "meta").rglob("*"):
        if path.is_file():
            path.write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"averaged.*damaged"):
        opened(tmp_path).epoch_ended(3, params(2.0))


def test_what_belongs_to_no_checkpoint_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened(tmp_path).measured(10, params(1.0), 0.9)
    with caplog.at_level(logging.WARNING, logger="absl"):
        set_aside(tmp_path)
    assert kept(tmp_path, f"{BEST}.before-1") == (10, 1.0)
    assert f"{BEST}.before-1" in caplog.text
    opened(tmp_path).measured(10, params(2.0), 0.1)
    set_aside(tmp_path)
    assert kept(tmp_path, f"{BEST}.before-2") == (10, 2.0)
