"""Implements the command `avmae`: runs the programs of launch/ by their names, from any folder.

It imports no library, so that `avmae --help` comes at once; the programs' docstrings are read from their files.
"""

import ast
import difflib
import runpy
import signal
import sys
from pathlib import Path

from avmae_jax import __version__, ctrl_c

_INSTALLED, _CLONE = Path(__file__).parent / "launch", Path(__file__).parents[1] / "launch"
_FOLDER = _INSTALLED if _INSTALLED.is_dir() else _CLONE  # of the programs
_USAGE = "avmae PROGRAM [arguments], avmae PROGRAM --help, avmae --version"


def main() -> None:
    """Runs the program that the first argument names, with the arguments after it."""
    ctrl_c.install()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as `head` may stop before the end
        print(_page())
    elif arguments[0] == "--version":
        print(f"avmae {__version__}")
    else:
        _run(arguments[0], arguments[1:])


def programs() -> dict[str, str]:
    """Returns the first sentence of each program's docstring, by name."""
    files = sorted(path for path in _FOLDER.glob("*.py") if not path.stem.startswith("_"))
    return {path.stem: _first_sentence(path) for path in files}


def _page() -> str:
    known = programs()
    width = max(map(len, known))
    lines = [f"  {name.replace('_', '-'):{width}}  {sentence}" for name, sentence in known.items()]
    return "\n".join([f"usage: {_USAGE}", "", "CAV-MAE in JAX. The programs:", *lines])


def _run(program: str, arguments: list[str]) -> None:
    name = program.replace("-", "_")
    known = programs()
    if name not in known:
        near = difflib.get_close_matches(name, known, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        sys.exit(f"avmae: {program!r} is no program; {hint}")
    sys.argv = [f"avmae {program}", *arguments]
    if _FOLDER == _CLONE:  # also if the clone is installed with -e, and isn't the current folder
        sys.path.insert(0, str(_CLONE.parent))
    package = "launch" if _FOLDER == _CLONE else "avmae_jax.launch"
    runpy.run_module(f"{package}.{name}", run_name="__main__")


def _first_sentence(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0].partition(": `")[0].removesuffix(".")


if __name__ == "__main__":
    main()
