"""A run's numbers survive kills, and each step stands there once."""

import json
import logging
import math
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] - generated

from avmae_jax.train.logbook import METRICS_FILE, Logbook


def write_steps(folder: Path, first: int, last: int, *, resumed_at: int = 0) -> None:
    logbook = Logbook(folder, resumed_at)
    for step in range(first, last + 1):
        logbook.write(step, "train", {"loss": 1 / (step + resumed_at)})
        if step % 2 == 0:
            logbook.write(step, "eval", {"loss": 2.0, "nce": 0.5})
    logbook.close()


def steps(folder: Path) -> list[tuple[int, str]]:
    rows = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    return [(row["step"], row["split"]) for row in rows]


def board(folder: Path) -> list[tuple[str, int, float]]:
    """(tag, step, value) of every scalar in TensorBoard's files; a record is length, checksum, event, checksum."""
    found = []
    for file in sorted((folder / "tensorboard").iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack_from("<Q", content)
            event = Event.FromString(content[12 : 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            content = content[16 + length :]
    return found


def test_each_number_is_in_the_file_and_on_the_board(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2)
    lines = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "split": "train", "loss": 1.0},
        {"step": 2, "split": "train", "loss": 0.5},
        {"step": 2, "split": "eval", "loss": 2.0, "nce": 0.5},
    ]
    assert board(tmp_path) == [("train/loss", 1, 1.0), ("train/loss", 2, 0.5), ("eval/loss", 2, 2.0), ("eval/nce", 2, 0.5)]


def test_a_resumed_run_writes_its_steps_again_and_keeps_the_earlier_ones(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 5)
    before = (tmp_path / METRICS_FILE).read_text().splitlines()
    write_steps(tmp_path, 4, 6, resumed_at=3)
    expected = [(step, split) for step in range(1, 7) for split in ("train", "eval")[: 2 - step % 2]]
    assert steps(tmp_path) == expected
    assert (tmp_path / METRICS_FILE).read_text().splitlines()[:4] == before[:4]


def test_a_run_that_starts_from_nothing_drops_what_a_run_without_checkpoints_left(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    Logbook(tmp_path, 0).close()
    assert steps(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 10])
def test_a_line_that_a_kill_cut_short_is_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int) -> None:
    write_steps(tmp_path, 1, 3)
    file = tmp_path / METRICS_FILE
    file.write_text(file.read_text()[:-cut])
    with caplog.at_level(logging.WARNING, logger="absl"):
        Logbook(tmp_path, 3).close()
    assert METRICS_FILE in caplog.text
    assert steps(tmp_path) == [(1, "train"), (2, "train"), (2, "eval")]
    assert file.read_text().endswith("}\n")


def test_a_whole_file_is_taken_over_silently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_steps(tmp_path, 1, 3)
    before = (tmp_path / METRICS_FILE).read_bytes()
    Logbook(tmp_path, 3).close()
    assert (tmp_path / METRICS_FILE).read_bytes() == before
    assert not caplog.records


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    file = tmp_path / METRICS_FILE
    content = file.read_text().replace('{"step": 2, "split": "eval"', '\0\0\0"step": 2, "split": "eval"')
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"{METRICS_FILE}: line 3"):
        Logbook(tmp_path, 3)
    assert file.read_text() == content


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    logbook = Logbook(tmp_path, 0)
    logbook.write(1, "train", {"loss": 0.5})
    logbook.flush()
    assert steps(tmp_path) == [(1, "train")]
    assert board(tmp_path) == [("train/loss", 1, 0.5)]
    logbook.close()


def test_numbers_come_back_to_the_last_bit_even_if_not_finite(tmp_path: Path) -> None:
    values = {"third": 1 / 3, "tiny": 5e-324, "nan": math.nan, "infinite": -math.inf}
    logbook = Logbook(tmp_path, 0)
    logbook.write(1, "train", values)
    logbook.close()
    row = json.loads((tmp_path / METRICS_FILE).read_text())
    assert {name: str(row[name]) for name in values} == {name: str(value) for name, value in values.items()}
