"""Runs launch.inspect_data and launch.data_statistics on a data set with a bit of everything."""

import importlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avmae_jax.data.augment import balanced_weights
from avmae_jax.data.clip import Clip
from avmae_jax.data.fbank import log_mel
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import ClipError
from avmae_jax.plots.canvas import DENSITY, WIDTH
from tests.support import cells, completed

NAMES = ["harp", "oboe [bold]", "horn"]


def clip(number: int, *, silent: bool = False, blind: bool = False) -> Clip:
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(buffer, "JPEG")
    waveform = np.zeros(0, np.int16) if silent else (rng.standard_normal(4000 + 100 * number) * 1000).astype(np.int16)
    return Clip(f"v{number}", waveform, () if blind else (buffer.getvalue(),) * 10, (number % 2,), f"v{number}")


def make(job: Job) -> Iterator[Clip]:
    if "bad" in job.id:
        raise ClipError(job.id, "open", "is empty (0 bytes)")
    yield clip(job.args[0], silent="silent" in job.id, blind="blind" in job.id)


def prepare(out: Path, names: list[str]) -> Path:
    jobs = {"train": [Job(name, (number,)) for number, name in enumerate(names)], "test": [Job("t", (99,))]}
    write_dataset(out, DatasetSpec("clips", jobs, make, NAMES, shard_size=3))
    return out


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return completed(importlib.import_module(f"launch.{program}"), *arguments)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("mixed") / "out", ["a", "silent b", "blind c", "bad d", "e", "f"])


def test_inspect_tells_what_there_is_and_draws_it(mixed: Path, tmp_path: Path) -> None:
    done = run("inspect_data", str(mixed), "--verify", f"--out={tmp_path / 'sheet.png'}")
    assert done.returncode == 0, done.stderr
    lines = cells(done.stdout)
    assert re.search(rf"{re.escape(str(mixed))}: 7 .*6 .*1 ", done.stdout)
    assert ["train", "5", "5", "1", "1"] in [line[:5] for line in lines]
    assert ["harp", "3", "0", "#" * 30] in lines
    assert ["oboe [bold]", "2", "1", "#" * 30] in lines
    assert ["horn", "0", "0", ""] in lines
    assert ["open", "1", "bad d is empty (0 bytes)"] in lines
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == WIDTH * DENSITY


def test_inspect_finds_a_shard_that_is_not_what_was_written(mixed: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(mixed, tmp_path / "out"))
    shard = next(out.glob("*train*-00001-of-*"))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    done = run("inspect_data", str(out), "--verify", "--clips=0")
    assert done.returncode == 1
    assert str(shard) in done.stdout.replace("\n", "")


@pytest.mark.parametrize("program", ["inspect_data", "data_statistics"])
def test_what_is_no_data_set_is_named(program: str, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        done = run(program, str(folder))
        assert done.returncode == 1
        assert re.fullmatch(rf"{folder}\b.*launch\.prepare\n", done.stderr)


def test_statistics_are_stored_with_the_data_set(mixed: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(mixed, tmp_path / "out"))
    done = run("data_statistics", str(out))
    assert done.returncode == 0, done.stderr
    values = np.concatenate([log_mel(clip(number).waveform.astype(np.float32) / 32768).ravel() for number in (0, 2, 4, 5)])
    found = json.loads((out / "statistics.json").read_text())
    assert found["audio_mean"] == pytest.approx(values.mean(), abs=1e-4)
    assert found["audio_std"] == pytest.approx(values.std(), abs=1e-4)
    assert found["clips"] == 4
    assert f"--config.data.audio_mean={found['audio_mean']} --config.data.audio_std={found['audio_std']}" in done.stdout
    weights = balanced_weights([[0], [1], [0], [0], [1]], 2)
    np.testing.assert_array_equal(PreparedSource(out, "train", "any").weights, weights)
    np.testing.assert_array_equal(PreparedSource(out, "train").weights, weights[[0, 3, 4]])


def test_a_data_set_without_labels_and_a_folder_of_media_are_inspected_or_refused_in_one_line(tmp_path: Path) -> None:
    def make_bare(job: Job) -> Iterator[Clip]:
        yield clip(job.args[0])._replace(labels=())

    write_dataset(tmp_path / "out", DatasetSpec("clips", {"train": [Job("a", (1,)), Job("b", (2,))]}, make_bare))
    shown = run("inspect_data", str(tmp_path / "out"))
    assert shown.returncode == 0, shown.stderr
    assert "2 written + 0 failed" in shown.stdout
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.mp4").touch()
    for other in ("media", "media/a.mp4", "nowhere"):
        refused = run("inspect_data", str(tmp_path / other))
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1


def test_images_that_are_none_and_hostile_names_are_inspected_in_one_line(tmp_path: Path) -> None:
    def make_odd(job: Job) -> Iterator[Clip]:
        yield clip(job.args[0])._replace(frames=(b"\xff\xd8no image",) * 10)

    names = ["\x1b[31mred", "\u202eoboe"]
    write_dataset(tmp_path / "out", DatasetSpec("clips", {"train": [Job("a", (1,))]}, make_odd, names))
    shown = run("inspect_data", str(tmp_path / "out"))
    assert shown.returncode == 0, shown.stderr
    assert "\\x1b[31mred" in shown.stdout
    assert not {"\x1b", "\u202e"} & {*shown.stdout}
    (tmp_path / "out/statistics.json").write_text("[" * 100_000)
    refused = run("inspect_data", str(tmp_path / "out"))
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
