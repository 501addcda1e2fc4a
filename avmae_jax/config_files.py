"""Loads config files: any Python file with a `get_config()`, or a recipe that is shipped with the package.

    from avmae_jax.config_files import shipped

    def get_config():
        config = shipped("tiny")
        config.train.batch_size = 32
        return config

Recipes are loaded by their path, so a config file can build on one wherever it lies, in a folder called `configs` too.
"""

import difflib
import importlib.util
import traceback
from pathlib import Path

from avmae_jax.config import Config
from avmae_jax.errors import ConfigError

_INSTALLED, _CLONE = Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _CLONE  # of the shipped recipes


def shipped_names() -> list[str]:
    """Returns the names of the shipped recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def shipped(name: str) -> Config:
    """Returns a new config of a shipped recipe, such as "tiny"; raises ConfigError, with the nearest names, if there is none."""
    names = shipped_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, cutoff=0.5)
        hint = f"nearest: {', '.join(near)}" if near else f"recipes: {', '.join(names)}"
        raise ConfigError(f"{name!r} is no shipped recipe; {hint}. Give a config file of your own by its path")
    return _from_file(FOLDER / f"{name}.py")


def load(path_or_name: str) -> Config:
    """Returns the config of a file, given by its path, or of a shipped recipe, given by its name.

    Raises:
      ConfigError: naming the file, and the line where there is one, if it is missing, can't be executed, or returns no Config.
    """
    path = Path(path_or_name).expanduser()
    if path.suffix == ".py" or len(path.parts) > 1 or (path.is_file() and path_or_name not in shipped_names()):
        return _from_file(path)
    return shipped(path_or_name)


def _from_file(path: Path) -> Config:
    if not path.is_file():
        hint = f"; the shipped recipe is given as {path.stem}" if path.stem in shipped_names() else ""
        raise ConfigError(f"{path}: there is no such config file{hint}")
    spec = importlib.util.spec_from_file_location(f"avmae_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: a config file must be a Python file, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise ConfigError("the file has no function get_config(), which must return a Config")
        config = get_config()
    except _LocatedError:
        raise
    except Exception as error:  # a config file is code of the user's, which may raise anything
        raise _LocatedError(f"{_place(path, error)}: {_words(error)}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: get_config() returned {type(config).__name__}; it must return an avmae_jax.config.Config")
    return config


class _LocatedError(ConfigError):
    """Marks an error that names its file and line already, so that config files that build on that file don't add theirs."""


def _place(path: Path, error: Exception) -> str:
    """Returns "FILE:LINE" of what raised an error in a config file, or "FILE" if no line of it did."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _words(error: Exception) -> str:
    """Returns the first line of an error, with its type where that says more than ConfigError."""
    message = error.msg if isinstance(error, SyntaxError) else (str(error).splitlines() or [""])[0]
    return message if isinstance(error, ConfigError) else f"{type(error).__name__}: {message}"
