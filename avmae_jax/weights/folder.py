"""Reads and writes pretrained folders: a model with all that applying it takes, as hubs of models keep it.

    model.safetensors  the tensors by their official names, with a checksum and the settings, so that the file can also be read alone
    config.json        the kind and sizes of the model, what notes.py stores, and facts for the card, for people and other programs to read
    README.md          the model card

A folder may come from anybody: no other file in it is opened, nothing is executed, and what config.json says is compared with the tensors
and with what is stored beside them under the checksum. The names of the classes alone may be other ones, in another language, say.
"""

import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from avmae_jax.config import Size
from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.text_files import read_json, shown
from avmae_jax.errors import DatasetError, WeightsError, first_line, some
from avmae_jax.files import write_json, write_text
from avmae_jax.models.registry import KINDS, kind_of
from avmae_jax.settings import flatten_fields
from avmae_jax.weights import named_tensors
from avmae_jax.weights.card import card_of
from avmae_jax.weights.facts import Facts, from_json, require_license, to_json
from avmae_jax.weights.model_weights import Weights
from avmae_jax.weights.notes import from_meta, model_config, to_meta
from avmae_jax.weights.places import CARD, CONFIG, LIBRARY, TENSORS
from avmae_jax.weights.run_facts import facts_of
from avmae_jax.weights.sizes import classes_of
from avmae_jax.weights.tensor_files import SAFETENSORS, TORCH, Tensors, read_file, require_new, save_tensors, write_new

FORMAT = 1  # of config.json; one more where an older version could misread a folder
_GROUPS = {  # of config.json, with the fields that must be there
    "model": ("modality", *Size._fields, "joint_depth", "mlp_ratio", "norm_eps", "audio_frames", "mel_bins", "image_size", "patch"),
    "data": ("audio_mean", "audio_std", "channels", "normalise"),
    "loss": ("norm_pix",),
    "tune": ("mode", "loss"),
    "window": ("seconds", "sample_rate"),
    "versions": (),
}
_OPTIONAL = {"data": ("frames",)}  # fields that may be there: of models of pairs
_TEXTS = ("library_name", "format", "kind", "classes", "label_names")  # the others that must be there
_MAY_LACK = ("calibration", "facts")
_REMEDY = "fetch the folder again, or save the model again"
_LARGEST = 100 * 2**20  # bytes of a config.json


def save(weights: Weights, path: str | Path, source: str | Path, *, name: str = "", license: str = "", half: bool = False) -> None:  # noqa: A002
    """Writes a pretrained folder.

    Args:
      weights: of any kind.
      path: of the new folder.
      source: where the weights were read from. The card tells what a run there says, or what the pretrained folder there knew.
      name: by which the card loads the model; "": that of the folder.
      license: of the weights, as a hub spells it: apache-2.0, cc-by-4.0; "": that of the pretrained folder, or unknown.
      half: store float16, half the size.

    Raises:
      WeightsError: if the path exists or can't be written, or the license is none; nothing is left there then.
      WriteError: if the disk is full or the folder can't be written; nothing is left there then.
    """
    path, weights = Path(path).expanduser(), resolved(weights)
    require_name(path)
    require_new(path)
    facts = facts_of(source, weights.step) if weights.facts is None else weights.facts
    if license:
        facts = facts._replace(license=require_license(license))
    meta, content = to_meta(weights.config, weights.notes), {**config_of(weights), "facts": to_json(facts)}
    card = card_of(weights, from_json(content["facts"]), name or path.name)
    tensors = named_tensors.to_tensors(weights.config, weights.classes, weights.params)

    def write_all(folder: Path) -> None:
        folder.mkdir()
        save_tensors(tensors, folder / TENSORS, json.dumps(meta), half=half)
        write_json(folder / CONFIG, content)
        write_text(folder / CARD, card)

    write_new(path, write_all)


def require_name(path: str | Path) -> None:
    """Raises WeightsError for the name of a file of weights, which a pretrained folder can't have."""
    if str(path).lower().endswith((*TORCH, SAFETENSORS)):
        raise WeightsError(f"{path}: {Path(path).suffix} is the suffix of a file, and a pretrained model is a folder; choose another name")


def read(folder: Path) -> Weights:
    """Reads a pretrained folder.

    Raises:
      WeightsError: in one line, naming the file and the field or tensor, if one of the two files is missing or damaged, or config.json is
        of a newer version, of an unknown kind or of other tensors.
    """
    place = folder / CONFIG
    content = _read_config(place)
    if not (folder / TENSORS).exists():
        raise WeightsError(f"{folder / TENSORS}: is missing; {_REMEDY}")
    tensors, note = read_file(folder / TENSORS)
    try:
        weights = named_tensors.noted(tensors, _meta_of(content, tensors))
        if (window := _window(weights)) != content["window"]:
            raise WeightsError(f"window is {shown(content['window'])}, by its sizes {window}")
        if note:
            _require_same(weights, note)
        weights = weights._replace(facts=from_json(content["facts"]) if "facts" in content else Facts())
    except (RecursionError, OverflowError) as error:
        raise WeightsError(f"{place}: is nested too deep or has a number too large ({first_line(error)}); {_REMEDY}") from error
    except ValueError as error:
        first, *lines = str(error).splitlines()
        raise WeightsError(f"{place}: {first}{' ' + some(map(str.strip, lines)) if lines else ''}; {_REMEDY}") from error
    return weights


def vit_tensors_of(folder: Path) -> Tensors:
    """Reads the official tensors of the folder of an MAE or an AST; {} for a CAV-MAE, which `read` reads. Raises WeightsError as `read`."""
    weights = read(folder)
    if kind_of(weights.config).names != "vit":
        return {}
    return named_tensors.to_tensors(weights.config, weights.classes, weights.params)


def resolved(weights: Weights) -> Weights:
    """Sets the sizes that a config leaves to the row of its size, so that it stands for itself."""
    return weights._replace(config=dataclasses.replace(weights.config, **weights.config.shape._asdict()))


def config_of(weights: Weights) -> dict[str, Any]:
    """Returns the content of config.json."""
    meta = to_meta(weights.config, weights.notes)
    groups = meta["config"]
    versions = {name: importlib.metadata.version(name) for name in ("avmae-jax", "jax", "flax")}
    return {
        "library_name": LIBRARY,
        "format": FORMAT,
        "kind": weights.config.kind,
        "classes": weights.classes,
        **{group: {name: value for name, value in fields.items() if name != "kind"} for group, fields in groups.items()},
        "window": _window(weights),
        "label_names": meta["label_names"],
        "calibration": meta.get("calibration"),
        "versions": versions,
    }


def _window(weights: Weights) -> dict[str, Any]:
    """Describes the audio that the model takes at once; {"seconds": 0} of a model of images alone."""
    audio = "audio" in kind_of(weights.config).inputs(weights.config)
    return {"seconds": weights.config.spectrogram_frames / 100 if audio else 0, "sample_rate": SAMPLE_RATE}


def _read_config(place: Path) -> dict[str, Any]:
    """Reads config.json and checks all that needs no tensors; raises WeightsError."""
    try:
        if place.is_file() and place.stat().st_size > _LARGEST:
            raise WeightsError(f"{place}: has {place.stat().st_size >> 20} MiB, and no model needs so much; {_REMEDY}")
        content = read_json(place)
    except DatasetError as error:
        raise WeightsError(f"{error}; {_REMEDY}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{place}: holds no JSON object; {_REMEDY}")
    if content.get("library_name") != LIBRARY:
        said = f"library_name is {shown(content['library_name'])}" if "library_name" in content else "there is no library_name"
        raise WeightsError(
            f"{place}: {said}, where folders of this project have {LIBRARY}; if the tensors are those of an MAE or an AST of transformers, "
            f"give the file itself, {place.parent / TENSORS}"
        )
    if "export_format" in content:
        raise WeightsError(
            f"{place}: belongs to an export of launch.export, which its run.py applies: python {place.parent / 'run.py'} FILE; "
            "to load the model itself, give the run or the pretrained folder that was exported"
        )
    version, known = content.get("format"), importlib.metadata.version(LIBRARY)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise WeightsError(f"{place}: format is {shown(version)}, and must be a whole number from 1 on; {_REMEDY}")
    if version > FORMAT:
        raise WeightsError(
            f"{place}: format is {version}, of a newer version than {LIBRARY} {known}, which reads up to {FORMAT}; update {LIBRARY}"
        )
    _require_fields(place, content)
    if not isinstance(content["kind"], str) or content["kind"] not in KINDS:
        raise WeightsError(f"{place}: kind is {shown(content['kind'])}, unknown to {LIBRARY} {known}; it knows {', '.join(KINDS)}")
    return content


def _require_fields(place: Path, content: Mapping[str, Any]) -> None:
    """Raises WeightsError for missing and unknown fields and impossible numbers; other fields of the model are checked with it."""
    if wrong := [group for group in _GROUPS if not isinstance(content.get(group, {}), dict)]:
        raise WeightsError(f"{place}: {wrong[0]} is {shown(content[wrong[0]])}, and must be an object; {_REMEDY}")
    wanted = [*_TEXTS, *(f"{group}.{name}" if name else group for group, names in _GROUPS.items() for name in (names or ("",)))]
    there = {*content, *(f"{group}.{name}" for group in _GROUPS for name in content.get(group, {}))}
    if missing := [name for name in wanted if name not in there]:
        raise WeightsError(f"{place}: lacks {some(missing)}; {_REMEDY}")
    unknown = [name for name in content if name not in (*_TEXTS, *_GROUPS, *_MAY_LACK)]
    known = {group: (*_GROUPS[group], *_OPTIONAL.get(group, ())) for group in ("data", "loss", "tune", "window")}
    unknown += [f"{group}.{name}" for group, names in known.items() for name in content[group] if name not in names]
    if unknown:
        raise WeightsError(
            f"{place}: has fields unknown here: {some(unknown)}; remove them, or update {LIBRARY} if it is of a newer version"
        )
    for group in _GROUPS:
        for name, value in content[group].items():
            if isinstance(value, float) and not math.isfinite(value):
                raise WeightsError(f"{place}: {group}.{name} is {value}, and must be finite; {_REMEDY}")


def _meta_of(content: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of config.json as the notes of a file have it; raises WeightsError for a wrong number of classes."""
    if (classes := classes_of(dict(tensors))) != content["classes"] or isinstance(content["classes"], bool):
        heads = [f"{name} {tensor.shape}" for name, tensor in tensors.items() if name.endswith((".1.weight", "classifier.dense.weight"))]
        raise WeightsError(
            f"classes is {shown(content['classes'])}, by its tensors {classes} ({some(head for head in heads if 'mlp_head' in head)})"
        )
    if "kind" in content["model"]:
        raise WeightsError(f"model.kind is {shown(content['model']['kind'])}, which kind alone says")
    groups = {group: content[group] for group in ("model", "data", "loss", "tune")}
    groups["model"] = {**groups["model"], "kind": content["kind"]}
    return {"config": groups, "label_names": content["label_names"], "calibration": content.get("calibration")}


def _require_translated(names: tuple[str, ...], stored: tuple[str, ...]) -> None:
    """Raises ValueError if other names than the stored ones can't be translations: two classes share one, or have changed places."""
    for number, name in enumerate(names):
        if (first := names.index(name)) != number:
            raise WeightsError(f"label_names has {shown(name)} for the classes {first} and {number}; give each class a name of its own")
        if name in stored and stored[number] != name:
            raise WeightsError(
                f"label_names has {shown(name)} for class {number}, and {TENSORS} was saved with it for class {stored.index(name)}; "
                "translate the names in their order"
            )


def _require_same(weights: Weights, note: str) -> None:
    """Compares what config.json says with what model.safetensors stores under its checksum; raises ValueError for all but translated names.

    A file that another program has written stores nothing, and there config.json alone counts.
    """
    try:
        stored = json.loads(note)
        stored = stored if isinstance(stored, dict) else {}
        config, notes = model_config(stored, classifies=weights.classes > 0), from_meta(stored, weights.classes)
    except (ValueError, RecursionError, OverflowError) as error:
        raise WeightsError(f"what {TENSORS} stores beside the tensors can't be read ({first_line(error)})") from error
    own, other = (flatten_fields(to_meta(*both)["config"]) for both in ((weights.config, weights.notes), (config, notes)))
    for name in dict.fromkeys([*own, *other]):
        if own.get(name) != other.get(name):
            field = "kind" if name == "model.kind" else name
            raise WeightsError(f"{field} is {shown(own.get(name))}, and {TENSORS} was saved with {shown(other.get(name))}")
    if weights.notes.calibration != notes.calibration:
        raise WeightsError(
            f"calibration is another than {TENSORS} was saved with; launch.calibrate writes a new one into a file of its own"
        )
    if weights.notes.label_names != notes.label_names:
        _require_translated(weights.notes.label_names, notes.label_names)
        logging.warning("label_names of %s differ from those that %s was saved with; the former are used", CONFIG, TENSORS)
