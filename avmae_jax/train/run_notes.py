"""Writes beside a run what describes it: config.json, environment.json (how and where each start was made), and log.txt."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterator
from logging import ERROR, INFO, WARNING, FileHandler, Formatter, LogRecord, getLogger
from pathlib import Path
from typing import Any

import jax
import psutil
from absl import logging

from avmae_jax.config import Config
from avmae_jax.config_history import is_config
from avmae_jax.files import write_errors, write_json
from avmae_jax.settings import flatten_fields
from avmae_jax.train import hosts

CONFIG_FILE, ENVIRONMENT_FILE, LOG_FILE = "config.json", "environment.json", "log.txt"
RUN_LOG = getLogger("avmae_jax.run")  # for log.txt alone: what a screen shows in other ways, such as a bar
RUN_LOG.propagate = False
RUN_LOG.setLevel(INFO)
_LIBRARIES = ("avmae-jax", "array_record", "flax", "grain", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")


def read_json(path: Path) -> Any:
    """Reads a JSON file; returns None if it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def note_config(workdir: Path, config: Config) -> None:
    """Writes the config with which a run goes on into config.json, and logs every field in which the file said something else.

    The config is the one that the checkpoint has accepted, so that a file that was edited by hand never counts.
    """
    if not hosts.is_first():
        return
    path, now = workdir / CONFIG_FILE, json.loads(json.dumps(dataclasses.asdict(config)))
    before = read_json(path)
    if before == now:
        return
    if not is_config(before):
        logging.warning("%s is no config of a run; the config of its checkpoint is written there again", path)
    else:
        old, new = flatten_fields(before), flatten_fields(now)
        for name in old.keys() & new.keys():
            left_open = old[name] in (None, "auto") or (name == "data.frames" and not old[name])  # and decided when the run began
            if old[name] != new[name] and not left_open:
                logging.warning("%s says %s = %r; the run goes on with %r, which is written there", path, name, old[name], new[name])
        for name in sorted(old.keys() - new.keys()):
            logging.warning("%s says %s = %r, which is no field of a config; it is left out", path, name, old[name])
    write_json(path, now)


def note_start(workdir: Path, step: int) -> None:
    """Appends this start to environment.json: time, command line, versions and machine; `step` is that of the checkpoint, 0 if none."""
    if not hosts.is_first():
        return
    path = workdir / ENVIRONMENT_FILE
    before = read_json(path)
    starts = before.get("starts") if isinstance(before, dict) else None
    if path.exists() and not isinstance(starts, list):
        logging.warning("%s holds no list of starts and is begun again", path)
    devices = jax.devices()
    machine = {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
    }
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    start = {"time": now, "step": step, "command": _command(), "folder": os.getcwd(), "versions": versions(), "machine": machine}  # noqa: PTH109
    write_json(path, {"starts": [*(starts if isinstance(starts, list) else []), start]})


def versions() -> dict[str, str]:
    """Lists the versions of Python and of the libraries that a run depends on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextlib.contextmanager
def log_file(workdir: Path) -> Iterator[None]:
    """Appends to log.txt the command, what is logged in the block, and the error that ends it."""
    with write_errors(workdir):
        handler = _LogFile(workdir / LOG_FILE, encoding="utf-8")
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    handler.addFilter(_ours_or_serious)
    handler.handle(LogRecord(__name__, INFO, __file__, 0, "started: %s", (_command(),), None))
    root = getLogger()  # what absl logs arrives here too
    for logger in (root, RUN_LOG):
        logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        handler.handle(LogRecord(__name__, ERROR, __file__, 0, "ended by %s: %s", (type(error).__name__, error), None))
        raise
    finally:
        for logger in (root, RUN_LOG):
            logger.removeHandler(handler)
        handler.close()


def _command() -> str:
    """Returns the command line that started this process."""
    return shlex.join(sys.orig_argv)


class _LogFile(FileHandler):
    """Drops the lines that a full disk can't take, instead of printing tracebacks; the run's own files report it."""

    def handleError(self, record: LogRecord) -> None:  # noqa: N802 - the name is logging's
        pass


def _ours_or_serious(record: LogRecord) -> bool:
    return record.levelno >= WARNING or "avmae_jax" in Path(record.pathname).parts
