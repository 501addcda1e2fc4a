"""Joins the processes of a run, on one host or several, and holds everything that they say to each other.

Every process runs the same program. All of them take part in every computation that spans their devices, and in every function of this
module that says so; files are written by the first process alone. Alone, every function returns what a single process would use anyway.
"""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from avmae_jax.errors import AvmaeError, HostsError, first_line
from avmae_jax.files import write_bytes
from avmae_jax.settings import flatten_fields

_HEARTBEAT = 30  # seconds without a sign of life after which JAX ends the other processes
_ADDRESS = "JAX_COORDINATOR_ADDRESS"
# Variables with the number of processes and the number of this one, by what starts them; JAX itself finds the first one's address.
_LAUNCHERS = (("SLURM_NTASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"))
_GIVEN = (("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"), ("NUM_PROCESSES", "PROCESS_ID"), *_LAUNCHERS, ("", "JOB_COMPLETION_INDEX"))
# How XLA's errors begin; running out of memory isn't one of these, and concerns this process.
_FAILED = re.compile(r"(UNKNOWN|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|FAILED_PRECONDITION): ")
_LAST = 2  # seconds by which the first process ends after the others: JAX aborts those that are left, with pages of words
_VISIBLE = 30  # seconds that a file may need to be seen on other hosts
_HERALD = "import sys; sys.stdin.read() or sys.stderr.write(sys.argv[1])"


class Place(NamedTuple):
    """Says where this process stands among those of the run; None: JAX finds it out."""

    address: str | None = None  # HOST:PORT at which the first process waits for the others
    count: int | None = None
    index: int | None = None


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
                raise HostsError(f"{_ADDRESS} or one of JAX_NUM_PROCESSES and JAX_PROCESS_ID is set, and {names} isn't; set all three")
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
    if place.count is not None and place.index is not None and not 0 <= place.index < place.count:
        raise HostsError(f"this is process {place.index} of {place.count}, by environment variables; numbers go from 0 to that number less 1")
    return None if place.count == 1 else place


def join(timeout: float, environment: Mapping[str, str] = os.environ) -> bool:
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
    who = "this process" if place.index is None else f"process {place.index} of {place.count}"
    late = (
        f"{who} has waited {timeout:g} s for the others at {place.address or 'the address of the first one'}: start them all, check that "
        "they reach each other, wait longer with --hosts_timeout=SECONDS, or train in one process alone with --hosts=off\n"
    )
    timer = threading.Timer(timeout, lambda: (os.write(2, late.encode()), os._exit(1)))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            place.address,
            place.count,
            place.index,
            initialization_timeout=int(timeout) + 60,  # JAX's own end of the wait is pages long
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        raise HostsError(f"{who} can't join the others: {first_line(error)}; set {_ADDRESS} to HOST:PORT of the first process") from error
    finally:
        timer.cancel()
    if _owns_devices(environment):
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
        time.sleep(_LAST)
    os._exit(status)


def release() -> None:
    """Lets this process end without the sentence that it was ended."""
    while _herald:
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            _herald.pop().communicate(b".", timeout=_LAST)


def is_first() -> bool:
    """Returns whether this process writes the files of the run."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Collects a JSON value from every process, in their order; every process must call it."""
    if jax.process_count() == 1:
        return [value]
    return [json.loads(content) for content in _gather_bytes(json.dumps(value).encode())]


def of_first(value: Any) -> Any:
    """Returns the first process's JSON value; every process must call it, and the others' values don't count."""
    return gather(value)[0]


def gather_rows(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins the rows of every process, in their order; one without rows gives an empty mapping. Every process must call it."""
    if jax.process_count() == 1:
        return dict(rows)
    file = io.BytesIO()
    np.savez(file, **rows)  # pyright: ignore[reportArgumentType] - its other argument is named
    parts = [dict(np.load(io.BytesIO(content))) for content in _gather_bytes(file.getvalue())]
    filled = [part for part in parts if part]
    return {name: np.concatenate([part[name] for part in filled]) for name in (filled[0] if filled else {})}


def share(count: int) -> range:
    """Returns those of `count` clips that this process evaluates."""
    index, processes = jax.process_index(), jax.process_count()
    return range(index * count // processes, (index + 1) * count // processes)


def local(model: nnx.Module) -> Any:
    """Returns a model with whole parameters on this process's own first device, for programs that it runs by itself.

    Every process must call it: parameters that are cut are gathered. A process that is alone gets the model as it is.
    """
    if jax.process_count() == 1:
        return model

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        assert isinstance(leaf.sharding, NamedSharding)
        return jax.device_put(leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec())).addressable_data(0)

    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(whole, state))


def require_same(**values: Any) -> None:
    """Compares JSON values, such as a config, in all processes; every process must call it.

    Raises:
      HostsError: in every process, naming each field that differs, and where.
    """
    own = {name: value for group, given in values.items() for name, value in _named(group, given)}
    all_of = gather({"host": socket.gethostname(), "fields": own})
    first = all_of[0]
    lines = [
        f"{name} is {first['fields'].get(name)!r} in process 0 on {first['host']}, and {other['fields'].get(name)!r} in process {number} "
        f"on {other['host']}"
        for number, other in enumerate(all_of)
        for name in sorted(first["fields"] | other["fields"])
        if first["fields"].get(name) != other["fields"].get(name)
    ]
    if lines:
        raise HostsError("the processes of a run must be alike; start them all with the same command and versions:\n  " + "\n  ".join(lines))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends every process if the block fails in one; every process must enter it, and none may wait for the others in it.

    Raises:
      HostsError: if the block failed in other processes alone.
    """
    problem = ""
    try:
        yield
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise
    finally:
        failed = [(number, found) for number, found in enumerate(gather(problem)) if found]
        if failed and not problem:
            raise HostsError(f"process {failed[0][0]} of {jax.process_count()} can't go on: {failed[0][1]}")


def require_shared(folder: Path) -> None:
    """Raises HostsError, in every process, unless all of them see the same folder; every process must call it."""
    if jax.process_count() == 1:
        return
    file = folder / f".{of_first(uuid.uuid4().hex)}"
    if is_first():
        write_bytes(file, b"")
    gather(None)
    with together():
        begin = time.monotonic()
        while file.name not in os.listdir(folder):  # noqa: PTH208 - which asks a file server again
            if time.monotonic() - begin > _VISIBLE:
                raise HostsError(
                    f"train.workdir {folder} on {socket.gethostname()} isn't the folder that the first process writes; "
                    "give a folder that all hosts share"
                )
            time.sleep(0.5)
    if is_first():
        file.unlink()


@contextlib.contextmanager
def losses_explained() -> Iterator[None]:
    """Turns what JAX raises in the block when another process is gone into a HostsError; alone it does nothing."""
    try:
        yield
    except AvmaeError:
        raise
    except (RuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not _FAILED.match(str(error)):
            raise
        raise HostsError(
            f"another process of this run has ended or can't be reached ({first_line(error)}); its own output says why. "
            "Nothing up to the newest checkpoint is lost: the same command in every process resumes there"
        ) from error


def _named(group: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield group, value
        return
    for name, field in flatten_fields(json.loads(json.dumps(value))).items():
        yield f"{group}.{name}", field


def _gather_bytes(content: bytes) -> list[bytes]:
    lengths = np.ravel(multihost_utils.process_allgather(np.array([len(content)], np.int32)))
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


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
            f"this pod has a JOB_COMPLETION_INDEX; set {_ADDRESS}=JOB-0.SERVICE:PORT and JAX_NUM_PROCESSES to train in all pods of the job, "
            "or --hosts=off to train in each by itself"
        ) from error
    return Place()


def _owns_devices(environment: Mapping[str, str]) -> bool:
    """Returns whether all visible GPUs are this process's own: JAX takes the one with the process's number on its host otherwise."""
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return False
    bound = len([name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]) == 1
    tasks, nodes = environment.get("SLURM_STEP_NUM_TASKS"), environment.get("SLURM_STEP_NUM_NODES")
    return bound or (tasks is not None and tasks == nodes) or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


_herald: list[subprocess.Popen[bytes]] = []


def _start_herald() -> None:
    """Starts a child that says a sentence if this process ends without a word: JAX aborts it when the first process is gone."""
    text = (
        f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()} was ended: it was killed, or another process of "
        "the run is gone. Nothing up to the newest checkpoint is lost: the same command in every process resumes there\n"
    )
    _herald.append(subprocess.Popen([sys.executable, "-S", "-c", _HERALD, text], stdin=subprocess.PIPE, start_new_session=True))  # noqa: S603
