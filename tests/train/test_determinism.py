"""Tests what train.deterministic sets before JAX starts its devices, and where it is refused."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from avmae_jax.config import Config
from avmae_jax.errors import ConfigError
from avmae_jax.train import determinism
from avmae_jax.train.determinism import note_devices, prepare_devices
from tests.support import ROOT, apply

EXCLUDE = "--xla_gpu_exclude_nondeterministic_ops"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return apply(Config(), {"train.deterministic": True, "train.workdir": str(tmp_path)})


def running(monkeypatch: pytest.MonkeyPatch, platform: str | None) -> None:
    """Pretends that JAX uses a platform, or none yet."""
    monkeypatch.setattr(determinism.xla_bridge, "backends_are_initialized", lambda: platform is not None)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)


def flags(monkeypatch: pytest.MonkeyPatch, config: Config, before: str = "") -> dict[str, str]:
    """Returns the flags that are set afterwards."""
    monkeypatch.setenv("XLA_FLAGS", before)
    prepare_devices(config)
    return {name: value for name, _, value in (flag.partition("=") for flag in os.environ["XLA_FLAGS"].split())}


def test_kernels_are_excluded_and_their_choice_is_kept(monkeypatch: pytest.MonkeyPatch, config: Config, tmp_path: Path) -> None:
    running(monkeypatch, None)
    kept = str(tmp_path / "autotuning_0.txt")
    first = {"--xla_other": "1", EXCLUDE: "true", "--xla_gpu_dump_autotune_results_to": kept}
    assert flags(monkeypatch, config, "--xla_other=1") == first
    Path(kept).write_text("version: 3\nresults {\n}\n")
    assert flags(monkeypatch, config, "--xla_other=1") == first | {"--xla_gpu_load_autotune_results_from": kept}


def test_a_choice_that_was_not_written_to_its_end_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, config: Config, tmp_path: Path
) -> None:
    running(monkeypatch, None)
    (tmp_path / "autotuning_0.txt").write_text('version: 3\nresults {\n  device: "CU')
    assert "--xla_gpu_load_autotune_results_from" not in flags(monkeypatch, config)
    assert "autotuning_0.txt" in caplog.text


def test_flags_that_are_set_stay(monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    running(monkeypatch, None)
    assert flags(monkeypatch, config, "--xla_gpu_deterministic_ops=true") == {"--xla_gpu_deterministic_ops": "true"}
    assert flags(monkeypatch, config, EXCLUDE)[EXCLUDE] == ""
    with pytest.raises(ConfigError, match=rf"train\.deterministic.*{EXCLUDE}=false"):
        flags(monkeypatch, config, f"{EXCLUDE}=false")
    with pytest.raises(ConfigError, match=r"XLA_FLAGS.*my_flags\.txt"):
        flags(monkeypatch, config, "my_flags.txt")
    assert flags(monkeypatch, apply(Config(), {}), "--xla_other=1") == {"--xla_other": "1"}


def test_a_gpu_that_runs_without_the_flags_is_refused(monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    running(monkeypatch, "gpu")
    with pytest.raises(ConfigError, match=rf"train\.deterministic.*{EXCLUDE}=true"):
        flags(monkeypatch, config)
    assert flags(monkeypatch, config, f"{EXCLUDE}=true") == {EXCLUDE: "true"}


def test_a_gpu_that_runs_already_with_the_flags_keeps_no_choice_of_kernels_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, config: Config
) -> None:
    running(monkeypatch, "gpu")
    flags(monkeypatch, config, f"{EXCLUDE}=true --xla_gpu_dump_autotune_results_to=elsewhere")
    assert not caplog.records
    flags(monkeypatch, config, f"{EXCLUDE}=true")
    assert "resumed run may differ" in caplog.text


def test_a_cpu_is_left_alone_and_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, config: Config) -> None:
    running(monkeypatch, "cpu")
    assert flags(monkeypatch, config, "--xla_other=1") == {"--xla_other": "1"}
    with caplog.at_level(logging.INFO, logger="absl"):
        note_devices(config)
        note_devices(Config())
    (record,) = caplog.records
    assert "train.deterministic" in record.getMessage()
    assert "CPU" in record.getMessage()


@pytest.mark.slow
@pytest.mark.process
def test_xla_knows_the_flags_and_importing_us_starts_no_device(tmp_path: Path) -> None:
    script = f"""
import os
from avmae_jax.config import Config, TrainConfig
from avmae_jax.train import run
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
folder = {str(tmp_path)!r}
open(folder + "/autotuning_0.txt", "w").write("version: 3\\nresults {{\\n}}\\n")
run.prepare_devices(Config(train=TrainConfig(deterministic=True, workdir=folder)))
assert os.environ["XLA_FLAGS"].count("--xla_gpu") == 3
import jax
assert float(jax.jit(lambda x: x + 1)(1.0)) == 2.0
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
