"""The writer of data sets: deterministic, resumable, and nothing is lost."""

import dataclasses
import errno
import functools
import hashlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Failure, Job
from avmae_jax.data.store.plan import DatasetSpec, Summary, is_complete
from avmae_jax.data.store.reader import PreparedSource
from avmae_jax.data.store.workers import run_ordered
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import ClipError, DatasetError, LockedError, WriteError
from tests.support import ROOT, time_limit

ERRORS = {
    "MemoryError": MemoryError(),
    "OverflowError": OverflowError("int too large to convert to float"),
    "error": zlib.error("Error -3 while decompressing data"),
    "RecursionError": RecursionError("maximum recursion depth exceeded"),
    "PermissionError": PermissionError(errno.EACCES, "Permission denied", "/x"),
    "UnicodeEncodeError": UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    "ENOSPC": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
}


def make(job: Job, *, seconds: float = 0.0, samples: int = 400) -> Iterator[Clip]:
    """A clip that follows from the job, or three of a long one; bad and worse ones can't become any, a deadly one kills its process."""
    time.sleep(seconds)
    if "bad" in job.id:
        raise ClipError(job.id, "audio", "has no audio")
    if "deadly" in job.id:
        os.kill(os.getpid(), signal.SIGKILL)
    if "raises" in job.id:
        raise ERRORS[job.id.split()[1]]
    rng = np.random.default_rng(job.args[0])
    waveform = rng.integers(-32768, 32768, samples + job.args[0]).astype(np.int16)
    for number in range(3 if "long" in job.id else 1):
        if number and "worse" in job.id:
            raise ClipError(job.id, "video", "is damaged in its middle")
        name = f"{job.id}@{number}" if "long" in job.id else job.id
        yield Clip(name, waveform, tuple(rng.bytes(50) for _ in range(10)), (job.args[0] % 3,) * (job.args[0] % 2), job.id, float(number))


def jobs(train: int = 7, test: int = 2, **renamed: str) -> dict[str, list[Job]]:
    """Jobs t0, t1, ... and e0, e1, ...; `t3="bad3"` renames one."""
    named = {"train": [f"t{i}" for i in range(train)], "test": [f"e{i}" for i in range(test)]}
    return {split: [Job(renamed.get(name, name), (i,)) for i, name in enumerate(names)] for split, names in named.items()}


SPEC = DatasetSpec("clips", {}, make, ["a", "b", "c"], {"seconds": 10.0}, shard_size=3)


def write(out: Path, todo: dict[str, list[Job]], *, workers: int = 0, **options: Any) -> Summary:
    fields = {name: options.pop(name) for name in list(options) if hasattr(SPEC, name)}
    return write_dataset(out, dataclasses.replace(SPEC, jobs=todo, **fields), workers=workers, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tfds_reads_back_what_was_made(tmp_path: Path) -> None:
    summary = write(tmp_path / "out", jobs())
    assert summary == Summary({"train": 7, "test": 2}, {"train": 7, "test": 2}, [])
    builder = tfds.builder_from_directory(tmp_path / "out")
    assert builder.info.splits["train"].shard_lengths == [3, 3, 1]
    assert builder.info.metadata is not None
    assert builder.info.metadata["label_names"] == ["a", "b", "c"]
    for name, digest in builder.info.metadata["sha256"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    for workers in (0, 1, 2):
        write(tmp_path / str(workers), jobs(t3="bad"), workers=workers)
    assert content(tmp_path / "0") == content(tmp_path / "1") == content(tmp_path / "2")


def test_failures_are_counted_and_named_and_nothing_else_is_missing(tmp_path: Path) -> None:
    steps: list[tuple[int, int, int]] = []
    summary = write(tmp_path / "out", jobs(t0="bad0", t6="bad6", e1="bad1"), on_progress=lambda *step: steps.append(step))
    reason = ("audio", "has no audio")
    assert summary == Summary(
        {"train": 5, "test": 1}, {"train": 5, "test": 1}, [Failure("bad0", *reason), Failure("bad6", *reason), Failure("bad1", *reason)]
    )
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["in"] == 9 == sum(stored["written"].values()) + stored["failed"]
    lines = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"file": "bad0", "stage": "audio", "reason": "has no audio"}
    assert steps == [(done, min(done, 1) + (done >= 7) + (done >= 9), 9) for done in range(10)]


def test_a_long_file_gives_all_of_its_clips_or_none(tmp_path: Path) -> None:
    summary = write(tmp_path / "out", jobs(t1="long1", t2="long worse2", e0="long3"))
    assert summary.written == {"train": 6, "test": 2}
    assert summary.clips == {"train": 8, "test": 4}
    assert [failure.file for failure in summary.failures] == ["long worse2"]
    source = PreparedSource(tmp_path / "out", "train")
    assert [source[i].id for i in range(4)] == ["t0", "long1@0", "long1@1", "long1@2"]
    assert source[3].start == 2.0
    assert source[3].video == "long1"
    assert not (tmp_path / "out" / "progress").exists()


def test_what_is_known_to_be_missing_is_counted_with_the_failures(tmp_path: Path) -> None:
    lost = Failure("x", "missing", "no file of the folder has this id")
    summary = write(tmp_path / "out", jobs(t0="bad0"), missing=[lost])
    assert summary.failures[-1] == lost
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["in"] == 10 == sum(stored["written"].values()) + stored["failed"]


def test_a_split_in_which_everything_fails_is_written_empty(tmp_path: Path) -> None:
    assert write(tmp_path / "out", jobs(e0="bad0", e1="bad1")).written == {"train": 7, "test": 0}


@pytest.mark.slow
def test_a_job_that_kills_its_process_is_a_failure_of_its_own(tmp_path: Path) -> None:
    summary = write(tmp_path / "out", jobs(train=3, test=1, t2="deadly"), workers=1)
    assert summary.written == {"train": 2, "test": 1}
    assert [(failure.file, failure.stage) for failure in summary.failures] == [("deadly", "crash")]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_one_file_raises_is_a_failure_of_that_file(tmp_path: Path, workers: int) -> None:
    errors = (MemoryError, OverflowError, zlib.error, RecursionError, PermissionError, UnicodeEncodeError)
    renamed = {f"t{number}": f"raises {kind.__name__}" for number, kind in enumerate(errors)}
    summary = write(tmp_path / "out", jobs(7, 2, **renamed), workers=workers)
    assert summary.written == {"train": 1, "test": 2}
    assert [(failure.file, failure.stage) for failure in summary.failures] == [(f"raises {kind.__name__}", "error") for kind in errors]
    assert all(kind.__name__ in failure.reason for kind, failure in zip(errors, summary.failures, strict=True))


def test_a_full_disk_is_no_failure_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="No space left on device"):
        write(tmp_path / "out", jobs(t2="raises ENOSPC"))
    assert write(tmp_path / "out2", jobs()).failures == []


@pytest.mark.process
def test_workers_that_can_not_start_are_no_failures_of_clips(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from tests.data.store.test_writer import jobs, write\nfrom pathlib import Path\n"
        f"write(Path({str(tmp_path / 'out')!r}), jobs(), workers=1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=time_limit(60), check=False
    )
    assert run.returncode == 1
    assert "workers=0" in run.stderr.splitlines()[-1]
    assert not is_complete(tmp_path / "out")


def interrupted(out: Path, after: int) -> None:
    """Kills a run that has finished `after` shards; its workers end with it."""
    script = (
        "import functools; from pathlib import Path; from tests.data.store.test_writer import jobs, make, write\n"
        f"write(Path({str(out)!r}), jobs(t1='bad'), workers=2, make=functools.partial(make, seconds=0.05))\n"
    )
    guarded = "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in script.splitlines())
    program = out.parent / "program.py"
    program.write_text(guarded)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(program)], env=environment, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while len(list(out.glob("*.array_record-*"))) < after and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.read()  # ends when the last process that holds the pipe has ended: no worker outlives its parent


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.process
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, after: int) -> None:
    interrupted(tmp_path / "killed", after)
    finished = list((tmp_path / "killed").glob("*.array_record-*"))
    assert len(finished) >= after
    assert not is_complete(tmp_path / "killed")
    times = {path: path.stat().st_mtime_ns for path in finished}
    assert write(tmp_path / "killed", jobs(t1="bad")) == write(tmp_path / "whole", jobs(t1="bad"))
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in finished} == times


def test_a_finished_data_set_is_left_as_it_is(tmp_path: Path) -> None:
    first = write(tmp_path / "out", jobs(t1="bad"))
    before = content(tmp_path / "out")
    assert write(tmp_path / "out", jobs(t1="bad"), make=len) == first
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": {"seconds": 5.0}}, r"seconds = 10\.0.*seconds = 5\.0"),
        ({"shard_size": 2}, "shard_size = 3.*shard_size = 2"),
        ({"label_names": ["a"]}, "label_names"),
        ({"todo": jobs(train=6)}, "train clips = 7.*train clips = 6"),
    ],
)
def test_another_job_does_not_go_on_in_the_folder(tmp_path: Path, finished: bool, change: dict[str, object], named: str) -> None:
    if finished:
        write(tmp_path / "out", jobs())
    else:
        with pytest.raises(ZeroDivisionError):
            write(tmp_path / "out", jobs(), on_progress=lambda done, failed, total: 1 // (4 - done))
    with pytest.raises(DatasetError, match=rf"{re.escape(str(tmp_path / 'out'))}.*{named}"):
        write(tmp_path / "out", **{"todo": jobs(), **change})  # pyright: ignore[reportArgumentType]


def test_a_folder_of_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(DatasetError, match=r"thesis\.txt"):
        write(tmp_path, jobs())
    assert content(tmp_path) == {"thesis.txt": b"important"}


def test_the_folder_of_a_training_is_refused_untouched(tmp_path: Path) -> None:
    names = (".lock", "config.json", "metrics.jsonl", "summary.json")
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(DatasetError, match=r"config\.json.*empty folder"):
        write(tmp_path, jobs())
    assert content(tmp_path) == dict.fromkeys(names, b"{}")


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/out"):
        write(tmp_path / "file" / "out", jobs())


@pytest.mark.parametrize("limit", [100, 3000, 20_000])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_later(tmp_path: Path, limit: int, workers: int) -> None:
    """Files can't grow beyond `limit` bytes: the plan doesn't fit, or a clip in the spool, or a shard."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(WriteError, match=re.escape(str(tmp_path / "out"))) as caught:
            write(tmp_path / "out", jobs(), workers=workers, make=functools.partial(make, samples=3000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Path(caught.value.filename).is_relative_to(tmp_path / "out")
    summary = write(tmp_path / "out", jobs(), make=functools.partial(make, samples=3000))
    assert summary.written == {"train": 7, "test": 2}
    assert not list((tmp_path / "out").glob("**/*.tmp"))


def test_no_clips_and_doubled_ids_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="out"):
        write(tmp_path / "out", {"train": [], "test": []})
    with pytest.raises(DatasetError, match="'t1'"):
        write(tmp_path / "out", jobs(e0="t1"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def other_writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path/out until its standard input closes."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom avmae_jax.files import locked\n"
        f"with locked(Path({str(tmp_path / 'out')!r})):\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process


@pytest.mark.process
def test_a_second_writer_is_kept_out_until_the_first_is_dead(tmp_path: Path, other_writer: subprocess.Popen[str]) -> None:
    with pytest.raises(LockedError, match=f"out .* {other_writer.pid} on {socket.gethostname()}"):
        write(tmp_path / "out", jobs())
    other_writer.kill()
    other_writer.wait()
    assert write(tmp_path / "out", jobs()).written == {"train": 7, "test": 2}


def blocks_ctrl_c(_: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.process
def test_ctrl_c_is_blocked_in_workers_from_their_first_moment_on() -> None:
    assert list(run_ordered([0], blocks_ctrl_c, workers=1, on_death=blocks_ctrl_c)) == [True]
    assert not blocks_ctrl_c(0)
