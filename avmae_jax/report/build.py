"""A run on one page: what stands in its folder, put together for a person who wasn't there.

Nothing is computed here. What isn't there, or can't be read, is named on the page, with the command that makes it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avmae_jax.config import Config
from avmae_jax.plots import reconstructions
from avmae_jax.plots.canvas import short_name
from avmae_jax.report.html import folded, grid, missing, page, paragraph, picture, picture_file, preformatted, table, words
from avmae_jax.report.run_folder import EVALUATION, RETRIEVAL, Run, as_list, group, is_real, objects
from avmae_jax.train.logbook import METRICS_FILE

_CURVES = {
    "loss": "loss",
    "mae_audio": "loss: audio reconstruction",
    "mae_image": "loss: image reconstruction",
    "nce": "loss: contrastive, nats",
    "contrast_accuracy": "right pairs in a batch, share",
    "map": "mAP",
    "accuracy": "accuracy",
    "learning_rate": "learning rate",
    "gradient_norm": "norm of the gradient",
}  # in their order; others follow
_NOT_CURVES = ("step", "classes")
_NAMES = {
    "map": "mAP",
    "auc": "AUC",
    "d_prime": "d'",
    "top_5_accuracy": "top 5",
    "mae_audio": "audio reconstruction",
    "mae_image": "image reconstruction",
    "nce": "contrastive, nats",
    "contrast_accuracy": "right pairs in a batch",
    "average_precision": "AP",
    "damaged_clips": "damaged clips",
    "classes_left_out": "classes without a clip",
    "classes_without_auc": "classes without AUC",
}
_DIRECTIONS = ("audio_to_image", "image_to_audio")
_RANKS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "median_rank": "median rank", "ties": "ties"}
_SHARES = ("r1", "r5", "r10")
_VIEW = ("mode", "frames", "crops", "clips", "map", "auc", "d_prime", "accuracy", "top_5_accuracy", "loss")
_LEFT_OUT = ("damaged_clips", "classes_left_out", "classes_without_auc")  # shown where there are some
_CLASS = ("name", "positives", "average_precision", "auc", "d_prime", "recall", "precision")
_MISTAKES = 20  # of the table
_SECONDS_OF_HOUR = 3600


def report(folder: Path) -> str:
    """The page of a run as HTML.

    Args:
      folder: of a run of launch.pretrain or launch.finetune, finished or not.

    Raises:
      ValueError: if it holds no run.
    """
    run = Run(folder)
    sections = [("Results", _results(run)), ("Curves", _curves(run))]
    if run.is_classifier:
        sections += [("Evaluation", _evaluation(run)), ("Hardest mistakes", _mistakes(run))]
    else:
        sections += [("Retrieval", _retrieval(run)), ("Reconstructions", _reconstructions(run))]
    sections.append(("Configuration", _configuration(run)))
    return page(f"Run {run.config.get('name') or folder.name}", _head(run), sections)


def _head(run: Run) -> str:
    model, tune = run.config["model"], group(run.config, "tune")
    if run.is_classifier:
        text = f"A classifier ({tune.get('mode', 'mode unknown')}), fine-tuned from {run.config.get('init_from') or 'random weights'}."
    elif model.get("modality") in ("audio", "image"):
        text = f"Pretraining of a masked autoencoder of {model['modality']} alone."
    else:
        text = "Pretraining of a contrastive audio-visual masked autoencoder."
    steps, seconds = run.summary.get("steps"), run.summary.get("seconds")
    last = max((row["step"] for row in run.rows), default=0)
    if isinstance(steps, int) and isinstance(seconds, int | float):
        text += f" Finished: {steps} steps; the last session took {_duration(seconds)}."
    else:
        text += f" Not finished, or stopped: its last noted step is {last}." if last else " No step is noted yet."
    damage = "".join(missing(f"{line}.") for line in run.damaged)
    return paragraph(text) + paragraph(str(run.folder), soft=True) + damage


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * _SECONDS_OF_HOUR else f"{seconds / _SECONDS_OF_HOUR:.1f} h"


def _results(run: Run) -> str:
    """What summary.json says, or the last held-out line while there is none."""
    parts = []
    held_out = group(run.summary, "held_out")
    if held_out:
        parts.append(paragraph("On the held-out clips, at the end of the run:"))
    elif noted := [row for row in run.rows if row.get("split") == "eval"]:
        held_out = {name: value for name, value in noted[-1].items() if name not in ("step", "split")}
        parts.append(paragraph(f"There is no summary.json; on the held-out clips after step {noted[-1]['step']}:"))
    else:
        parts.append(missing("Nothing was measured on held-out clips yet."))
    if held_out:
        parts.append(_numbers(held_out))
    if averaged := group(run.summary, "averaged"):
        parts.append(paragraph("The mean of the weights of several epochs, see tune.average_first:") + _numbers(averaged))
    if (found := group(run.summary, "retrieval")) and not run.retrieval:
        parts.append(_summarised(found))
    return "".join(parts)


def _numbers(values: Mapping[str, Any]) -> str:
    return table(("measured", "value"), [(_NAMES.get(name, name.replace("_", " ")), value) for name, value in values.items()])


def _summarised(found: Mapping[str, Any]) -> str:
    """Retrieval as launch.pretrain measures it at its end."""
    clips = found.get("clips")
    ways = {way: {field: found.get(f"{way}_{field}") for field in _RANKS} for way in _DIRECTIONS}
    chance = {}
    if is_real(clips) and clips > 0:
        chance = {f"r{k}": min(1.0, k / clips) for k in (1, 5, 10)} | {"median_rank": (clips + 1) / 2}
    return _directions(ways, chance, clips)


def _directions(ways: Mapping[str, Any], chance: Mapping[str, Any], clips: Any) -> str:
    """How often sound and picture find each other, and what guessing would give."""
    lines = [[way.replace("_", " "), *_ranks(group(ways, way))] for way in _DIRECTIONS] + [["guessing", *_ranks(chance)]]
    by_class = {way.replace("_", " "): group(group(ways, way), "class") for way in _DIRECTIONS} | {"guessing": group(chance, "class")}
    if any(by_class.values()):
        lines += [[f"{way}, any clip of the class", *_ranks(values)] for way, values in by_class.items()]
    text = (
        f"Sound and picture that find each other among {words(clips)} clips; R@k: the share of queries whose partner is among the first k."
    )
    return paragraph(text) + table(("", *_RANKS.values()), lines)


def _ranks(values: Mapping[str, Any]) -> list[str]:
    """The fields of _RANKS as texts, shares in percent."""
    found = ((field, values.get(field)) for field in _RANKS)
    return [f"{value:.1%}" if field in _SHARES and is_real(value) else words(value) for field, value in found]


def _curves(run: Run) -> str:
    parts = []
    if run.damaged_lines:
        numbers = ", ".join(str(number) for number, _ in run.damaged_lines[:10])
        more = " and more" if len(run.damaged_lines) > 10 else ""
        text = f"{METRICS_FILE}: {len(run.damaged_lines)} damaged lines are left out (line {numbers}{more}), as a kill leaves them."
        parts.append(missing(text))
    if not run.rows:
        return "".join(parts) + missing(f"{METRICS_FILE} has no line yet; the run writes it as it trains.")
    there = {name for row in run.rows for name, value in row.items() if isinstance(value, int | float) and name not in _NOT_CURVES}
    names = [name for name in _CURVES if name in there] + sorted(there - _CURVES.keys())
    size = run.meta.get("micro_batch")  # the contrastive loss chooses from one micro-batch
    drawn = []
    for name in names:
        title = _CURVES.get(name) or short_name(name, 60)
        guess = size if name == "nce" and isinstance(size, int) and size > 1 else None
        drawn.append(picture(reconstructions.curve_svg(run.rows, name, title, batch_size=guess), "svg+xml", f"{title} over steps"))
    return "".join([*parts, paragraph("Faint: each value of training.", soft=True), grid(drawn)])


def _evaluation(run: Run) -> str:
    views = objects(run.evaluation, "views")
    if not views:
        return missing("This classifier's evaluation isn't there.", run.command("evaluate"))
    shown = [name for name in _VIEW if any(view.get(name) is not None for view in views)]
    shown += [name for name in _LEFT_OUT if any(view.get(name) for view in views)]
    head = [_NAMES.get(name, name) for name in shown]
    where = f"{run.evaluation.get('split') or ''} clips of {run.evaluation.get('data') or 'the data of the run'}".strip()
    parts = [
        paragraph(f"The {where}, by what the classifier is given:"),
        table(head, ([view.get(name) for name in shown] for view in views)),
        _what_was_measured(run),
    ]
    for number, view in enumerate(views):
        parts.append(folded(str(view.get("view", f"view {number + 1}")), _view(run, view), is_open=number == 0))
    return "".join(parts)


def _what_was_measured(run: Run) -> str:
    """The model of the evaluation, and whether the run has gone on since."""
    model, step = run.evaluation.get("model"), run.evaluation.get("step")
    told = f" at step {step}" if isinstance(step, int) else "; at which step isn't noted"
    parts, again = [paragraph(f"Measured: {words(model)}{told}.", soft=True)], run.command("evaluate")
    if isinstance(step, int) and run.step not in (None, step):
        parts.append(missing(f"It was measured at step {step}; the run is at step {run.step}: {again} measures again."))
    if lacking := as_list(run.evaluation.get("lacking")):
        parts.append(missing(f"The evaluation was stopped before {words(lacking)}: {again} measures all."))
    return "".join(parts)


def _view(run: Run, view: Mapping[str, Any]) -> str:
    """Pictures and classes of one way of asking a classifier."""
    parts = [
        _own_picture(run, view, "confusion.png", "Confusion matrix", "where each clip has one class"),
        _own_picture(run, view, "precision_recall.png", "Precision over recall of the classes"),
    ]
    if rows := objects(view, "per_class"):
        order = sorted(rows, key=lambda row: -row["average_precision"] if is_real(row.get("average_precision")) else 1)
        listed = table([_NAMES.get(name, name) for name in _CLASS], ([row.get(name) for name in _CLASS] for row in order))
        parts.append(folded(f"{len(rows)} classes, the best found first", listed))
    return "".join(parts)


def _own_picture(run: Run, view: Mapping[str, Any], file: str, title: str, condition: str = "") -> str:
    """A picture of a view; its folder's name comes from a file, and may not lead out of the run."""
    name = str(view.get("view", ""))
    path = run.folder / EVALUATION / name / file
    if not re.fullmatch(r"\w+", name, re.ASCII) or not path.exists():
        return missing(f"{title}: {file} isn't there{f'; it is made {condition}' if condition else ''}.", run.command("evaluate"))
    return picture_file(path, f"{title}, {name}", title)


def _mistakes(run: Run) -> str:
    views = objects(run.evaluation, "views")
    if not views:
        return missing("They are found by an evaluation.", run.command("evaluate"))
    view = views[0]
    clips = [row for row in objects(view, "per_clip") if row.get("top") not in as_list(row.get("classes")) and is_real(row.get("loss"))]
    worst = sorted(clips, key=lambda row: -row["loss"])[:_MISTAKES]
    drawn = _own_picture(run, view, "mistakes.png", f"The clips of {view.get('view', 'the first view')} with the highest loss")
    if not worst:
        return drawn + paragraph("No clip of the first view is mistaken.")
    rows = (
        [row.get("id"), row.get("classes"), row.get("probabilities"), row.get("top"), row.get("top_probability"), row["loss"]]
        for row in worst
    )
    head = ("clip", "its classes", "their probabilities", "taken for", "probability", "loss")
    return drawn + folded(f"the {len(worst)} worst of {len(clips)} mistaken clips", table(head, rows))


def _retrieval(run: Run) -> str:
    if run.config["model"].get("modality") in ("audio", "image"):
        return paragraph("A model of one modality finds no other.")
    gallery = run.folder / RETRIEVAL / "gallery.png"
    if not run.retrieval and not gallery.exists():
        return missing("The retrieval gallery isn't there.", run.command("retrieve"))
    found = run.retrieval
    parts = [_directions(found, group(found, "chance"), found.get("clips"))] if found else []
    if found.get("data"):
        per_class = found.get("per_class")
        some = f", {per_class} of each class" if per_class else ""
        text = f"The {words(found.get('split'))} clips of {words(found['data'])}{some}; measured: {words(found.get('model'))}."
        parts.append(paragraph(text, soft=True))
    if gallery.exists():
        parts.append(picture_file(gallery, "Searches and what they found", "Green: the query's own partner; blue: a clip of its class"))
    else:
        parts.append(missing("gallery.png isn't there.", run.command("retrieve")))
    return "".join(parts)


def _reconstructions(run: Run) -> str:
    newest = run.newest_picture()
    if newest is None:
        return missing(
            "The run has drawn none; other clips and other masks are drawn by launch.inpaint.",
            run.command("inpaint", "FILE", "--out", "DIR"),
        )
    step, path = newest
    return picture_file(path, "Held-out clips, as given, as seen and as filled in", f"Held-out clips after step {step}")


def _configuration(run: Run) -> str:
    """What differs from the defaults, then everything."""
    own, defaults = _flat(run.config), _flat(json.loads(json.dumps(asdict(Config()))))
    changed = [
        (name, value, defaults.get(name, "no such field now"))
        for name, value in own.items()
        if name not in defaults or defaults[name] != value
    ]
    text = paragraph(f"{len(changed)} of {len(own)} fields differ from the defaults of avmae_jax/config.py.")
    rows = ([name, _shown(value), _shown(default)] for name, value, default in changed)
    everything = json.dumps(run.config, indent=1, ensure_ascii=False)
    return text + table(("field", "this run", "default"), rows) + folded("the whole config.json", preformatted(everything))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
