"""Joins the processes of a run at its start, as environment variables name them, and lets one of them leave.

JAX finds the first process's address in what SLURM, OpenMPI and Kubernetes say; how many there are is read here, so that a process that is
alone stays so.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from jax._src import distributed  # jax.process_index() would start the devices

from avmae_jax.errors import HostsError, first_line
from avmae_jax.train.hosts import is_first

_HEARTBEAT = 50  # seconds without a sign of life after which JAX ends the other processes; a busy machine may need some
_ADDRESS = "JAX_COORDINATOR_ADDRESS"
# Variables with the number of processes and the number of this one, by what starts them; JAX itself finds the first one's address.
_LAUNCHERS = (("SLURM_NTASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"))
_GIVEN = (("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"), ("NUM_PROCESSES", "PROCESS_ID"), *_LAUNCHERS, ("", "JOB_COMPLETION_INDEX"))
_LAST = 2  # seconds by which the first process ends after the others: JAX aborts those that are left, with pages of words
_HERALD = "import sys; sys.stdin.read() or sys.stderr.write(sys.argv[1])"


class Place(NamedTuple):
    """Says where this process stands among those of the run; None: JAX finds it out."""

    address: str | None = None  # HOST:PORT at which the first process waits for the others
    processes: int | None = None
    number: int | None = None


def find(environment: Mapping[str, str]) -> Place | None:
    """Finds out from environment variables which processes train together; None: this one alone.

    Raises:
      HostsError: naming a variable that is missing or can't be used.
    """
    address = environment.get(_ADDRESS)
    if address is not None or "JAX_NUM_PROCESSES" in environment or "JAX_PROCESS_ID" in environment:
        count, index = (_number(environment, [pair[which] for pair in _GIVEN]) for which in (0, 1))
        for value, names in ((count, "JAX_NUM_PROCESSES"), (index, "JAX_PROCESS_ID")):
            if value is None:
                raise HostsError(
                    f"variables name other processes, and {names} isn't set; set it, {_ADDRESS} and the others, or --hosts=off"
                )
        if address is not None and not re.fullmatch(r".+:\d+", address):
            raise HostsError(f"{_ADDRESS} is {address!r}; give HOST:PORT of the first process")
        place = Place(address, count, index)
    elif "SLURM_STEP_NODELIST" in environment and _number(environment, ["SLURM_STEP_NUM_TASKS"]) != 1:
        place = Place(None, *(_number(environment, [name]) for name in _LAUNCHERS[0]))
    elif "OMPI_COMM_WORLD_SIZE" in environment:
        place = Place(None, *(_number(environment, [name]) for name in _LAUNCHERS[1]))
    elif "JOB_COMPLETION_INDEX" in environment and "KUBERNETES_SERVICE_HOST" in environment:
        return _of_kubernetes()
    else:
        return None
    if place.processes is not None and place.number is not None and not 0 <= place.number < place.processes:
        raise HostsError(f"by environment variables this is process {place.number} of {place.processes}; numbers begin with 0")
    return None if place.processes == 1 else place


def join(timeout: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Joins the other processes that train, before anything is computed; returns False if this process is alone.

    If they don't all come within `timeout` seconds, this process ends with a sentence: JAX can't be interrupted while it waits.

    Raises:
      HostsError: if environment variables, or what JAX finds in them, can't be used.
    """
    place = find(environment)
    if place is None:
        return False
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which train/stopping.py handles
    if jax.config.jax_cpu_collectives_implementation is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    who = "this process" if place.number is None else f"process {place.number} of {place.processes}"
    late = (
        f"{who} has waited {timeout} s for the others at {place.address or 'the address of the first one'}: start them all, check that "
        "they reach each other, wait longer with --hosts_timeout=SECONDS, or train in one process alone with --hosts=off\n"
    )
    timer = threading.Timer(timeout, lambda: (os.write(2, late.encode()), os._exit(1)))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            place.address,
            place.processes,
            place.number,
            initialization_timeout=timeout + 60,  # JAX's own end of the wait is pages long
            local_device_ids=_local_gpus(environment),
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        raise HostsError(f"{who} can't join the others: {first_line(error)}; set {_ADDRESS} to HOST:PORT of the first process") from error
    finally:
        timer.cancel()
    if owns_devices(environment):
        jax.config.update("jax_cuda_visible_devices", "all")
    _start_herald()
    return True


def leave(status: int) -> None:
    """Ends this process without waiting for the others, which could wait for it forever; they notice that it is gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    release()
    if is_first():
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)  # since JAX may abort this process while it waits
        time.sleep(_LAST)
    os._exit(status)


def release() -> None:
    """Lets this process end without the sentence that it was ended."""
    while _herald:
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            _herald.pop().communicate(b".", timeout=_LAST)


def _number(environment: Mapping[str, str], names: list[str]) -> int | None:
    """Returns the number in the first of some variables that is set."""
    for name in names:
        if (text := environment.get(name)) is not None:
            if not text.isdecimal():
                raise HostsError(f"{name} is {text!r}; it must be a whole number")
            return int(text)
    return None


def _of_kubernetes() -> Place:
    try:
        import kubernetes  # noqa: F401 # pyright: ignore[reportMissingImports] - JAX asks it for the job, if it is there
    except ImportError as error:
        raise HostsError(
            f"this pod has a JOB_COMPLETION_INDEX; set {_ADDRESS}=JOB-0.SERVICE:PORT and JAX_NUM_PROCESSES to train in all pods, "
            "or --hosts=off to train in each by itself"
        ) from error
    return Place()


def owns_devices(environment: Mapping[str, str]) -> bool:
    """Returns whether all visible GPUs are this process's own: JAX takes the one with the process's number on its host otherwise."""
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return False
    bound = len([name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]) == 1
    tasks, nodes = environment.get("SLURM_STEP_NUM_TASKS"), environment.get("SLURM_STEP_NUM_NODES")
    return bound or (tasks is not None and tasks == nodes) or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def _local_gpus(environment: Mapping[str, str]) -> list[int] | None:
    """Returns the GPU of a process that mpirun started beside others, which JAX finds only up to OpenMPI 4; None: JAX decides."""
    rank = environment.get("OMPI_COMM_WORLD_LOCAL_RANK", "")
    if "JAX_LOCAL_DEVICE_IDS" in environment or owns_devices(environment) or not rank.isdecimal():
        return None
    return [int(rank)]


_herald: list[subprocess.Popen[bytes]] = []


def _start_herald() -> None:
    """Starts a child that says a sentence if this process ends without a word: JAX aborts it when the first process is gone.

    It asks JAX for no device, since train.deterministic sets flags that JAX reads when it starts them.
    """
    place = distributed.global_state
    text = (
        f"process {place.process_id} of {place.num_processes} on {socket.gethostname()} was ended: it was killed, or another process of "
        "the run is gone. Nothing up to the newest checkpoint is lost: the same command in every process resumes there\n"
    )
    _herald.append(subprocess.Popen([sys.executable, "-S", "-c", _HERALD, text], stdin=subprocess.PIPE, start_new_session=True))  # noqa: S603
