"""The GPU report measures each part in a process of its own; here on a CPU, at a small size."""

import json
import math
import threading
import time
from itertools import chain
from pathlib import Path

import jax
import pytest
from jax.errors import JaxRuntimeError

from avmae_jax.config import Config, DataConfig, ModelConfig
from avmae_jax.config_files import shipped
from launch.benchmarks import gpu_report
from launch.benchmarks.gpu import part, program, steps
from launch.benchmarks.gpu.part import Part
from tests.support import ROOT, sharing, time_limit

MODEL = ModelConfig(
    depth=2, width=32, heads=4, decoder_depth=1, decoder_width=16, decoder_heads=2, mel_bins=16, audio_frames=64, image_size=32
)  # fmt: skip
TINY = Config(name="mini", model=MODEL, data=DataConfig(source="builtin", workers=0, builtin_image_size=32, builtin_seconds=1.0))


@pytest.fixture(autouse=True)
def quick(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the processes share what they compile, and compile it without most optimizations."""
    for name, value in sharing(compiled).items():
        monkeypatch.setenv(name, value)


def rows_of(title: str) -> part.Measured:
    chosen = next(each for each in chain(*gpu_report.groups((2, 4))) if each.title.startswith(title))
    if chosen.timed:
        chosen = chosen._replace(options={**chosen.options, "turn": str(ROOT)})
    found = part.run(chosen, TINY, time_limit(150))
    assert found.ended == "done", found.ended
    return found


@pytest.mark.process
def test_a_part_that_fails_or_hangs_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {"sizes": [(0, False)], "steps": 1, "training": {"batch": 2, "steps": 1}}
    broken = [Part("none", "no_such_part"), Part("bad", "steps", bad, timed=True), Part("device", "device")]
    monkeypatch.setattr(gpu_report, "groups", lambda batches: iter([broken[:2], broken[2:]]))
    gpu_report.measure(TINY, (2,), 5, tmp_path / "report.json")
    none, bad, device = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert "no_such_part" in none["ended"]
    assert "batch_size is 0" in bad["ended"]
    assert (device["ended"], device["rows"][0]["device"]) == ("done", "cpu")
    assert part.run(Part("device", "device"), TINY, 0.1).ended.startswith("ended after")


def test_parts_for_which_no_time_is_left_are_named(tmp_path: Path) -> None:
    found = gpu_report.measure(TINY, (2, 4), 0.01, tmp_path / "report.json")
    assert {each.ended for each in found} == {"left out: no time"}
    assert len({each.title for each in found}) == len(found) == 8


@pytest.mark.process
def test_steps_are_timed_and_their_memory_is_that_of_the_compiler(cache_dir: Path) -> None:
    TINY.data.cache_dir = str(cache_dir)
    rows = rows_of("steps").rows
    assert sorted((row["batch"], row["remat"]) for row in rows) == [(2, False), (2, True), (4, False), (4, True)]
    peaks = [row["peak GiB as compiled"] for row in rows]
    assert peaks == sorted(peaks)
    for row in rows:
        assert row["dtype"] == "float32"
        assert row["ms a step"] > 0
        assert 0 < row["peak GiB as compiled"] < 1


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.slow
def test_a_step_for_which_there_is_no_memory_costs_itself_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = program.Program.compile

    def compile_small(self: program.Program) -> program.Program:
        if self.config.train.batch_size == 4:
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand much more")
        return whole(self)

    monkeypatch.setattr(program.Program, "compile", compile_small)
    monkeypatch.setattr(steps.feeding, "trace", lambda config, **options: jax.jit(lambda x: x).trace(1.0))
    small, large = steps.measure(TINY, sizes=[(4, False), (2, False)], steps=1, training={}, turn=str(tmp_path))
    assert small["ms a step"] > 0
    assert (large["batch"], large["remat"]) == (4, False)
    assert large["failed"].endswith("RESOURCE_EXHAUSTED: Out of memory")


def test_parts_begin_together_and_what_is_timed_waits_for_those_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    began, ended = threading.Barrier(3, timeout=time_limit(20)), list[str]()

    def run(chosen: Part, config: Config, seconds: float) -> part.Measured:
        began.wait()
        if chosen.timed:
            part.await_turn(chosen.options["turn"])
        else:
            time.sleep(0.3)
        ended.append(chosen.title)
        return part.Measured(chosen.title, [], "done", seconds)

    group = [Part("not timed", "device"), Part("first", "device", timed=True), Part("second", "device", timed=True)]
    monkeypatch.setattr(gpu_report, "groups", lambda batches: iter([group]))
    monkeypatch.setattr(gpu_report, "run", run)
    gpu_report.measure(TINY, (2,), 5, tmp_path / "report.json")
    assert ended == ["not timed", "first", "second"]


def test_figures_that_are_not_finite_are_part_of_the_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_report, "groups", lambda batches: iter([[Part("parity", "parity")]]))
    monkeypatch.setattr(gpu_report, "run", lambda *given: part.Measured("parity", [{"losses": math.nan, "within": False}], "done", 1.0))
    gpu_report.measure(TINY, (2,), 5, tmp_path / "report.json")
    (found,) = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert found["rows"] == [{"losses": None, "within": False}]


@pytest.mark.process
def test_a_part_runs_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert part.run(Part("device", "device"), TINY, time_limit(60)).ended == "done"


def test_what_does_not_pretrain_is_refused_before_the_first_part(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for pretraining choose"):
        gpu_report.show_report(shipped("finetune_instruments"), (2,), 5, tmp_path / "report.json")


@pytest.mark.process
def test_a_device_is_compared_with_the_cpu() -> None:
    exact, half, _ = rows_of("parity").rows
    assert (exact["dtype"], exact["products"], exact["losses"], exact["gradients"], exact["within"]) == ("float32", "highest", 0, 0, True)
    assert half["dtype"] == "bfloat16"
    assert half["within"]
    assert half["gradients"] > 0


@pytest.mark.process
def test_the_time_of_kernels_is_named_by_part() -> None:
    rows = rows_of("parts of the step").rows
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert {"layer norm", "optimizer"} <= {row["part"] for row in rows}


@pytest.mark.process
def test_the_same_steps_are_trained_twice() -> None:
    (row,) = rows_of("the same steps").rows
    assert row["same"]
    assert row["steps"] == 50


@pytest.mark.process
@pytest.mark.slow
def test_training_finds_its_step_compiled_and_reports_its_waiting_for_data(tmp_path: Path, cache_dir: Path) -> None:
    TINY.data.cache_dir = str(cache_dir)
    kept = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    parts = {each.module: each for each in chain(*gpu_report.groups((2,)))}
    steps = parts["steps"]._replace(options={**parts["steps"].options, "turn": str(tmp_path)}, environment=kept)
    assert part.run(steps, TINY, time_limit(200)).ended == "done"
    compiled = {file.name for file in tmp_path.glob("*step*-cache")}
    assert len(compiled) == 3
    fed = part.run(parts["feeding"]._replace(environment=kept), TINY, time_limit(150))
    assert fed.ended == "done"
    assert {file.name for file in tmp_path.glob("*step*-cache")} == compiled
    (row,) = fed.rows
    assert row["steps"] == 60
    assert 0 <= row["share waiting for data"] <= 1
