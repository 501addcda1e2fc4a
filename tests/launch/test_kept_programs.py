"""Tests that compiled programs are kept, that a second start compiles nothing again, and what happens with folders that can't be used."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.launch.pretraining import Command
from tests.support import ROOT, time_limit

# Runs a program and prints what became of its requests for compiled programs.
COUNTED = """
import collections, json, runpy, sys
import jax
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name.rpartition("/")[2]]))
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(json.dumps(seen))
"""
SMALL = """
import collections, json, sys
import jax, jax.numpy as jnp
from absl import flags
from launch.common import kept_programs, runtime
flags.FLAGS(["small"])
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name.rpartition("/")[2]]))
runtime.start()
kept_programs.cache_programs()
assert float(jax.jit(lambda x: (x @ x).sum() + 1)(jnp.ones((3, 3)))) == 28
print(json.dumps(seen | {"folder": jax.config.jax_compilation_cache_dir}))
"""


def run(code: str, *arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMP", "JAX_PERS"))}
    own |= {"HOME": str(home), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=own | environment, capture_output=True, text=True, timeout=time_limit(180), check=False,
    )  # fmt: skip


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert done.returncode == 0, done.stderr
    return {"cache_hits": 0, "cache_misses": 0} | json.loads(done.stdout.splitlines()[-1])


def kept(folder: Path, name: str = "") -> list[Path]:
    return sorted(folder.glob(f"{name}*-cache"))


@pytest.mark.process
def test_a_run_that_is_resumed_compiles_no_step_again(command: Command, tmp_path: Path) -> None:
    """Counts compilations alone: test_pretrain_interrupted.py compares the numbers of resumed runs bit for bit."""
    folder = tmp_path / ".cache/avmae_jax/programs"
    arguments = ["launch.pretrain", *command.arguments(tmp_path / "run", {"train.steps": 3})]
    first = counts(run(COUNTED, *arguments, home=tmp_path))
    before = kept(folder)
    assert len(kept(folder, "jit_step")) == 1
    assert (first["cache_hits"], first["cache_misses"]) == (0, len(before))
    resumed = counts(run(COUNTED, *arguments, "--config.train.steps=4", home=tmp_path))
    added = {path.name.partition("-")[0] for path in kept(folder)} - {path.name.partition("-")[0] for path in before}
    assert not added  # the programs of checkpoints, checksums, know restored arrays by other layouts
    assert len(kept(folder, "jit_step")) == 1
    assert resumed["cache_hits"] > 5 * resumed["cache_misses"]


@pytest.mark.process
def test_a_part_of_a_program_is_named_once_and_replaced(tmp_path: Path) -> None:
    """Cuts kept programs short, as a process does that is killed while it writes one."""
    folder = tmp_path / ".cache/avmae_jax/programs"
    first = run(SMALL, home=tmp_path)
    assert (counts(first)["cache_misses"], first.stderr) == (len(kept(folder)), "")
    for path in kept(folder):
        path.write_bytes(path.read_bytes()[:30])
    again = run(SMALL, home=tmp_path)
    assert counts(again)["cache_hits"] == 0
    (line,) = again.stderr.splitlines()
    assert str(folder) in line
    third = run(SMALL, home=tmp_path)
    assert (counts(third)["cache_misses"], third.stderr) == (0, "")


@pytest.mark.process
def test_a_folder_that_cannot_be_used_is_a_line_and_the_program_goes_on(tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("a file")
    for environment in ({}, {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / ".cache/mine")}):
        done = run(SMALL, home=tmp_path, **environment)
        assert counts(done)["cache_hits"] == 0
        (line,) = done.stderr.splitlines()
        assert str(tmp_path / ".cache") in line


@pytest.mark.process
def test_the_users_own_settings_count(tmp_path: Path) -> None:
    mine = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000"}
    assert not kept(Path(str(counts(run(SMALL, home=tmp_path, **mine))["folder"])))
    assert counts(run(SMALL, home=tmp_path, JAX_COMPILATION_CACHE_DIR=mine["JAX_COMPILATION_CACHE_DIR"]))["cache_misses"]
    assert kept(tmp_path / "mine")
    assert not (tmp_path / ".cache").exists()


@pytest.mark.process
def test_several_processes_keep_programs_in_one_folder_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        done = list(threads.map(lambda _: run(SMALL, home=tmp_path), range(3)))
    for each in done:
        assert counts(each)["cache_hits"] + counts(each)["cache_misses"] > 0
    assert counts(run(SMALL, home=tmp_path))["cache_misses"] == 0
