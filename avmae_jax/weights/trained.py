"""Holds a trained model together with everything that is needed to apply it."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from absl import logging
from flax import nnx

from avmae_jax.config import AppliedConfig, TuneConfig
from avmae_jax.data.catalog.labels import read_labels
from avmae_jax.errors import WeightsError
from avmae_jax.models.modes import Mode
from avmae_jax.models.registry import Kind, Model, kind_of, tuned_mode
from avmae_jax.trees import flatten
from avmae_jax.weights import io
from avmae_jax.weights.calibration import Calibration, fingerprint
from avmae_jax.weights.facts import Facts


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """Holds a loaded model with its config and labels. Compared by identity, so it can be a cache key."""

    path: str
    module: Model  # the flax.nnx module
    config: AppliedConfig
    classes: int  # C; 0: a pretraining model
    label_names: tuple[str, ...]  # C names; "class 0", ... where none are stored
    step: int | None = None  # of the checkpoint, where it is one of a run
    calibration: Calibration | None = None  # of a classifier's probabilities, where it has one
    facts: Facts | None = None  # what the pretrained folder knows that it was loaded from; None: from another place

    @property
    def kind(self) -> str:
        """Returns the kind of model, a row of models/registry.py."""
        return self.config.model.kind

    @property
    def spec(self) -> Kind:
        """Returns what can be done with this kind of model."""
        return kind_of(self.config.model)

    @property
    def tuned(self) -> Mode | None:
        """Returns the mode in which a classifier was tuned; None for a pretraining model."""
        return tuned_mode(self.config) if self.spec.modes else None

    @property
    def has_match(self) -> bool:
        """Returns whether its vectors of audio and image can be compared: not if tuning has trained only one, or left the joint blocks."""
        tuned = self.tuned
        return bool(self.spec.vectors) and (tuned is None or (tuned.given == "both" and not self._is_late))

    @property
    def tuning(self) -> str:
        """Says how a classifier was tuned."""
        return f"tuned as {self.tuned}" + (" with model.pair_pool=late" if self._is_late else "")

    @property
    def _is_late(self) -> bool:
        """Returns whether it is a classifier of pairs that doesn't use the joint blocks, which the vectors come from."""
        return self.spec.pairs and bool(self.spec.modes) and self.config.model.pair_pool == "late"

    def __repr__(self) -> str:
        model, count = self.config.model, sum(leaf.size for leaf in flatten(nnx.state(self.module, nnx.Param)).values())
        lines = [f"{self.spec.title} ({self.kind}), {count / 1e6:.1f} M parameters, from {self.path[-120:]}"]
        shape = model.shape
        sizes = [f"{shape.depth} blocks of width {shape.width}"]
        sizes += [f"audio {model.audio_frames} x {model.mel_bins}"] if "audio" in self.spec.inputs(model) else []
        sizes += [f"image {model.image_size} x {model.image_size}"] if "image" in self.spec.inputs(model) else []
        lines.append(", ".join(sizes))
        if self.classes:
            more = ", ..." if self.classes > 3 else ""
            lines.append(f"{self.classes} classes ({', '.join(name[:24] for name in self.label_names[:3])}{more}), tuned as {self.tuned}")
        return "<" + "\n ".join(lines) + ">"


class About(NamedTuple):
    """Says of a classifier what the original's .pth files don't store."""

    labels_csv: str | Path = ""  # names of the classes, with the columns index,mid,display_name, in place of those stored in the file
    tuned_loss: str = ""  # tune.loss of its training, bce or ce; "": as stored, or else bce, as the original's of AudioSet
    tuned_mode: str = ""  # tune.mode of its training; "": as stored, or else multimodal


UNSAID = About()


def load_trained(
    path: str | Path, *, about: About = UNSAID, audio_frames: int | None = None, compute_dtype: str = "float32", **sizes: int
) -> Trained:
    """Loads a model with the weights of a file or a run, ready to be applied.

    Args:
      path: a run's folder, its best/, averaged/, ema/ or one step; .pth, .pt, .bin or .safetensors; weights/io.py lists what can be read.
      about: what the file may not store of a classifier.
      audio_frames: length of the audio that the model shall take, in frames of 10 ms; positions are interpolated along time.
      compute_dtype: of matrix products, whatever the model was trained in: "float32", "bfloat16", or "auto", bfloat16 where the devices
        have it.
      **sizes: heads, decoder_heads, mel_bins, for files that don't store them.

    Raises:
      WeightsError: if the file can't be read, or holds another classifier than is described.
      ConfigError: if there is no such loss or mode.
      DatasetError: if the names can't be read.
    """
    return _made(path, completed(io.read(path, audio_frames=audio_frames, **sizes), path, about), compute_dtype)


def load_uncalibrated(path: str | Path, *, about: About = UNSAID, compute_dtype: str = "float32", **sizes: int) -> Trained:
    """Loads a model as load_trained, without a calibration, which may be damaged or belong to other weights."""
    return _made(path, completed(io.read_uncalibrated(path, **sizes), path, about), compute_dtype)


def completed(found: io.Weights, path: str | Path, about: About) -> io.Weights:
    """Adds to the weights of a path what they don't store of a classifier, and logs what nobody has said.

    Raises:
      WeightsError: if the model has no classes, or not as many as there are names, or the file stores another loss or mode.
      ConfigError: if there is no such loss or mode.
      DatasetError: if the names can't be read.
    """
    given = {name: value for name, value in (("loss", about.tuned_loss), ("mode", about.tuned_mode)) if value}
    if not found.classes:
        if about != UNSAID:
            raise WeightsError(f"{path} is a pretraining model without classes; leave out labels_csv, tuned_loss and tuned_mode")
        return found
    TuneConfig(loss=about.tuned_loss or TuneConfig.loss, mode=about.tuned_mode or TuneConfig.mode).validate()
    if different := [name for name, value in given.items() if found.noted and value != getattr(found.notes, name)]:
        stored = " and ".join(f"tune.{name} {getattr(found.notes, name)}" for name in different)
        raise WeightsError(f"{path}: stores {stored}, and tuned_{different[0]} is {given[different[0]]}; leave it out")
    notes = dataclasses.replace(found.notes, **given)
    if about.labels_csv:
        names = read_labels(Path(about.labels_csv).expanduser())[1]
        if len(names) != found.classes:
            raise WeightsError(
                f"{path} has {found.classes} classes and {about.labels_csv} names {len(names)}; give the list it was tuned on"
            )
        notes = dataclasses.replace(notes, label_names=tuple(names))
    if not notes.label_names:
        logging.warning("%s doesn't name its %d classes; labels_csv, the list that it was tuned on, names them", path, found.classes)
    if not found.noted and len(given) < 2:
        logging.info("%s stores neither loss nor mode of its training: tuned_loss is %s, tuned_mode %s", path, notes.loss, notes.mode)
    return found._replace(notes=notes)


def require_match(trained: Trained) -> None:
    """Raises ValueError unless the model's vectors of audio and image can be compared."""
    if not trained.spec.vectors:
        raise ValueError(f"{trained.path} is a {trained.spec.title}, which has no match of audio and image; give a CAV-MAE or CAV-MAE Sync")
    if not trained.has_match:
        raise ValueError(
            f"{trained.path} was {trained.tuning}, so that its audio and images no longer match; give a model that wasn't tuned"
        )


def placeholders(classes: int) -> tuple[str, ...]:
    """Returns what the classes are called of a model that names none."""
    return tuple(f"class {number}" for number in range(classes))


def fingerprint_of(trained: Trained) -> str:
    """Identifies a model's parameters, as its calibration does."""
    return fingerprint(flatten(nnx.state(trained.module, nnx.Param)))


def _made(path: str | Path, found: io.Weights, compute_dtype: str) -> Trained:
    found, notes = io.computing_in(compute_dtype, found), found.notes
    names = notes.label_names or placeholders(found.classes)
    config = notes.config(found.config)
    return Trained(str(path), io.made(found), config, found.classes, names, found.step, notes.calibration, found.facts)
