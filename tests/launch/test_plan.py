"""Tests launch.plan: what is refused before anything is compiled, and the plan itself with the CPU in place of a GPU."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from avmae_jax.config_files import shipped
from avmae_jax.errors import ConfigError
from avmae_jax.planning import compiled, gpus
from avmae_jax.planning import plan as planning
from avmae_jax.planning.compiled import Compiled, Memory
from avmae_jax.planning.hlo import Program
from avmae_jax.train.fitting import Way
from avmae_jax.xla_flags import EXCLUDE, flags
from launch import plan
from tests.support import TINY, apply, as_arguments, completed

GIB = 2**30


def planned(*arguments: object) -> subprocess.CompletedProcess[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["plan", *map(str, arguments)])  # whose fields of --config become options
        return completed(plan, *arguments)


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_PLUGINS", ("no_such_plugin",))


@pytest.mark.usefixtures("no_wheels")
def test_kernels_are_those_of_a_run_that_repeats_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--other=1")
    planned("--config=tiny", "--gpu=h100")
    assert flags() == {"--other": "1"}
    planned("--config=tiny", "--gpu=h100", "--config.train.deterministic=True")
    assert flags() == {"--other": "1", EXCLUDE: "true"}
    for refused in (f"{EXCLUDE}=false", "my_flags.txt"):
        monkeypatch.setenv("XLA_FLAGS", refused)
        assert refused in planned("--config=tiny", "--gpu=h100", "--config.train.deterministic=True").stderr


@pytest.mark.usefixtures("no_wheels")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--gpu=h100"], ["cuda12", "cuda13"]),
        (["--gpu=h900"], ["h900", *gpus.GPUS]),
        (["--gpu=t4"], ["'t4'", *gpus.GPUS]),
        ([], ["--gpu", *gpus.GPUS]),
        (["--gpu=h100", "--devices=8", "--hosts=3"], ["devices is 8", "hosts is 3"]),
        (["--gpu=h100", "--clips=10"], ["train.batch_size is 64", "10 clips"]),
        (["--gpu=h100", "--classes=3"], ["--classes"]),
        (["--gpu=h100", "--config.tune.loss=ce"], ["--config.tune.loss"]),
        (["--gpu=h100", "--config.model.kind=cavmae_classifier", "--config.loss.contrast_weight=1"], ["--config.loss.contrast_weight"]),
        (["--gpu=h100", "--config.data.source=prepared", "--config.data.path=nowhere"], ["nowhere", "--clips"]),
        (["--gpu=h100", "--config.data.source=prepared"], ["data.path"]),
        (["--gpu=h100", "surplus"], ["surplus"]),
        (["--gpu=h100", "--json=no/such/folder/plan.json"], ["--json", "no/such/folder"]),
        (["--gpu=h100", "--json=/"], ["--json"]),
    ],
)
def test_a_mistake_is_answered_in_one_line(arguments: list[str], named: list[str]) -> None:
    done = planned("--config=tiny", *arguments)
    assert done.returncode == 1
    assert all(name in done.stderr for name in named), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("no_wheels")
def test_a_recipe_needs_neither_its_data_nor_its_weights() -> None:
    for arguments in (["--config=scale_plus_plus"], ["--config=finetune_audioset20k", "--classes=527"]):
        done = planned(*arguments, "--gpu=h100", "--clips=20000")
        assert "cuda12" in done.stderr  # it got as far as the compiler


@pytest.mark.usefixtures("no_wheels")
@pytest.mark.parametrize("share", ["much", "0", "1.5", "nan"])
def test_a_share_of_the_memory_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", share)
    done = planned("--config=tiny", "--gpu=h100")
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in done.stderr
    assert repr(share) in done.stderr


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles for the CPU in place of a GPU."""
    monkeypatch.setattr(planning, "devices_of", lambda *_: jax.devices())
    monkeypatch.setattr(compiled, "_OPTIONS", {})


@pytest.mark.usefixtures("on_cpu")
def test_a_mesh_that_does_not_fit_the_devices_is_refused() -> None:
    done = planned("--config=tiny", "--gpu=h100", "--config.mesh.data=4")
    assert "data=4" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu", "optax_promotion")
@pytest.mark.parametrize("classifies", [False, True])
def test_a_plan_says_what_the_run_takes(tmp_path: Path, classifies: bool) -> None:
    changes = TINY | {"train.steps": 0, "train.epochs": 3.0, "train.micro_batch": 4}
    changes |= {"model.kind": "cavmae_classifier", "augment.mixup": 0.5} if classifies else {}
    done = planned("--config=tiny", "--gpu=h100", "--clips=4000", f"--json={tmp_path}/plan.json", *as_arguments(changes))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "plan.json").read_text())
    assert (found["step"]["batch_size"], found["step"]["micro_batch"], found["step"]["negatives"]) == (8, 4, 0 if classifies else 8)
    assert ("among 8" in done.stdout) == (not classifies)  # the pairs of the whole batch, though it is computed in parts
    assert found["run"]["steps"] == 1500
    fast, slow = found["seconds_a_step"]
    assert 0 < fast < slow
    assert found["pairs_a_second"] == [8 / slow, 8 / fast]
    assert found["run"]["hours"] == [1500 * fast / 3600, 1500 * slow / 3600]
    assert found["loader"]["pairs_a_second_and_host"] == pytest.approx(8 / fast * (1.5 if classifies else 1))
    assert found["flops"] > 0
    assert found["memory_gib"]["peak"] > found["memory_gib"]["temporaries"] > 0
    assert re.search(r"fits +yes: ", done.stdout)
    assert re.search(r"the run +1,500 steps, 3 epochs of 4,000 clips", done.stdout)


def step_of(peak: float) -> Compiled:
    return Compiled(Memory(0, 0, 0, 0, round(peak), round(peak)), Program({}, "", {}, ""))


def test_a_batch_that_fits_in_no_way_is_refused_with_what_was_tried() -> None:
    config = apply(shipped("base"), {"train.batch_size": 96})
    found: dict[Way, Compiled] = {}

    def compile_to(remat: bool, micro_batch: int) -> Memory:
        found[Way(remat, micro_batch)] = step_of((200 + micro_batch) * GIB)
        return found[Way(remat, micro_batch)].memory

    with pytest.raises(ConfigError, match=r"train\.batch_size is 96.* 56\.4 GiB.*96 pairs 296\.0.*mesh\.fsdp"):
        planning._choose(config, 1, 56.4 * GIB, compile_to, found)


def test_what_the_config_says_of_the_step_is_kept() -> None:
    config = apply(shipped("base"), {"train.batch_size": 96, "train.micro_batch": 24, "model.remat": True})
    calls = []

    def compile_to(remat: bool, micro_batch: int) -> Memory:
        calls.append((remat, micro_batch))
        return step_of(1).memory

    assert planning._choose(config, 1, GIB, compile_to, {}) == Way(True, 24)
    assert calls == [(True, 24)]


def test_the_machine_is_one_gpu_unless_more_are_given() -> None:
    assert dataclasses.astuple(planning.Machine("h100")) == ("h100", 1, 1, 0.75)
