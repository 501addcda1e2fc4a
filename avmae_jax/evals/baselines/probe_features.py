"""Keeps the features of probes in files, so that a frozen encoder computes them once.

A file is an .npz: the arrays of inference/token_features.py with a row for each clip, `id` and `video` (UTF-8), `targets`, and `note`, a
JSON text that says of which model, clips and layer they are. Features of anything else are computed again and replace it.
"""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from avmae_jax.config import DataConfig
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.store.reader import ids_of, labels_of
from avmae_jax.evals.baselines.labelled import Labelled, Row, gathered, require_classes
from avmae_jax.files import OnProgress, replacing
from avmae_jax.inference.attentive import with_mask
from avmae_jax.inference.embed import fingerprint
from avmae_jax.inference.token_features import TOKENS, TokenFeatures

_MOST = 8 * 2**30  # bytes of features that are held in memory
_DAMAGES = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


def stored_features(path: Path, compute: TokenFeatures, source: ClipSource, edition: str, on_progress: OnProgress) -> Labelled:
    """Reads the features of all clips of a source, or computes and stores them.

    Args:
      path: of the .npz.
      compute: of the model.
      source: labelled clips.
      edition: changes with the content of the clips.
      on_progress: is called with the number of clips that are computed, 0, and the number of clips.

    Raises:
      DatasetError: if the clips have no classes.
      ValueError: if a clip lacks what is needed.
      WriteError: if the file can't be written.
    """
    require_classes(source)
    note = _note(compute, source, edition)
    if (found := _read(path, note)) is not None:
        logging.info("the features are those of %s", path)
        return found
    found = computed_features(compute, source, on_progress)
    arrays = {"note": np.array(json.dumps(note)), "targets": found.targets, **found.features}
    arrays |= {"id": np.array([name.encode() for name in found.ids]), "video": np.array([name.encode() for name in found.videos])}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - arrays, whatever their names
    return found


def edition_of(data: DataConfig) -> str:
    """Returns a text that changes when a data set is prepared again or another one is chosen."""
    note = Path(data.path).expanduser() / "metadata.json"
    content = note.read_bytes() if data.source == "prepared" and note.is_file() else b""
    return hashlib.sha256(json.dumps(dataclasses.asdict(data)).encode() + content).hexdigest()


def _note(compute: TokenFeatures, source: ClipSource, edition: str) -> dict[str, Any]:
    labels = [labels_of(source, index) for index in range(len(source))]
    clips = json.dumps([ids_of(source), labels, [*source.label_names], edition])
    digest = hashlib.sha256(clips.encode()).hexdigest()
    return {"fingerprint": fingerprint(compute.trained), "clips": digest, **compute.settings}


def _read(path: Path, note: Mapping[str, Any]) -> Labelled | None:
    """Reads a file of stored_features; None if there is none, it is damaged, or it is of something else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if json.loads(str(arrays["note"])) != note:
                return None
            ids, videos = ([name.decode() for name in arrays[name].tolist()] for name in ("id", "video"))
            features = {name: arrays[name] for name in arrays.files if "." in name}
            return Labelled(ids, videos, arrays["targets"], features)
    except FileNotFoundError:
        return None
    except _DAMAGES as error:
        logging.warning("%s is damaged and is computed again: %s", path, error)
        return None


def computed_features(compute: TokenFeatures, source: ClipSource, on_progress: OnProgress) -> Labelled:
    """Computes the features of all clips of a source."""
    rows: dict[str, Row] = {}
    for number, (clip, arrays) in enumerate(compute(source), start=1):
        if number == 1:
            _require_memory(sum(values.nbytes for values in arrays.values()) * len(source))
        rows.setdefault(clip.id, Row(clip.id, clip.video or clip.id, clip.labels, arrays))  # a damaged clip has the next one in its place
        on_progress(number, 0, len(source))
    names = [name for name in next(iter(rows.values())).features if name.endswith(f".{TOKENS}")]
    tokens = {name: with_mask([row.features[name] for row in rows.values()]) for name in names}
    others = [row._replace(features={name: value for name, value in row.features.items() if name not in names}) for row in rows.values()]
    found = gathered(others, len(source.label_names))
    return dataclasses.replace(found, features=found.features | tokens)


def _require_memory(needed: int) -> None:
    if needed > _MOST:
        sizes = f"{needed / 2**30:.0f} GiB of features, and {_MOST / 2**30:.0f} are allowed"
        raise ValueError(f"the clips have {sizes}; leave the tokens out with --probes=linear,neighbours")
