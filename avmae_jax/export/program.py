"""Defines what is exported: functions from int16 waveforms and uint8 frames of any size to what predict or embed computes of a window.

    waveform int16[B, S] --log-mel, scaling--> the model's inputs --model--> probabilities and logits [B, C], or vectors [B, D]
    image uint8[B, H, W, 3] --resizing, scaling--^

Axis letters: B batch, S samples, H W frame, C classes, D width.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.config import Modality
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import ClipError, ExportError
from avmae_jax.export.images import resize
from avmae_jax.inference.forward import probabilities
from avmae_jax.inference.predict import Predictor
from avmae_jax.models.encoder import VECTORS
from avmae_jax.weights.calibration import of_mode
from avmae_jax.weights.trained import Trained

What = Literal["classify", "embed"]
Arrays = Mapping[str, jax.Array]

WAVEFORM, IMAGE = "waveform", "image"  # names of the inputs
BATCH, HEIGHT, WIDTH = "batch", "height", "width"  # sizes that are known only when a program runs
_TAKES: Mapping[Modality, tuple[str, ...]] = {"both": (WAVEFORM, IMAGE), "audio": (WAVEFORM,), "image": (IMAGE,)}


@dataclasses.dataclass(frozen=True)
class Entry:
    """Describes one program: what it is given, and what it computes."""

    given: Modality
    inputs: Mapping[str, tuple[np.dtype[Any], tuple[int | str, ...]]]  # name -> type and shape, with names of sizes that may vary
    outputs: Mapping[str, int]  # name -> how many float32 values a row has
    function: Callable[[Any, Arrays], dict[str, jax.Array]]  # (module, inputs by name) -> outputs by name
    mode: str = ""  # in which a classifier is applied, by its official name


def entries_of(trained: Trained, what: What) -> dict[str, Entry]:
    """Returns the programs of a model by what they are given, as far as the model can do with it: "both", "audio", "image".

    Raises:
      ExportError: if the model can't do that at all.
    """
    spec, name = trained.spec, f"{trained.path}: a model of kind {trained.kind}, {trained.spec.title},"
    if instead := spec.lacks.get("exported"):
        raise ExportError(f"{name} can't be exported; {instead}")
    if what == "classify" and not spec.modes:
        instead = "export its vectors with --what=embed, or fine-tune it first" if spec.vectors else "train a classifier from it"
        raise ExportError(f"{name} has no classes; {instead}")
    if what == "embed" and not spec.vectors:
        instead = "export its classes with --what=classify" if spec.modes else "train a CAV-MAE from it"
        raise ExportError(f"{name} computes no vectors of audio and image that can be compared; {instead}")
    if what == "embed":
        return {given: _embedding(trained, given) for given in get_args(Modality)}
    predictor, found = Predictor(trained), {}
    for given in get_args(Modality):
        try:
            mode = predictor.mode_of(given)
        except ClipError:  # the model needs what is missing
            continue
        if mode is not None and mode.given == given:
            found[given] = _classification(trained, given, mode)
    return found


def specs(entry: Entry) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and types of an entry's inputs, for tracing."""
    from jax import export

    names = [*dict.fromkeys(size for _, shape in entry.inputs.values() for size in shape if isinstance(size, str))]
    sizes: dict[Any, Any] = dict(zip(names, export.symbolic_shape(", ".join(names)), strict=True))
    return {name: jax.ShapeDtypeStruct([sizes.get(size, size) for size in shape], dtype) for name, (dtype, shape) in entry.inputs.items()}


def _inputs(trained: Trained, given: Modality) -> dict[str, tuple[np.dtype[Any], tuple[int | str, ...]]]:
    samples = num_samples(trained.config.model.audio_frames)
    known: dict[str, tuple[np.dtype[Any], tuple[int | str, ...]]] = {
        WAVEFORM: (np.dtype(np.int16), (BATCH, samples)),
        IMAGE: (np.dtype(np.uint8), (BATCH, HEIGHT, WIDTH, 3)),
    }
    return {name: known[name] for name in _TAKES[given]}


def _seen(trained: Trained, arrays: Arrays) -> dict[str, jax.Array]:
    """Computes the model's inputs."""
    batch = dict(arrays)
    if WAVEFORM in batch:
        count, samples = batch[WAVEFORM].shape
        batch["samples"] = jnp.full((count,), samples, jnp.int32)
    if IMAGE in batch:
        batch[IMAGE] = resize(batch[IMAGE], trained.config.model.image_size)
    return model_inputs(batch, trained.config)


def _classification(trained: Trained, given: Modality, mode: Any) -> Entry:
    temperature = of_mode(trained.calibration, mode).temperature

    def function(module: Any, arrays: Arrays) -> dict[str, jax.Array]:
        logits = module.logits(module.separate(_seen(trained, arrays)), mode)
        return {"probabilities": probabilities(trained.config, logits, temperature), "logits": logits}

    outputs = {"probabilities": trained.classes, "logits": trained.classes}
    return Entry(given, _inputs(trained, given), outputs, function, str(mode))


def _embedding(trained: Trained, given: Modality) -> Entry:
    def function(module: Any, arrays: Arrays) -> dict[str, jax.Array]:
        return {f"{kind}_vector": vector for kind, vector in module.embed(_seen(trained, arrays)).items()}

    width = trained.config.model.shape.width
    kinds = VECTORS if given == "both" else (given,)
    return Entry(given, _inputs(trained, given), {f"{kind}_vector": width for kind in kinds}, function)
