"""Fetches pretrained folders from a hub and puts them there, by huggingface_hub, the extra `hub`.

Its own environment holds: HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE. No other file of a repository is fetched than FILES, and
none of them is executed.
"""

import importlib
from pathlib import Path
from typing import Any

from absl import logging

from avmae_jax.errors import WeightsError, WriteError, first_line
from avmae_jax.files import full_disk

FILES = ("model.safetensors", "config.json", "README.md")
INSTALL = 'pip install -e ".[hub]"'  # in a clone
_LOGIN = "set HF_TOKEN, or run `hf auth login`"


def fetch(model: str, revision: str = "", cache_dir: str | Path = "", *, local_files_only: bool = False) -> Path:
    """Returns the folder of a model in the cache, after fetching what is new of it.

    Without a connection the folder that was fetched last is used, as huggingface_hub does.

    Args:
      model: "owner/name".
      revision: a branch, a tag or a commit; "": the main branch.
      cache_dir: "": huggingface_hub's own.
      local_files_only: ask nobody, as with HF_HUB_OFFLINE=1.

    Raises:
      WeightsError: in one line, if huggingface_hub isn't installed, or the model can't be had or is none of this project.
      WriteError: if the disk is full.
    """
    said = f"{model} is no file or folder here; it is taken for the id of a model on a hub"
    library = _library(said, ", or mend the path")
    options: dict[str, Any] = {"revision": revision or None, "local_files_only": local_files_only, "allow_patterns": list(FILES)}
    options["cache_dir"] = str(Path(cache_dir).expanduser()) if cache_dir else None
    try:
        folder = Path(library.snapshot_download(model, library_name="avmae-jax", **options))
    except Exception as error:  # its HTTP client's errors have no parent that all versions share
        if reason := full_disk(error):
            raise WriteError(*reason, str(cache_dir or library.constants.HF_HUB_CACHE)) from error
        raise WeightsError(f"{said}, but {_not_fetched(library, error, revision, local_files_only)}") from error
    missing = [name for name in FILES[:2] if not (folder / name).is_file()]
    if missing:
        where = "what is kept of it here" if local_files_only or library.constants.HF_HUB_OFFLINE else "it"
        raise WeightsError(f"{model}: {where} has no {' and no '.join(missing)}; models that save_pretrained has written can be loaded so")
    logging.info("%s: %s", model, folder)
    return folder


def push(folder: Path, model: str, *, private: bool | None, branch: str, message: str) -> str:
    """Puts the files of a pretrained folder into a repository, which is created if there is none; returns the address of the commit.

    Raises:
      WeightsError: in one line, if huggingface_hub isn't installed, or the hub refuses.
    """
    library = _library(f"{model} shall be written to a hub")
    try:
        api = library.HfApi(library_name="avmae-jax")
        api.create_repo(model, private=private, exist_ok=True)
        if branch:
            api.create_branch(model, branch=branch, exist_ok=True)
        options = {"allow_patterns": list(FILES), "commit_message": message, "revision": branch or None}
        return str(api.upload_folder(repo_id=model, folder_path=str(folder), **options).commit_url)
    except Exception as error:  # as in fetch
        raise WeightsError(f"{model} can't be written to the hub: {_not_pushed(library, error)}") from error


def _library(said: str, instead: str = "") -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise WeightsError(f"{said}, for which huggingface_hub isn't installed: {INSTALL}{instead}") from error


def _not_pushed(library: Any, error: Exception) -> str:
    """Says why a model can't be put on a hub, and what to do."""
    errors, address = library.errors, library.constants.ENDPOINT
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids it; unset it"
    if isinstance(error, errors.HFValidationError):
        return f"it can't be an id ({first_line(error)}); give owner/name"
    if not isinstance(error, errors.HfHubHTTPError):
        return f"{address} gave no answer ({first_line(error)}); mend the network or HF_ENDPOINT, or try again later"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{address} takes it only with a token that may write there (HTTP {status}); {_LOGIN}"
    return f"{address} refuses it (HTTP {status}: {' '.join(str(error).split())[:300]}); mend that, or try again later"


def _not_fetched(library: Any, error: Exception, revision: str, local_files_only: bool) -> str:
    """Says why a model can't be had, and what to do."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    errors, address = library.errors, library.constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return f"{address} gives it only to those who have accepted its terms; accept them there, and {_LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{address} has none of this id, or keeps it private; mend the id or the path, or {_LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{address} has no revision {revision} of it; give another"
    if isinstance(error, errors.HFValidationError):
        return f"it can't be one ({first_line(error)}); mend it"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if local_files_only or library.constants.HF_HUB_OFFLINE:
            forbids = "local_files_only" if local_files_only else "HF_HUB_OFFLINE"
            return f"it isn't in the cache, and {forbids} forbids to fetch it; allow that, or mend the path"
        return f"it isn't in the cache, and {address} can't be reached ({first_line(cause)}); mend the path or the network"
    return f"{address} didn't give it ({first_line(error)}); try again later, or mend the id"
