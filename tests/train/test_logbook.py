"""A run's numbers survive kills, and each step stands there once."""

import json
import logging
import math
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from avmae_jax.errors import WriteError
from avmae_jax.train import hosts
from avmae_jax.train.event_files import Event  # pyright: ignore[reportAttributeAccessIssue] - generated
from avmae_jax.train.logbook import METRICS_FILE, Logbook
from tests.support import ROOT, time_limit


def events(folder: Path) -> Iterator[Any]:
    """Reads TensorBoard's files; a record is length, checksum, event, checksum."""
    for file in sorted((folder / "tensorboard").iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack_from("<Q", content)
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


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
    """Reads (tag, step, value) of every scalar in TensorBoard's files."""
    return [(value.tag, event.step, value.simple_value) for event in events(folder) for value in event.summary.value]


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
    assert steps(tmp_path) == [(1, "train"), (2, "train"), (2, "eval"), (3, "gap")]
    assert file.read_text().endswith("}\n")


def test_a_whole_file_is_taken_over_silently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_steps(tmp_path, 1, 3)
    before = (tmp_path / METRICS_FILE).read_bytes()
    Logbook(tmp_path, 3).close()
    assert (tmp_path / METRICS_FILE).read_bytes() == before
    assert not caplog.records


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


@pytest.mark.parametrize(
    "damage", [b"\0\0\0", b"[" * 100_000, b"{}", b'{"step": 1e400, "split": "eval"}', b'{"step": -1, "split": "eval"}', b"\xff\xfe", b"7"]
)
def test_a_line_that_is_no_row_is_dropped_and_the_file_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes) -> None:
    write_steps(tmp_path, 1, 3)
    file = tmp_path / METRICS_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    content = b"".join([*lines[:2], damage + b"\n", *lines[3:]])
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="absl"):
        Logbook(tmp_path, 3).close()
    assert "(line 3)" in caplog.text
    assert (tmp_path / "metrics.before-1.jsonl").read_bytes() == content
    assert steps(tmp_path) == [(1, "train"), (2, "train"), (3, "train")]


def test_steps_without_a_line_are_marked_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_steps(tmp_path, 1, 9)
    file = tmp_path / METRICS_FILE
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] not in (1, 4, 5, 9)))
    written = {"lines": len(rows), "sha256": "of the whole file"}
    with caplog.at_level(logging.WARNING, logger="absl"):
        Logbook(tmp_path, 9, written).close()
    marks = [row for line in file.read_text().splitlines() if (row := json.loads(line))["split"] == "gap"]
    assert [(row["first"], row["last"]) for row in marks] == [(1, 1), (4, 5), (9, 9)]
    assert "steps 4 to 5" in caplog.text
    content = file.read_bytes()
    logbook = Logbook(tmp_path, 9)
    logbook.close()
    Logbook(tmp_path, 9, logbook.fingerprint).close()
    assert file.read_bytes() == content


def test_a_file_that_is_gone_is_one_gap(tmp_path: Path) -> None:
    Logbook(tmp_path, 5).close()
    assert [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()] == [
        {"step": 5, "split": "gap", "first": 1, "last": 5}
    ]


def test_numbers_that_were_edited_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logbook = Logbook(tmp_path, 0)
    logbook.write(1, "train", {"loss": 0.5})
    written = logbook.fingerprint
    logbook.write(2, "train", {"loss": 0.4})  # after the checkpoint
    logbook.close()
    file = tmp_path / METRICS_FILE
    Logbook(tmp_path, 1, written).close()
    assert steps(tmp_path) == [(1, "train")]
    file.write_text(file.read_text().replace("0.5", "0.1"))
    with caplog.at_level(logging.WARNING, logger="absl"):
        Logbook(tmp_path, 1, written).close()
    assert METRICS_FILE in caplog.text
    assert steps(tmp_path) == [(1, "train"), (1, "edited")]


def test_lines_behind_the_checkpoint_are_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_steps(tmp_path, 1, 6)
    with caplog.at_level(logging.WARNING, logger="absl"):
        write_steps(tmp_path, 5, 6, resumed_at=4)
    assert "3 lines of steps 5 to 6" in caplog.text


@pytest.mark.parametrize("step", [0, 3])
def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path, step: int) -> None:
    (tmp_path / METRICS_FILE).mkdir()
    with pytest.raises(WriteError, match=METRICS_FILE):
        Logbook(tmp_path, step)


def test_the_seconds_of_earlier_sessions_count(tmp_path: Path) -> None:
    logbook = Logbook(tmp_path, 0)
    logbook.write(1, "train", {"seconds": 100.0})
    logbook.write(2, "train", {"seconds": 200.0})
    logbook.close()
    resumed = Logbook(tmp_path, 1)
    assert 100 <= resumed.seconds < 110
    resumed.close()


def test_a_picture_is_on_the_board(tmp_path: Path) -> None:
    logbook, path = Logbook(tmp_path, 0), tmp_path / "pictures/some.png"
    path.parent.mkdir()
    Image.new("RGB", (30, 20), "red").save(path)
    logbook.picture(3, path)
    logbook.close()
    (event,) = [event for event in events(tmp_path) if event.summary.value]
    (value,) = event.summary.value
    assert (event.step, value.tag, value.image.width, value.image.height) == (3, "pictures", 30, 20)
    assert value.image.encoded_image_string == path.read_bytes()


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_steps(tmp_path, 1, 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(hosts.distributed.global_state, "process_id", 1)
    write_steps(tmp_path, 2, 3, resumed_at=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.process
def test_the_writer_leaves_pytorch_alone() -> None:
    """PyTorch is replaced by a module that says when it is imported."""
    code = (
        "import sys, types\n"
        "class Finder:\n"
        "  def find_spec(self, name, path=None, target=None):\n"
        "    if name == 'torch': print('torch is imported')\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from avmae_jax.train import event_files\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=time_limit(60), check=True)
    assert done.stdout == "False\n"
