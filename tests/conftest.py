"""Sets up what all tests share: JAX's strict settings, checked shapes, markers and fixtures. Plain helpers are in tests/support.py."""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub but those that serve one themselves

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

# Annotated shapes and types of these modules are checked at every call. The hook must come before their first import.
CHECKED = ("avmae_jax.models", "avmae_jax.train.losses", "avmae_jax.evals.metrics")
with install_import_hook(CHECKED, "beartype.beartype"):
    from launch.common.runtime import collect_rarely
    from tests.support import QUICK, ROOT, Program, sharing, time_limit

# Compiling is most of what tests do. `pytest parity` alone keeps the code generator of users, and their optimizations in part.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()  # a space alone would be the name of a file
collect_rarely()
jax.config.update("jax_numpy_dtype_promotion", "strict")  # our own code never mixes types silently
jax.config.update("jax_numpy_rank_promotion", "raise")  # nor ranks: a missing axis is an error instead of a broadcast


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks every test that uses the `program` fixture, directly or through another one, as `process`, and all of those as `slow`.

    Tests that need the CUDA wheels take minutes, and are skipped unless they are chosen by their marker.
    """
    for item in items:
        if item.get_closest_marker("cuda_wheels") and "cuda_wheels" not in config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason="runs with -m cuda_wheels alone"))
        if "program" in getattr(item, "fixturenames", ()):
            item.add_marker("process")
        if item.get_closest_marker("process"):
            item.add_marker("slow")


@pytest.fixture
def optax_promotion() -> Iterator[None]:
    """Allows mixed types where optax's Adam computes: it mixes Python floats and int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module", autouse=True)
def left_alone() -> Iterator[None]:
    """Keeps the garbage collector from looking again at what earlier modules left in JAX's caches: gigabytes, after an hour of tests."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder in which the built-in clips are generated once."""
    return tmp_path_factory.mktemp("builtin")


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps compiled programs for the whole session: what one test has compiled, the next one loads, of whichever worker it is."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    folder.mkdir(exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


@pytest.fixture(scope="session")
def program(compiled: Path) -> Program:
    """Runs `python ARGUMENTS` from the project's root on `devices` simulated devices.

    Programs share what they compile and skip most optimizations: compiling takes most of the time of a tiny run.
    """

    def run(*arguments: object, devices: int = 1) -> subprocess.CompletedProcess[str]:
        environment = os.environ | sharing(compiled, devices)
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=time_limit(180), check=False)

    return run
