"""Writes the model card of a pretrained folder: README.md, with the header that hubs read and code that runs."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from avmae_jax.files import printable
from avmae_jax.models.registry import Kind, kind_of, tuned_mode
from avmae_jax.weights.facts import Facts, Measured
from avmae_jax.weights.hub import INSTALL
from avmae_jax.weights.model_weights import Weights
from avmae_jax.weights.places import LIBRARY

_LISTED = 100  # classes that are named
_TITLES = {"accuracy": "accuracy", "mean_average_precision": "mAP", "r1": "R@1", "r5": "R@5", "r10": "R@10", "median_rank": "median rank"}
_PLACES = {"median_rank": 1}  # digits after the point; 3 of all others
_TASKS = {"audio": "audio-classification", "image": "image-classification", "both": "video-classification"}
_PREDICT = {
    "both": 'print(model.predict("clip.mp4").answer)  # a path, a list of paths, or arrays',
    "audio": 'print(model.predict("clip.mp4", given="audio").answer)  # a path, a list of paths, or arrays',
    "image": 'print(model.predict("clip.mp4", given="image").answer)  # a path, a list of paths, or arrays',
}


def card_of(weights: Weights, facts: Facts, name: str) -> str:
    """Returns the text of a model card.

    Args:
      weights: the model.
      facts: what is known of it.
      name: of the folder, or its id on a hub, which the code loads.
    """
    return "\n".join([*_header(weights, facts, name), "", *_text(weights, facts, name)]) + "\n"


def _header(weights: Weights, facts: Facts, name: str) -> Iterator[str]:
    """Yields the lines of the YAML header; a text in it is written as JSON, which is YAML too."""
    spec, task = kind_of(weights.config), _task(weights)
    inputs = spec.inputs(weights.config)
    tags = [LIBRARY, "jax", "flax", weights.config.kind, *inputs, *(["audio-visual"] if len(inputs) > 1 else [])]
    yield from ("---", f"library_name: {LIBRARY}", f"license: {facts.license}", f"pipeline_tag: {task}", "tags:")
    yield from (f"- {tag}" for tag in tags)
    rows = [row for row in facts.measured if row.figures.keys() & {"accuracy", "mean_average_precision"}]
    if rows:
        names = dict.fromkeys(metric for row in rows for metric in row.figures)
        yield from ("metrics:", *(f"- {metric}" for metric in names), "model-index:", f"- name: {_quoted(name)}", "  results:")
    for row in rows:
        data = _quoted(row.data or facts.data)
        yield from ("  - task:", f"      type: {task}", "    dataset:", f"      name: {data}", f"      type: {data}", "    metrics:")
        for metric, value in row.figures.items():
            yield from (f"    - type: {metric}", f"      value: {value!r}", f"      name: {_quoted(f'{_title(metric)}, {row.given}')}")
    yield "---"


def _text(weights: Weights, facts: Facts, name: str) -> Iterator[str]:
    config, spec = weights.config, kind_of(weights.config)
    shape, inputs = config.shape, spec.inputs(config)
    count = sum(value.size for value in weights.params.values())
    yield from (f"# {_plain(name)}", "")
    yield f"A {spec.title} ({config.kind}) of {' and '.join(inputs)} for JAX, with {count / 1e6:.2f} M parameters: {shape.depth} blocks of"
    yield f"width {shape.width} with {shape.heads} heads, patches of {config.patch} x {config.patch}."
    if "audio" in inputs:
        pairs = f" around each of several images of a clip of {config.spectrogram_frames / 100:g} s" if spec.pairs else " at once"
        yield f"It hears {config.audio_frames / 100:g} s{pairs}, as a log-mel of {config.mel_bins} bins."
    if "image" in inputs:
        yield f"It sees {config.image_size} x {config.image_size} pixels."
    yield from ("", "```python", *_code(weights, spec, name), "```", "")
    yield f"First install {LIBRARY} in a clone of its repository, by `{INSTALL}`: it is on no package index, and a package of this name"
    yield "there would be another one. Nothing in this folder is executed: `model.safetensors` holds the weights, `config.json` the rest."
    if weights.classes:
        yield from ("", "## Classes", "", *_classes(weights))
    yield from ("", "## Training", "")
    yield (
        f"Trained on {_plain(facts.data)}: {_plain(facts.training)}."
        if facts.data
        else "Nothing is known here of its training or its data."
    )
    if facts.measured:
        yield from ("", "## Measured", "", *_table(facts.measured))


def _code(weights: Weights, spec: Kind, name: str) -> Iterator[str]:
    """Yields lines that load the model and apply it to clip.mp4, or an MAE to arrays."""
    loaded = f"model = av.load({json.dumps(name)})"
    if spec.modes:
        yield from ("import avmae_jax as av", "", loaded, _PREDICT[_given(weights)])
    elif spec.vectors:
        yield from ("import avmae_jax as av", "", loaded, 'found = model.embed("clip.mp4")  # a path, a list of paths, or arrays')
        yield "print(found.audio, found.image, found.joint)  # vectors of length 1, to compare with those of other clips"
    else:
        (modality,) = spec.inputs(weights.config)
        height, width, channels = weights.config.input_shape(modality)
        size = f"{width}, {height}" if modality == "audio" else f"{height}, {width}, {channels}"
        what = "normalised log-mels" if modality == "audio" else "normalised images"
        yield from ("import jax.numpy as jnp", "", "import avmae_jax as av", "", loaded)
        yield f"inputs = jnp.zeros((1, {size}))  # {what}"
        yield f'print(model.module.features({{"{modality}": inputs}}))'


def _given(weights: Weights) -> str:
    mode = tuned_mode(weights.notes.config(weights.config))
    return mode.given


def _task(weights: Weights) -> str:
    """Returns the task under which a hub lists the model."""
    if weights.classes:
        return _TASKS[_given(weights)]
    return "image-feature-extraction" if weights.config.modality == "image" else "feature-extraction"


def _classes(weights: Weights) -> Iterator[str]:
    names = weights.notes.label_names
    several = "one or more a clip" if weights.notes.loss == "bce" else "one a clip"
    more = f" and {len(names) - _LISTED} more, which `config.json` names" if len(names) > _LISTED else ""
    listed = f": {', '.join(map(_plain, names[:_LISTED]))}{more}" if names else ", without names"
    yield f"{weights.classes}, {several}{listed}."
    if weights.notes.calibration:
        yield "Its probabilities are calibrated, for " + ", ".join(mode for mode, _ in weights.notes.calibration.modes) + "."


def _table(rows: Sequence[Measured]) -> Iterator[str]:
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.figures))
    yield "In brackets the 95 % interval." if any(row.intervals for row in rows) else "At the end of the run."
    yield from ("", f"| given | clips | {' | '.join(map(_title, metrics))} |", f"|---|---|{'---|' * len(metrics)}")
    for row in rows:
        cells = [_cell(row, metric) for metric in metrics]
        yield f"| {_plain(row.given)} | {row.clips or ''} | {' | '.join(cells)} |"


def _cell(row: Measured, metric: str) -> str:
    if metric not in row.figures:
        return ""
    low, high = row.intervals.get(metric, (None, None))
    return f"{row.figures[metric]:.{_PLACES.get(metric, 3)}f}" + (
        f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else ""
    )


def _title(metric: str) -> str:
    return _TITLES.get(metric, metric)


def _quoted(text: str) -> str:
    return json.dumps(printable(text), ensure_ascii=False)


def _plain(text: Any) -> str:
    """Returns text that stays text in Markdown, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~$&])", r"\\\1", " ".join(printable(str(text)).split()))
