"""Finds the models that a user names: in the box, on this machine, or on a hub. Imports nothing heavy, since every program needs it."""

import contextlib
import os
import re
from pathlib import Path

from avmae_jax.data.text_files import read_json
from avmae_jax.errors import DatasetError, WeightsError
from avmae_jax.weights import box, hub

LIBRARY = "avmae-jax"  # library_name of the folders that are written here
TENSORS, CONFIG, CARD = hub.FILES
_ID = re.compile(r"(?P<id>[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?")
_OF_FILES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", ".npz", ".json")  # suffixes that no name of a model has


def located(path: str | Path, *, revision: str = "", cache_dir: str | Path = "", local_files_only: bool = False) -> Path:
    """Returns the place on this machine of a model that a user names.

    Args:
      path: the name of a model in the box; a path, `./NAME` where that would be one of these names; or what `is_id` takes for the id of a
        model on a hub, which is fetched.
      revision: of the model on a hub, a branch, a tag or a commit; as in "owner/name@revision".
      cache_dir: where fetched models are kept; "": as huggingface_hub does.
      local_files_only: take a model of a hub from there alone.

    Raises:
      WeightsError: if the model can't be fetched, or options of a hub are given for a model that is on none.
    """
    found = _ID.fullmatch(str(path)) if is_id(path) or (revision and not _exists(path)) else None
    if found:
        if revision and found["revision"] not in (None, revision):
            raise WeightsError(f"{path}: names the revision {found['revision']}, and revision is {revision}; leave one of them out")
        return hub.fetch(found["id"], revision or found["revision"] or "", cache_dir, local_files_only=local_files_only)
    if named := [
        name for name, value in (("revision", revision), ("cache_dir", cache_dir), ("local_files_only", local_files_only)) if value
    ]:
        raise WeightsError(f"{path}: is no model of a hub, for which alone there is {', '.join(named)}; leave it out")
    return box.located(path)


def is_id(path: str | Path) -> bool:
    """Returns whether this is the id of a model on a hub, "owner/name" or "owner/name@revision", and no path.

    What exists on this machine is a path, and so is a name inside a folder that exists, which is more likely misspelt: `runs/tiyn` is not
    asked for on the internet. With a revision it is an id.
    """
    found = _ID.fullmatch(str(path))
    if not found or _exists(path) or str(path).lower().endswith(_OF_FILES):
        return False
    return found["revision"] is not None or not Path(found["id"]).parent.is_dir()


def is_pretrained(path: Path) -> bool:
    """Returns whether a path is a folder of save_pretrained, or was one before files were lost."""
    if not path.is_dir() or (path / "checkpoints").is_dir():
        return False
    if os.path.lexists(path / TENSORS):
        return True
    with contextlib.suppress(DatasetError):
        content = read_json(path / CONFIG)
        return isinstance(content, dict) and "library_name" in content
    return False


def name_of(path: str | Path) -> str:
    """Returns the last part of a model's path or id, for names of files about it."""
    return Path(str(path).partition("@")[0] if is_id(path) else path).name


def results_folder(path: str | Path, name: str) -> Path:
    """Returns the folder for a program's results: `name` in a model's folder, FILE_`name` beside its file, else MODEL_`name` here."""
    place = Path(path).expanduser()
    if box.is_boxed(path) or is_id(path):
        return Path(f"{name_of(path)}_{name}")
    return place.with_name(f"{place.name}_{name}") if place.is_file() else place / name


def _exists(path: str | Path) -> bool:
    return os.path.lexists(Path(path).expanduser())
