"""A trained model with all that whoever applies it must know."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from avmae_jax.config import Config
from avmae_jax.data.catalog.labels import read_labels
from avmae_jax.errors import WeightsError
from avmae_jax.weights import io
from avmae_jax.weights.build import Model


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What load_trained found; like itself alone, so that compiled functions can be kept by it."""

    path: str
    model: Model
    config: Config  # of the model, and what notes.Notes has
    classes: int  # C; 0: a pretraining model
    label_names: tuple[str, ...]  # C names; "class 0", ... where nobody noted them
    step: int | None = None  # of the checkpoint, where it is one of a run


def load_trained(path: str | Path, *, labels_csv: str | Path = "", audio_frames: int | None = None, **sizes: int) -> Trained:
    """A model with the weights of a file or a run, ready to be applied.

    Args:
      path: a run's folder, its best/ or averaged/, one step of it; .pth, .pt, .bin or .safetensors; see weights.read.
      labels_csv: names of a classifier's classes, with the columns index,mid,display_name, in place of those noted in the file.
      audio_frames: T; see load_pretrained.
      **sizes: heads, decoder_heads, mel_bins; see weights.read.

    Raises:
      WeightsError: see weights.read; or if the names are of another number of classes.
      DatasetError: if the names can't be read.
    """
    found = io.read(path, audio_frames=audio_frames, **sizes)
    names: Sequence[str] = found.notes.label_names
    if labels_csv:
        names = read_labels(Path(labels_csv).expanduser())[1]
        if len(names) != found.classes:
            raise WeightsError(f"{path} has {found.classes} classes and {labels_csv} names {len(names)}; give the list it was tuned on")
    names = names or [f"class {number}" for number in range(found.classes)]
    return Trained(str(path), io.made(found), found.notes.config(found.config), found.classes, tuple(names), found.step)
