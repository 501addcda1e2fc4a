"""Tests the command avmae: its page, its programs, from any folder, without heavy imports before a program needs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import avmae_jax
from avmae_jax.cli import programs
from tests.support import ROOT, time_limit


def avmae(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "avmae_jax.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=time_limit(120), check=False)


@pytest.mark.process
def test_the_page_names_each_program_in_a_line(tmp_path: Path) -> None:
    done = avmae("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    names = {path.stem for path in (ROOT / "launch").glob("*.py")} - {"__init__"}
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {*lines} == {name.replace("_", "-") for name in names} == {name.replace("_", "-") for name in programs()}
    assert all(20 < len(line) < 130 for line in lines.values())
    assert avmae().stdout == avmae("-h").stdout == done.stdout


@pytest.mark.process
def test_the_version_is_the_librarys() -> None:
    done = avmae("--version")
    assert (done.returncode, done.stdout) == (0, f"avmae {avmae_jax.__version__}\n")


@pytest.mark.process
def test_the_command_imports_no_library() -> None:
    code = "import sys, avmae_jax.cli; avmae_jax.cli.programs(); print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=time_limit(60), check=True)
    assert not {"jax", "flax", "numpy", "absl", "ml_collections", "rich"} & {*done.stdout.split()}


@pytest.mark.parametrize("name", ["inspect-data", "inspect_data"])
@pytest.mark.process
def test_a_program_runs_from_any_folder_by_both_spellings(tmp_path: Path, name: str) -> None:
    done = avmae(name, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "avmae inspect_data" in done.stdout
    assert "python -m" not in done.stdout
    wrong = avmae(name, "absent", cwd=tmp_path)
    assert (wrong.returncode, "Traceback" in wrong.stderr, "absent" in wrong.stderr) == (1, False, True)


@pytest.mark.parametrize(("name", "near"), [("pretain", "pretrain"), ("inspect", "inspect_data"), ("xyz", "predict")])
@pytest.mark.process
def test_an_unknown_program_names_near_ones(name: str, near: str) -> None:
    done = avmae(name)
    assert done.returncode == 1
    assert name in done.stderr
    assert near in done.stderr
    assert len(done.stderr.splitlines()) == 1
