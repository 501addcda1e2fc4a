"""Tests that processes find each other, and that two of them train as one does: pretraining, fine-tuning, a kill, SIGTERM, and resuming."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from avmae_jax.errors import HostsError
from avmae_jax.train import hosts, joining
from avmae_jax.train.joining import Place
from tests.launch.pretraining import DISTURBED
from tests.support import ROOT, TINY, as_arguments, sharing, time_limit

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
GIVEN = {"JAX_COORDINATOR_ADDRESS": "n1:1234", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        (GIVEN, Place("n1:1234", 3, 2)),
        ({"JAX_COORDINATOR_ADDRESS": "n1:1234", "NUM_PROCESSES": "3", "PROCESS_ID": "0"}, Place("n1:1234", 3, 0)),
        (GIVEN | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (SLURM, Place(None, 2, 1)),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "n1:1234"}, Place("n1:1234", 2, 1)),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # a shell inside an allocation
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),  # a batch script without srun
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, Place(None, 4, 3)),
        (POD | {"JAX_COORDINATOR_ADDRESS": "job-0.svc:1", "JAX_NUM_PROCESSES": "2"}, Place("job-0.svc:1", 2, 1)),
        ({"NUM_PROCESSES": "4", "PROCESS_ID": "1"}, None),  # names that anybody may use
    ],
)
def test_a_process_finds_its_place(environment: Mapping[str, str], place: Place | None) -> None:
    assert joining.find(environment) == place


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "n1:1234"}, "JAX_NUM_PROCESSES"),
        ({"JAX_COORDINATOR_ADDRESS": "n1:1234", "JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID"),
        (GIVEN | {"JAX_COORDINATOR_ADDRESS": "n1"}, "JAX_COORDINATOR_ADDRESS is 'n1'"),
        (GIVEN | {"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID is 'first'"),
        (GIVEN | {"JAX_PROCESS_ID": "3"}, "process 3 of 3"),
        (POD, "JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_a_place_that_cannot_be_is_refused_by_name(environment: Mapping[str, str], part: str) -> None:
    with pytest.raises(HostsError, match=part):
        joining.find(environment)


@pytest.mark.parametrize(
    ("environment", "owns"),
    [
        (SLURM | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}, True),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, False),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2", "CUDA_VISIBLE_DEVICES": "0"}, True),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "JAX_LOCAL_DEVICE_IDS": "0"}, False),
    ],
)
def test_one_process_a_host_has_all_gpus_and_one_a_gpu_has_its_own(environment: Mapping[str, str], owns: bool) -> None:
    assert joining.owns_devices(environment) == owns


def test_joining_starts_no_device_so_that_flags_can_still_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any) -> None:
        raise AssertionError("a device was started")

    monkeypatch.setattr("jax._src.xla_bridge.backends", started)
    given: dict[str, Any] = {}
    monkeypatch.setattr("jax.distributed.initialize", lambda *place, **options: given.update(options))
    environment = {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "OMPI_COMM_WORLD_SIZE": "8",
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    }
    try:
        assert joining.join(5, environment)
        assert hosts.is_first()
    finally:
        joining.release()
    assert given["local_device_ids"] == [3]  # one GPU each, which JAX finds only up to OpenMPI 4
    joining.join(5, environment | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    joining.release()
    assert given["local_device_ids"] is None


@pytest.mark.parametrize(("clips", "count"), [(10, 3), (2, 4), (0, 2), (7, 1)])
def test_every_clip_is_evaluated_by_one_process(monkeypatch: pytest.MonkeyPatch, clips: int, count: int) -> None:
    monkeypatch.setattr("jax.process_count", lambda: count)
    shares = []
    for index in range(count):
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        shares += hosts.share(clips)
    assert shares == [*range(clips)]


def test_processes_that_differ_are_refused_by_field_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"host": "n2", "fields": {"config.train.batch_size": 8, "version.jax": "0.10"}}
    monkeypatch.setattr(hosts, "gather", lambda own: [own, other])
    hosts.require_same(config={"train": {"batch_size": 8}}, version={"jax": "0.10"})
    with pytest.raises(HostsError, match=rf"batch_size is 16 in process 0 on {socket.gethostname()}, and 8 in process 1 on n2"):
        hosts.require_same(config={"train": {"batch_size": 16}}, version={"jax": "0.10"})
    with pytest.raises(HostsError, match=r"version\.jax is '0\.11' in process 0.*'0\.10' in process 1"):
        hosts.require_same(config={"train": {"batch_size": 8}}, version={"jax": "0.11"})


def test_what_fails_in_one_process_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(hosts, "gather", lambda own: told.append(own) or [own, "LockedError: the folder"])
    with pytest.raises(HostsError, match=r"process 1 .*LockedError: the folder"), hosts.together():
        pass
    with pytest.raises(OSError, match="mine"), hosts.together():
        raise OSError("mine")
    assert told == ["", "OSError: mine"]


def test_only_what_another_process_causes_is_blamed_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(HostsError, match="Connection closed by peer"), hosts.losses_explained():
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    for error in (ValueError("train.batch_size is 3"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")):
        with pytest.raises(type(error), match=str(error)), hosts.losses_explained():
            raise error


CLASSIFIER = {
    "model.kind": "cavmae_classifier", "model.head_pool": "mean", "model.patch_dropout": 0.0, "model.image_factor": 1.0,
    "tune.both_weight": 1.0, "tune.audio_weight": 0.0, "tune.image_weight": 0.0, "tune.eval_crops": 1,
    "tune.average_first": 1, "tune.average_last": 1, "train.epochs": 1.0, "train.ema": 0.5,
    "data.source": "builtin", "data.builtin_train": 24,
}  # fmt: skip


class Machine:
    """Starts processes that train, each with some simulated devices."""

    def __init__(self, compiled: Path, cache_dir: Path):
        self._compiled, self.cache_dir = compiled, cache_dir

    def __call__(self, *commands: Sequence[object], devices: int = 1) -> list[subprocess.CompletedProcess[str]]:
        """Runs `python COMMAND` for each command; several are the processes of one run."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        ranks = [self._start([*map(str, command)], port, (number, len(commands)), devices) for number, command in enumerate(commands)]
        try:
            printed = [rank.communicate(timeout=time_limit(180)) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        return [
            subprocess.CompletedProcess(rank.args, rank.returncode, *texts)
            for rank, texts in zip(ranks, printed, strict=True)
        ]  # fmt: skip

    def _start(self, command: Sequence[str], port: int, place: tuple[int, int], devices: int) -> subprocess.Popen[str]:
        number, count = map(str, place)
        places = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": count, "JAX_PROCESS_ID": number}
        environment = os.environ | places | sharing(self._compiled, devices)
        return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True)


@pytest.fixture(scope="module")
def machine(compiled: Path, cache_dir: Path) -> Machine:
    return Machine(compiled, cache_dir)


def arguments(machine: Machine, workdir: Path, config: str = "tiny", **changes: Any) -> list[str]:
    always = {"train.workdir": workdir, "data.cache_dir": machine.cache_dir, "train.micro_batch": 8, "train.checkpoint_every": 2}
    given = TINY | always | {name.replace("__", "."): value for name, value in changes.items()}
    return ["--config", config, *as_arguments(given)]


def disturbed(what: str, when: int, command: Sequence[str]) -> list[object]:
    return ["-c", textwrap.dedent(DISTURBED), what, when, *command]


def rows(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir: Path) -> list[tuple[int, str, float]]:
    return [(row["step"], row["split"], row["loss"]) for row in rows(workdir)]


def steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def assert_same_losses(got: Path, want: Path, but: tuple[int, str] | None = None) -> None:
    found = [row for row in losses(got) if row[:2] != but]
    assert [row[:2] for row in found] == [row[:2] for row in losses(want)]
    np.testing.assert_allclose([row[2] for row in found], [row[2] for row in losses(want)], rtol=1e-5)


@pytest.mark.process
def test_pretraining_by_two_goes_on_after_a_kill_by_one_and_after_a_stop_by_two(machine: Machine, tmp_path: Path) -> None:
    alone, two = tmp_path / "alone", tmp_path / "two"
    (done,) = machine(["-m", "launch.pretrain", *arguments(machine, alone, train__steps=8, train__eval_every=4)])
    assert done.returncode == 0, done.stderr

    cut = arguments(machine, two, train__steps=8, train__eval_every=4, mesh__data=1, mesh__fsdp=2)
    left, killed = machine(disturbed("nothing", 0, cut), disturbed("SIGKILL", 5, cut))
    assert killed.returncode == -9
    assert left.returncode != 0
    assert "another process" in left.stderr.splitlines()[-1]
    assert steps(two) in ([2, 4], [2])
    assert (two / "pictures" / "reconstructions_0000004.png").exists()

    (one,) = machine(["-m", "launch.pretrain", *arguments(machine, two, train__steps=5, train__eval_every=4)])
    assert one.returncode == 0, one.stderr
    assert "resumed from step" in one.stderr

    copies = arguments(machine, two, train__steps=8, train__eval_every=4, mesh__data=2)
    stopped = machine(disturbed("nothing", 0, copies), disturbed("SIGTERM", 6, copies))
    assert [rank.returncode for rank in stopped] == [0, 0], [rank.stderr for rank in stopped]
    # Step 6 is saved, which waits for its losses; the processes hear of the signal a step later.
    assert "stopped by a signal to another process after step 7" in stopped[0].stderr
    assert steps(two)[-1] == 7

    ended = machine(*[["-m", "launch.pretrain", *copies]] * 2)
    assert [rank.returncode for rank in ended] == [0, 0], [rank.stderr for rank in ended]
    assert ("8 steps in" in ended[0].stdout, "8 steps in" in ended[1].stdout) == (True, False)
    assert_same_losses(two, alone, but=(5, "eval"))  # the end of the second start
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (two, alone)]
    assert summaries[0]["retrieval"].keys() == summaries[1]["retrieval"].keys()
    assert summaries[0]["retrieval"]["clips"] == 16
    assert (two / "log.txt").read_text().count("started: ") == 4


@pytest.mark.process
def test_losses_do_not_depend_on_how_processes_share_the_devices(machine: Machine, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"train__steps": 2, "train__retrieval_clips": 0, "mesh__data": 2, "mesh__tensor": 2}
    for processes in (1, 2, 4):
        command = ["-m", "launch.pretrain", *arguments(machine, tmp_path / str(processes), **changes)]
        done = machine(*[command] * processes, devices=4 // processes)
        assert [each.returncode for each in done] == [0] * processes, done
    for processes in (2, 4):
        assert_same_losses(tmp_path / str(processes), tmp_path / "1")


@pytest.mark.process
def test_fine_tuning_by_two_is_that_by_one(machine: Machine, tmp_path: Path) -> None:
    summaries = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        command = [
            "-m",
            "launch.finetune",
            *arguments(machine, folder, "finetune_instruments", **CLASSIFIER, mesh__fsdp=count, mesh__data=1),
        ]
        command = [part for part in command if "decoder" not in part]
        for rank in machine(*[command] * count):
            assert rank.returncode == 0, rank.stderr
        summaries.append(json.loads((folder / "summary.json").read_text()))
    assert_same_losses(tmp_path / "2", tmp_path / "1")
    for name in ("held_out", "averaged", "ema"):
        assert summaries[0][name].keys() == summaries[1][name].keys()
        np.testing.assert_allclose([*summaries[1][name].values()], [*summaries[0][name].values()], rtol=1e-4)
    assert (tmp_path / "2" / "best").is_dir()


@pytest.mark.process
def test_a_study_by_two_is_that_by_one_and_written_once(machine: Machine, tmp_path: Path) -> None:
    figures = []
    for count in (1, 2):
        given = arguments(machine, tmp_path / "unused", "finetune_instruments", **CLASSIFIER, mesh__fsdp=count, mesh__data=1)
        given = [part for part in given if "decoder" not in part and "workdir" not in part and "checkpoint_every" not in part][2:]
        options = ["--starts=scratch,baseline", "--labels=1", "--seeds=1", "--least_steps=1", f"--out={tmp_path / str(count)}"]
        ended = machine(*[["-m", "launch.study", "no-run", *options, *given]] * count)
        assert [rank.returncode for rank in ended] == [0] * count, [rank.stderr for rank in ended]
        assert ["study.json" in rank.stdout for rank in ended] == [True, False][:count]
        cells = json.loads((tmp_path / str(count) / "study.json").read_text())["cells"]
        figures.append({f"{cell['method']} {cell['labels']} {name}": cell[name] for cell in cells for name in ("clips", "loss", "map")})
    assert len(figures[0]) == 6
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)


@pytest.mark.process
def test_a_process_that_never_comes_and_one_with_another_config_end_with_a_sentence(machine: Machine, tmp_path: Path) -> None:
    given = arguments(machine, tmp_path / "run", train__steps=1)
    environment = os.environ | GIVEN | {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_PROCESS_ID": "1"}
    waited = subprocess.run(
        [sys.executable, "-m", "launch.pretrain", *given, "--hosts_timeout=1"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=time_limit(60), check=False,
    )  # fmt: skip
    assert waited.returncode == 1
    assert "process 1 of 3 has waited 1 s for the others at localhost:1" in waited.stderr
    assert "Traceback" not in waited.stderr
    others = machine(["-m", "launch.pretrain", *given], ["-m", "launch.pretrain", *given, "--config.optim.learning_rate=0.5"])
    for rank in others:
        assert rank.returncode == 1
        assert "config.optim.learning_rate is 0.001 in process 0" in rank.stderr
        assert "0.5 in process 1" in rank.stderr
        assert "Traceback" not in rank.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("processes", "given", "used"), [(2, None, "run"), (2, "mine", "mine"), (1, None, None)])
def test_several_processes_keep_programs_in_one_folder_unless_the_user_names_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, processes: int, given: str | None, used: str | None
) -> None:
    before: str = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr("jax.process_count", lambda: processes)
    try:
        jax.config.update("jax_compilation_cache_dir", given and str(tmp_path / given))
        hosts.keep_programs(tmp_path / "run")
        assert jax.config.jax_compilation_cache_dir == (used and str(tmp_path / used))  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
