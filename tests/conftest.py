"""What tests share: JAX's settings and the fixtures. Plain helpers are in tests/support.py."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from tests.support import ROOT, Program, patience

jax.config.update("jax_numpy_dtype_promotion", "strict")  # our own code never mixes types silently


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what starts programs by its fixture, and as slow."""
    for item in items:
        if isinstance(item, pytest.Function) and "program" in item.fixturenames:
            item.add_marker(pytest.mark.process)
        if item.get_closest_marker("process"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def optax_promotion() -> Iterator[None]:
    """For tests in which optax's Adam computes: it mixes Python floats and int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def unpolished() -> Iterator[None]:
    """For tests that compile a whole model: halves the time that takes."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the built-in clips are generated once."""
    return tmp_path_factory.mktemp("builtin")


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled programs are kept for a whole session of tests: what one has compiled, the next one loads."""
    folder = tmp_path_factory.mktemp("compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


@pytest.fixture(scope="session")
def program(compiled: Path) -> Program:
    """Runs `python ARGUMENTS` from the project's root on `devices` simulated devices.

    Programs share what they compile and don't polish it: compiling is most of what a tiny run does.
    """

    def run(*arguments: object, devices: int = 1, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patience(timeout), check=False)

    return run
