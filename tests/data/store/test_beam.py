"""Apache Beam writes what a local run writes. Needs the extra `beam`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from avmae_jax.data.catalog.recipe import Recipe
from avmae_jax.data.catalog.tfds_builders import AvFolder
from avmae_jax.data.clip import Clip
from avmae_jax.data.store.beam import beam_engine
from avmae_jax.data.store.job import Failure, Job
from avmae_jax.data.store.plan import is_complete
from avmae_jax.errors import DatasetError
from tests.data.store.test_writer import content, jobs, make, write
from tests.media import write_clip
from tests.support import ROOT, Program

pytest.importorskip("apache_beam", reason="the extra `beam` isn't installed: pip install -e '.[beam]'")


RUNNER = "FnApiRunner"  # of this machine, as is DirectRunner, which may download a program for it


def fails_at_t6(job: Job) -> Iterator[Clip]:
    if job.id == "t6":
        raise ZeroDivisionError(job.id)
    return make(job)


@pytest.fixture(params=[[], ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]], ids=["here", "processes"])
def options(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In this process, or in two of Beam's."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return request.param


def test_beam_writes_the_bytes_of_a_local_run(tmp_path: Path, options: list[str]) -> None:
    todo = jobs(t1="long1", t2="bad2", t4="deadly4", t5="long worse5", e1="bad1")
    missing = [Failure("x", "missing", "no file of the folder has this id")]
    steps: list[tuple[int, int, int]] = []
    local = write(tmp_path / "local", todo, workers=1, missing=missing)
    engine = beam_engine(RUNNER, options)
    summary = write(tmp_path / "beam", todo, engine=engine, missing=missing, on_progress=lambda *step: steps.append(step))
    assert summary == local
    assert [failure.stage for failure in summary.failures] == ["audio", "crash", "video", "audio", "missing"]
    assert content(tmp_path / "beam") == content(tmp_path / "local")
    assert steps == [(0, 0, 9), (9, 4, 9)]


@pytest.mark.parametrize("beam_first", [True, False])
def test_a_run_begun_with_beam_goes_on_without_it_and_the_other_way_round(tmp_path: Path, beam_first: bool) -> None:
    engines = (beam_engine(RUNNER), None) if beam_first else (None, beam_engine(RUNNER))
    with pytest.raises(Exception, match="t6"):
        write(tmp_path / "out", jobs(), make=fails_at_t6, engine=engines[0])
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.array_record-*")}
    assert there
    assert not is_complete(tmp_path / "out")
    assert write(tmp_path / "out", jobs(), engine=engines[1]) == write(tmp_path / "whole", jobs())
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in there} == there


def test_what_can_not_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="Turtle"):
        beam_engine("Turtle")
    monkeypatch.setattr("avmae_jax.data.store.beam._write_listed", lambda file, make: None)  # as on a machine that writes elsewhere
    with pytest.raises(DatasetError, match=r"2 .*shards"):
        write(tmp_path / "out", jobs(train=7, test=0), engine=beam_engine(RUNNER))


def test_launch_prepare_and_the_builder_take_a_runner(tmp_path: Path, program: Program) -> None:
    for number in range(5):
        write_clip(tmp_path / f"videos/harp/{number}.mp4", 1.0, first=10 * number)
    (tmp_path / "videos/harp/bad.mp4").touch()
    (tmp_path / "videos/harp" / os.fsdecode(b"caf\xe9.mp4")).write_bytes((tmp_path / "videos/harp/1.mp4").read_bytes())
    command = ["-m", "launch.prepare", f"--videos={tmp_path / 'videos'}", "--clip_seconds=1", "--shard_size=2", "--workers=1"]
    local = program(*command, f"--out={tmp_path / 'local'}")
    options = ["--beam_runner=DirectRunner", "--beam_options=direct_num_workers=2,direct_running_mode=multi_processing"]
    run = program(*command, f"--out={tmp_path / 'beam'}", *options)
    assert run.returncode == 0, run.stderr
    assert local.returncode == 0, local.stderr
    assert content(tmp_path / "beam") == content(tmp_path / "local")
    assert json.loads((tmp_path / "beam/summary.json").read_text())["failed"] == 1
    builder = AvFolder(root=tmp_path / "videos", data_dir=tmp_path, recipe=Recipe(clip_seconds=1.0), shard_size=2)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(beam_runner=RUNNER))
    assert content(Path(builder.data_dir)) == content(tmp_path / "local")


def test_options_without_a_runner_are_refused(tmp_path: Path, program: Program) -> None:
    run = program("-m", "launch.prepare", f"--videos={tmp_path}", f"--out={tmp_path}-out", "--beam_options=direct_num_workers=2")
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 1)
    assert "--beam_options" in run.stderr
    assert "--beam_runner" in run.stderr
