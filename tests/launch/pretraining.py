"""Runs `python -m launch.pretrain` for tests, also with a signal or a full disk at a given step."""

import textwrap
from pathlib import Path
from typing import Any

from tests.support import TINY, Program, as_arguments

STEPS = 12


RUN = TINY | {"train.steps": STEPS, "train.eval_every": 4, "train.checkpoint_every": 3, "train.picture_every": 100}


# Runs the command with something happening to it at the step `when`: a signal as soon as its losses are written, "fill disk" before its
# checkpoint is written, "kill saving" while it is.
DISTURBED = """
    import os, pathlib, resource, runpy, signal, sys
    from avmae_jax.checkpoint.manager import Checkpoints
    from avmae_jax.train.logbook import Logbook

    what, when = sys.argv[1], int(sys.argv[2])
    if what.startswith("Ctrl-C"):
        os.setsid()
    write, save = Logbook.write, Checkpoints.save

    def disturbed_write(self, step, split, values):
        write(self, step, split, values)
        if step == when and split == "train" and what in ("SIGKILL", "SIGTERM"):
            os.kill(os.getpid(), getattr(signal, what))
        if step == when and split == "train" and what.startswith("Ctrl-C"):
            for _ in range(1 + what.endswith("twice")):
                os.killpg(0, signal.SIGINT)  # as a terminal sends it: the reader processes get it too

    def disturbed_save(self, step, **items):
        if step == when and what == "fill disk":
            self.wait()
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit raises, as it does on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        save(self, step, **items)
        if step == when and what == "kill saving":
            while not list(self.directory.glob(f"{step}*")):
                pass
            os.kill(os.getpid(), signal.SIGKILL)

    Logbook.write, Checkpoints.save = disturbed_write, disturbed_save
    sys.argv = ["launch.pretrain", *sys.argv[3:]]
    runpy.run_module("launch.pretrain", run_name="__main__", alter_sys=True)
"""


class Command:
    """Runs `python -m launch.pretrain` with the settings RUN in a folder."""

    def __init__(self, program: Program, cache_dir: Path):
        self._program, self._cache_dir = program, cache_dir

    def arguments(self, workdir: Path, changes: dict[str, Any] | None = None) -> list[str]:
        places = {"train.workdir": workdir, "data.cache_dir": self._cache_dir}
        given = RUN | places | (changes or {})
        if given.get("data.source", "builtin") != "builtin":  # then the fields of the built-in set are refused
            given = {name: value for name, value in given.items() if not name.startswith(("data.builtin_", "data.cache_dir"))}
        return ["--config", "configs/tiny.py", *as_arguments(given)]

    def __call__(self, workdir: Path, *, devices: int = 1, **changes: Any) -> Any:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return self._program("-m", "launch.pretrain", *self.arguments(workdir, named), devices=devices)

    def disturbed(self, workdir: Path, what: str, when: int, **changes: Any) -> Any:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return self._program("-c", textwrap.dedent(DISTURBED), what, when, *self.arguments(workdir, named))


def steps(workdir: Path) -> list[int]:
    """Lists the steps that have a complete checkpoint."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())


def assert_one_message(done: Any, *parts: str) -> None:
    """Asserts that a program failed with one message that has these parts, and no traceback."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr
