"""Files are written whole or not at all, what can't be written is one clear error, and a folder has one writer."""

import errno
import os
import pickle
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from avmae_jax.errors import AvmaeError, LockedError, WriteError
from avmae_jax.files import locked, replacing, write_bytes, write_errors, write_json, write_text

WRITERS: list[Callable[[Path], None]] = [
    lambda path: write_bytes(path, bytes(20_000)),
    lambda path: write_text(path, "x" * 20_000),
    lambda path: write_json(path, {"x": "x" * 20_000}),
]


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files of this process can't grow beyond 10 kB, which fails in the middle of a write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write", WRITERS)
def test_a_write_that_fails_half_way_leaves_the_old_file_alone(write: Callable[[Path], None], tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "deep" / "file"
    write_text(path, "old")
    with pytest.raises(WriteError) as caught:
        write(path)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_is_replaced_whole(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    write(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size >= 20_000
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_of_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as temporary:
        _ = temporary.write_text("half") // 0
    assert not list(tmp_path.iterdir())


def test_what_the_block_reads_fails_under_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source") as caught, replacing(tmp_path / "file"):
        (tmp_path / "source").read_bytes()
    assert not isinstance(caught.value, WriteError)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/a"):
        write_text(tmp_path / "file" / "a", "x")


def test_a_full_disk_says_what_to_do_and_the_error_can_be_pickled(tmp_path: Path) -> None:
    with pytest.raises(AvmaeError, match=str(tmp_path / "a")) as caught, write_errors(tmp_path / "a"):
        Path("/dev/full").write_text("x")  # an error without a name, as every full disk gives
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - made one line above
    assert (str(copy), copy.errno) == (str(caught.value), errno.ENOSPC)
    assert isinstance(copy, OSError)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_text_is_kept(tmp_path: Path) -> None:
    for ascii_only in (True, False):
        write_json(tmp_path / "a.json", {"x": "ä"}, ascii_only=ascii_only)
        assert (b"\\u00e4" in (tmp_path / "a.json").read_bytes()) == ascii_only


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts another process, which holds tmp_path/out until it is killed."""
    code = "import pathlib, sys, avmae_jax.files as f\nwith f.locked(pathlib.Path(sys.argv[1])):\n print(flush=True)\n input()"
    arguments = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.process
def test_a_second_writer_is_told_who_the_first_is_and_a_dead_one_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(LockedError) as caught, locked(tmp_path / "out"):
        pass
    assert str(holder.pid) in caught.value.holder
    assert socket.gethostname() in caught.value.holder
    holder.kill()
    holder.wait()
    with locked(tmp_path / "out"):
        assert str(os.getpid()) in (tmp_path / "out/.lock").read_text()
    assert not (tmp_path / "out/.lock").read_text()


@pytest.mark.process
def test_waiting_names_the_holder_first(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    waited: list[str] = []

    def end_it(name: str) -> None:
        waited.append(name)
        holder.kill()

    with locked(tmp_path / "out", wait=True, on_wait=end_it):
        assert [str(holder.pid) in name for name in waited] == [True]
