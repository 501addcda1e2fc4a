"""Collects what is known of a model, from its run's folder or the box: data, training, measurements."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from avmae_jax.config import Config
from avmae_jax.config_history import config_from_dict, is_config
from avmae_jax.data.text_files import read_json
from avmae_jax.errors import DatasetError
from avmae_jax.models.registry import KINDS
from avmae_jax.weights import box
from avmae_jax.weights.facts import Facts, Measured, is_count, is_real

_DEPTH = 2  # a run's checkpoints/<step> lies this many folders below it
_MEANS = ("averaged", "ema")  # folders of averaged weights, which summary.json names likewise

_CLASSIFIED = {"accuracy": "accuracy", "map": "mean_average_precision"}  # our name -> the hub's
_PRETRAINED = {"loss": "loss", "mae_audio": "mae_audio", "mae_image": "mae_image", "nce": "nce"}
_RETRIEVED = ("r1", "r5", "r10", "median_rank")


def facts_of(path: str | Path, step: int | None) -> Facts:
    """Reads what the run says that weights lie in; a file of weights, or a folder in no run, says nothing.

    Measurements of another step than that of the weights are left out, and so are paths, which concern nobody else.

    Args:
      path: where the weights were read from.
      step: of the weights.
    """
    if box.is_boxed(path):
        return _boxed(box.card_of(str(path)))
    place = Path(path).expanduser().absolute()
    if not place.is_dir():
        return Facts()
    runs = [(folder, saved) for folder in (place, *place.parents[:_DEPTH]) if is_config(saved := _read(folder / "config.json"))]
    if not runs:
        return Facts()
    folder, saved = runs[0]
    try:
        config = config_from_dict(saved)
    except (ValueError, TypeError, AttributeError):
        return Facts()
    evaluated = _evaluated(_read(place / "evaluation" / "evaluation.json"), step)
    measured = evaluated or _summarised(_read(folder / "summary.json"), place, folder, step)
    return Facts(data=_data(config), training=_training(config, step), measured=tuple(measured))


def _boxed(card: box.Card) -> Facts:
    """Takes what is known of a model in the box."""
    rows = [
        Measured(
            "audio and image" if given == "both" else given,
            card.held_out,
            {"accuracy": found.accuracy, "mean_average_precision": found.map},
            {"accuracy": found.accuracy_interval, "mean_average_precision": found.map_interval},
        )
        for given, found in card.figures.items()
    ]
    training = f"the model {card.name}; the figures are of one that was trained in the same way without the held-out clips"
    return Facts(data=f"{card.clips} clips and {card.generated} generated ones", training=training, measured=tuple(rows))


def _data(config: Config) -> str:
    data = config.data
    if data.source == "builtin":
        return f"the built-in set of generated instruments ({data.builtin_train} clips of {data.builtin_seconds:g} s)"
    return f"the data set {Path(data.path).stem}"


def _training(config: Config, step: int | None) -> str:
    start = f"started from {Path(config.init_from).name}" if config.init_from else "from random weights"
    steps = f"{step} steps" if step is not None else f"{config.train.epochs:g} epochs"
    return f"{steps} in batches of {config.train.batch_size}, {start}, by the recipe {config.name}"


def _evaluated(content: Mapping[str, Any], step: int | None) -> list[Measured]:
    """Takes the views of launch.evaluate."""
    rows: list[Measured] = []
    for view in _rows(content.get("views")):
        found = _figures(view, _CLASSIFIED)
        pairs = {new: _pair(view.get(f"{name}_interval")) for name, new in _CLASSIFIED.items()}
        intervals = {name: pair for name, pair in pairs.items() if pair}
        clips, data = view.get("clips"), view.get("data")
        if found and view.get("step") == step:
            row = Measured(_title(view), clips if is_count(clips) else None, found, intervals)
            rows.append(row._replace(data=Path(data).stem if isinstance(data, str) else ""))
    return rows


def _title(view: Mapping[str, Any]) -> str:
    """Says what the classifier was given in a view of launch.evaluate."""
    inputs = next((mode.inputs for kind in KINDS.values() for mode in kind.modes if mode.name == view.get("mode")), ("audio", "image"))
    frames = {"all": "all frames", "first": "first frame", "middle": "middle frame"}.get(str(view.get("frames")), "")
    parts = [" and ".join(inputs), frames if "image" in inputs else "", "training clips" if view.get("split") == "train" else ""]
    return ", ".join(filter(None, parts))


def _summarised(content: Mapping[str, Any], place: Path, run: Path, step: int | None) -> list[Measured]:
    """Takes what a run has measured when it ended, which is true of its last weights and of their means alone."""
    part = "held_out" if place == run else place.relative_to(run).parts[0]
    part = "held_out" if part == "checkpoints" else part
    if content.get("steps") != step or part not in ("held_out", *_MEANS):
        return []
    rows = [Measured("held-out clips at the end of training", None, _figures(content.get(part), _CLASSIFIED | _PRETRAINED), {})]
    found = content.get("retrieval") if part == "held_out" else None
    clips = found.get("clips") if isinstance(found, dict) else None
    for given, title in (("audio_to_image", "images found by their audio"), ("image_to_audio", "audio found by its image")):
        figures = _figures(found, {f"{given}_{name}": name for name in _RETRIEVED})
        rows.append(Measured(title, int(clips) if is_real(clips) and clips >= 0 else None, figures, {}))
    return [row for row in rows if row.figures]


def _figures(content: Any, names: Mapping[str, str]) -> dict[str, float]:
    """Returns the numbers of some names in a JSON object, by their new names."""
    return {new: content[name] for name, new in names.items() if is_real(content.get(name))} if isinstance(content, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    """Returns the object of a JSON file; {} if there is none, since a card says what is known."""
    try:
        content = read_json(path)
    except DatasetError:
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _pair(value: Any) -> tuple[float, float] | None:
    return (value[0], value[1]) if isinstance(value, list) and len(value) == 2 and all(map(is_real, value)) else None
