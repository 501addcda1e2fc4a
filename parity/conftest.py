"""Sets up the comparisons: options, short compile times, and a summary of the largest errors at the end of `pytest parity`."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from avmae_jax.weights.io import write
from parity import rows
from parity.pth_files import made

_PROPERTY = "compared"  # of a test's report: [tolerance, number of rows, largest relative error] of each call of rows.assert_all


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --pretrained."""
    parser.addoption("--pretrained", action="store_true", help="use timm's pretrained weights, which it downloads, instead of random ones")


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Lets a test load what an earlier one has compiled."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def unpolished() -> Iterator[None]:
    """Turns off most compiler optimizations, for tests that compile much and run it once."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def promoting() -> Iterator[None]:
    """Lets dtypes promote as usual: optax's Adam mixes Python floats and int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Limits torch to one thread: tests run in several processes, whose threads would wait for each other."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def note_errors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records a test's errors in its report, which carries them from any process to the summary."""

    def observe(compared: Sequence[rows.Row]) -> None:
        for tolerance in {row.tolerance for row in compared}:
            errors = [row.relative for row in compared if row.tolerance == tolerance]
            request.node.user_properties.append((_PROPERTY, [tolerance, len(errors), max(errors)]))

    monkeypatch.setattr(rows, "observer", observe)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the number of compared quantities and the largest error for each test and tolerance, and what was skipped."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("timm") is None:
        terminalreporter.write_line('the comparisons with PyTorch were skipped: pip install -e ".[parity]"')
    table: dict[tuple[str, float], tuple[int, float]] = {}
    for report in (report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])):
        for name, value in report.user_properties:
            if name == _PROPERTY:
                tolerance, count, error = value
                file, _, test = report.nodeid.partition("::")
                key = (f"{Path(file).stem}: {test.partition('[')[0].removeprefix('test_').replace('_', ' ')}", tolerance)
                before = table.get(key, (0, 0.0))
                table[key] = (before[0] + count, max(before[1], error))
    if table:
        terminalreporter.section("largest relative errors")
        for (test, tolerance), (count, error) in sorted(table.items()):
            terminalreporter.write_line(f"{error:8.1e} of {tolerance:5.0e}, {count:5d} compared  {test}")


@pytest.fixture
def state(tmp_path: Path) -> Mapping[str, Any]:
    """Writes a small model to state.pth and returns its state dict."""
    torch = pytest.importorskip("torch")
    write(made(), tmp_path / "state.pth")
    return torch.load(tmp_path / "state.pth", weights_only=True)
