"""Opens a trained model and the clips that it is applied to, by the options that the programs share."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from avmae_jax import config_files
from avmae_jax.config import Config, DataConfig, ModelConfig, Size
from avmae_jax.config_history import config_from_dict, is_config
from avmae_jax.data.text_files import read_json
from avmae_jax.errors import AvmaeError, DatasetError
from avmae_jax.files import full_disk
from avmae_jax.weights import box, places

from .unused import unused_fields

if TYPE_CHECKING:
    from avmae_jax.data.clip import ClipSource
    from avmae_jax.data.store.records import Needs
    from avmae_jax.weights.trained import About, Trained

USER_ERRORS = (AvmaeError, ValueError, OSError)  # reported in one line
GIVEN = ("both", "audio", "image", "multimodal", "audioonly", "videoonly", "missingaudioonly", "missingvideoonly")
# For a folder of one's own: of a small model, of the published base, and of a model of pairs.
_RECIPES = ("finetune_instruments", "finetune_pretrained", "finetune_sync")
_RUN_DEPTH = 2  # a run's checkpoints/<step> lies this many folders below it


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line for a USER_ERRORS of the block."""
    try:
        yield
    except USER_ERRORS as error:
        if isinstance(error, BrokenPipeError) or (full_disk(error) and not isinstance(error, AvmaeError)):
            raise  # cli.run has words for it
        sys.exit(f"{type(error).__name__}: {error}")


def define_model_flags(*, classes: bool = True) -> None:
    """Defines options for what a model's file doesn't contain; `classes` says whether the program names them."""
    if classes:
        define_class_flags()
    text = "of matrix products: float32 gives the same answers everywhere; auto is bfloat16 where GPU or TPU has it, several times faster"
    flags.DEFINE_enum("compute_dtype", "float32", ["float32", "bfloat16", "auto"], text)
    flags.DEFINE_integer("heads", 0, "encoder heads of a .pth; 0: those of the published model of its width", lower_bound=0)
    flags.DEFINE_integer("decoder_heads", 0, "decoder heads of a .pth; 0: those of the published model of its width", lower_bound=0)


def define_class_flags() -> None:
    """Defines options for what a .pth doesn't contain of a classifier."""
    flags.DEFINE_string("labels_csv", "", "CSV with the names of the classes (index,mid,display_name), if the model's file has none")
    text = "loss that a .pth was tuned with: bce, several classes a clip, as AudioSet's and if left out; ce, exactly one, as VGGSound's"
    flags.DEFINE_enum("tuned_loss", None, ["bce", "ce"], text)
    text = "inputs that a .pth was tuned with; multimodal if left out"
    flags.DEFINE_enum("tuned_mode", None, ["multimodal", "audioonly", "videoonly"], text)


def about_classes() -> About:
    """Returns the values of define_class_flags; nothing is said in a program without them."""
    from avmae_jax.weights.trained import About

    return About(*(flags.FLAGS[name].value or "" for name in About._fields if name in flags.FLAGS))


def define_data_flags() -> None:
    """Defines options that choose clips."""
    flags.DEFINE_string("data", "", "folder written by launch.prepare; empty: the data of the model's run")
    flags.DEFINE_enum("split", "test", ["train", "test"], "clips of that data set")


def load(path: str, *, calibrated: bool = True) -> Trained:
    """Loads the model at a path, by the options of define_model_flags; raises what load_trained raises."""
    from avmae_jax.weights.trained import load_trained, load_uncalibrated

    read, given = load_trained if calibrated else load_uncalibrated, flags.FLAGS
    sizes = {"heads": given.heads, "decoder_heads": given.decoder_heads}
    return read(path, about=about_classes(), compute_dtype=given.compute_dtype, **sizes)


def open_clips(model_path: str, needs: Needs) -> ClipSource:
    """Opens the clips of define_data_flags, or those of the model's run.

    Raises:
      DatasetError: if no data set is named, or it can't be opened or has no clip with what is needed.
    """
    from avmae_jax.data.sources import open_source

    given = flags.FLAGS
    data = DataConfig(source="prepared", path=given.data) if given.data else run_config(model_path).data
    source = open_source(data, given.split, needs)
    if not len(source):
        raise DatasetError(f"{given.data or data.path}: no clip of its split {given.split} has what is needed ({needs})")
    return source


def data_name(model_path: str) -> str:
    """Names the data set that open_clips opens; raises DatasetError if none is given and the model lies in no run."""
    if flags.FLAGS.data:
        return flags.FLAGS.data
    data = run_config(model_path).data
    if data.source == "builtin":
        return "the built-in set"
    return data.eval_path if data.source == "manifest" and flags.FLAGS.split == "test" else data.path


def finetune_command(path: str, model: ModelConfig) -> str:
    """Returns a command that fine-tunes the model at a path, whose sizes are `model`, on the data of its run if it lies in one."""
    from avmae_jax.models.registry import kind_of

    recipes = {name: config_files.shipped(name) for name in _RECIPES}
    alike = {name: recipe for name, recipe in recipes.items() if kind_of(recipe.model).pairs == kind_of(model).pairs}
    options = {name: _changes(recipe, path, model) for name, recipe in alike.items()}
    nearest = min(options, key=lambda name: len(options[name]))
    return shlex.join(["python", "-m", "launch.finetune", "--config", nearest, *options[nearest]])


def _changes(recipe: Config, path: str, model: ModelConfig) -> list[str]:
    """Lists the options with which a recipe fine-tunes the model at a path."""
    from avmae_jax.models.registry import kind_of

    changed: dict[str, Any] = {"init_from": path, "train.workdir": f"{_beside(path)}_finetuned"}
    kept = {"kind", "compute_dtype", *kind_of(recipe.model).head}  # what the recipe says of the classifier and of the devices
    sized = dataclasses.replace(recipe.model, size=model.size)
    for field in dataclasses.fields(model):
        name, holders = field.name, (model.shape, sized.shape) if field.name in Size._fields else (model, recipe.model)
        own, given = (getattr(holder, name) for holder in holders)
        if name not in kept and own != given:
            changed[f"model.{name}"] = own
    if run_folder(path):
        own_data = run_config(path).data
        changed |= {f"data.{name}": value for name, value in vars(own_data).items() if value != getattr(recipe.data, name)}
    elif "data.path" in recipe.requires:
        changed["data.path"] = "prepared"
    for name, value in changed.items():
        setattr(recipe.holder(name), name.rpartition(".")[2], value)
    idle = {name for name, _ in unused_fields("finetune", recipe, changed)}
    return [f"--config.{name}={value}" for name, value in changed.items() if name not in idle]


def _beside(path: str) -> str:
    """Returns the path of a model, beside which something can be written; for one on a hub its name, which is here."""
    return places.name_of(path) if places.is_id(path) else path.rstrip("/")


def run_folder(model_path: str) -> Path | None:
    """Returns the folder of the run that a model lies in, the one with config.json; None if it lies in none."""
    if box.is_boxed(model_path) or places.is_id(model_path):
        return None
    path = Path(model_path).expanduser().absolute()
    folders = [folder for folder in (path, *path.parents[:_RUN_DEPTH]) if (folder / "config.json").is_file()]
    return next((folder for folder in folders if not places.is_pretrained(folder)), None)


def run_config(model_path: str) -> Config:
    """Returns the config of the run that a model lies in, with today's defaults for fields that an older run lacks.

    Raises:
      DatasetError: if the model lies in no run, or the run's config.json can't be read or has a field that no longer exists.
    """
    folder = run_folder(model_path)
    if folder is None:
        raise DatasetError(f"{model_path} lies in no run, whose data could be taken; give --data, a folder written by launch.prepare")
    note = folder / "config.json"
    try:
        saved = read_json(note)
        if not is_config(saved):
            raise ValueError("it has no model, data or train")
        return config_from_dict(saved)
    except (DatasetError, ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"{note} is no config of a run: {error}") from error
