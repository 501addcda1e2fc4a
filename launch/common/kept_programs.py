"""Keeps compiled programs in a folder, so that a program that is started again, or a run that is resumed, needn't compile."""

import glob
import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from absl import logging

_FOLDER = Path("~/.cache/avmae_jax/programs")
_PLACE = "JAX_COMPILATION_CACHE_DIR"
_KEEP_ALL = {  # JAX's variables; those that the user has set count
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
}
_FAILED = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.+)': (.*)", re.DOTALL)


def cache_programs() -> None:
    """Lets JAX keep compiled programs in ~/.cache/avmae_jax/programs, or in $JAX_COMPILATION_CACHE_DIR; logs if it can't."""
    import jax

    if _PLACE not in os.environ:
        try:
            folder = _FOLDER.expanduser()
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
            logging.warning("compiled programs are not kept: %s; set %s to a folder of your own", error, _PLACE)
            return
        jax.config.update(_PLACE.lower(), str(folder))
    for name, value in _KEEP_ALL.items():
        if name not in os.environ:
            jax.config.update(name.lower(), value)
    explain_failures()


def explain_failures() -> None:
    """Turns JAX's warnings of the folder into a line, and removes what can't be read.

    A process that is killed while it writes leaves a part of a program, which JAX would never replace.
    """
    import jax

    show, said = warnings.showwarning, set[str]()

    def explain(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
    ) -> None:
        failed = _FAILED.match(str(message))
        folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
        if failed is None or not folder:
            show(message, category, filename, lineno, file, line)
            return
        what, name, reason = failed.groups()
        for path in Path(folder).glob(f"{glob.escape(name)}-{'[0-9a-f]' * 64}-cache"):
            with suppress(OSError):
                path.unlink()
        if what not in said:
            words = {"reading": "can't be read from %s and are compiled anew", "writing": "can't be kept in %s"}
            logging.warning(f"compiled programs {words[what]}: %s", folder, reason.splitlines()[0][:300])
        said.add(what)

    warnings.showwarning = explain
