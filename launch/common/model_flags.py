"""What the programs that apply a trained model have in common: opening it, and the clips that it is applied to."""

import json
from pathlib import Path

from absl import flags

from avmae_jax.config import Config, DataConfig, with_defaults
from avmae_jax.data.clip import ClipSource
from avmae_jax.data.sources import open_source
from avmae_jax.data.store.records import Needs
from avmae_jax.errors import CheckpointError, ClipError, CorruptRecordError, DatasetError
from avmae_jax.weights.trained import Trained, load_trained

USER_ERRORS = (CheckpointError, DatasetError, ClipError, CorruptRecordError, ValueError, OSError)  # told in one line
_RUN_DEPTH = 2  # a run's checkpoints/<step> is so many folders below it


def define_model_flags() -> None:
    """Flags that say more of a model's file than the file itself."""
    flags.DEFINE_string("labels_csv", "", "names of the classes (index,mid,display_name), where the model's file has none")
    flags.DEFINE_integer("heads", 0, "of the encoder, for a .pth; 0: those of the published model of its width", lower_bound=0)
    flags.DEFINE_integer("decoder_heads", 0, "likewise, of the decoder", lower_bound=0)


def define_data_flags() -> None:
    """Flags that choose clips."""
    flags.DEFINE_string("data", "", "folder written by launch.prepare; empty: the data of the model's run")
    flags.DEFINE_enum("split", "test", ["train", "test"], "which clips of it")


def load(path: str) -> Trained:
    """The model at a path, by define_model_flags'; raises as load_trained does."""
    given = flags.FLAGS
    return load_trained(path, labels_csv=given.labels_csv, heads=given.heads, decoder_heads=given.decoder_heads)


def open_clips(model_path: str, needs: Needs) -> ClipSource:
    """The clips of define_data_flags'.

    Raises:
      DatasetError: if no data are named, or they can't be opened or hold no such clip.
    """
    given = flags.FLAGS
    data = DataConfig(source="prepared", path=given.data) if given.data else run_config(model_path).data
    source = open_source(data, given.split, needs)
    if not len(source):
        raise DatasetError(f"{given.data or data.path}: no clip of its split {given.split} has what is needed ({needs})")
    return source


def data_name(model_path: str) -> str:
    """Where open_clips finds its clips, for a person and for notes; raises DatasetError if nothing says it."""
    if flags.FLAGS.data:
        return flags.FLAGS.data
    data = run_config(model_path).data
    if data.source == "builtin":
        return "the built-in set"
    return data.eval_path if data.source == "manifest" and flags.FLAGS.split == "test" else data.path


def run_folder(model_path: str) -> Path | None:
    """The folder of the run that a model lies in, which has its config.json; None if it lies in none."""
    path = Path(model_path).expanduser().absolute()
    return next((folder for folder in (path, *path.parents[:_RUN_DEPTH]) if (folder / "config.json").is_file()), None)


def run_config(model_path: str) -> Config:
    """The config of the run that a model lies in.

    Raises:
      DatasetError: if it lies in none, or that is no config.
    """
    folder = run_folder(model_path)
    if folder is None:
        raise DatasetError(f"{model_path} lies in no run, whose data could be taken; give --data, a folder written by launch.prepare")
    note = folder / "config.json"
    try:
        saved = with_defaults(json.loads(note.read_text(encoding="utf-8")))
        groups = {name: type(getattr(Config(), name))(**value) for name, value in saved.items() if isinstance(value, dict)}
        return Config(**{**saved, **groups})
    except (ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"{note} is no config of a run ({error})") from error
