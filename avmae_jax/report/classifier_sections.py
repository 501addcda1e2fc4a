"""Shows the evaluation of a classifier and its worst mistakes, as launch.evaluate wrote them."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from avmae_jax.errors import counted
from avmae_jax.evals.baselines.baseline import FIGURES, best_for, verdict
from avmae_jax.evals.intervals import NOTE
from avmae_jax.evals.views import mode_title, sees_image, title_of
from avmae_jax.report.html import folded, heading, image_file, missing, paragraph, table, words
from avmae_jax.report.run_folder import EVALUATION, RunFolder, as_list, is_real, objects
from avmae_jax.report.terms import figure, term

_VIEW = (
    "mode",
    "frames",
    "crops",
    "clips",
    "map",
    "auc",
    "d_prime",
    "accuracy",
    "top_5_accuracy",
    "loss",
    "ece_before",
    "ece_after",
    "mean_f1",
)
_LEFT_OUT = ("damaged_clips", "clips_of_unknown_classes", "classes_left_out", "classes_without_auc")  # shown where one isn't 0
_CLASS = ("name", "positives", "average_precision", "auc", "d_prime", "recall", "precision", "f1", "threshold")
_MISTAKES = 20  # of the table
_CONFUSIONS = 30  # of theirs


def evaluation(run: RunFolder) -> str:
    """Shows the figures of all views, then the plots and classes of each."""
    views = objects(run.evaluation, "views")
    if not views and run.holds_out_none:
        text = "The run has no held-out clips; its training clips can be evaluated, which says nothing about others."
        return missing(text, run.command("evaluate", "--split", "train"))
    if not views:
        return missing("This classifier hasn't been evaluated.", run.command("evaluate"))
    shown = [name for name in _VIEW if any(view.get(name) is not None for view in views)]
    shown += [name for name in _LEFT_OUT if any(view.get(name) for view in views)]
    head = [term(name) for name in shown]
    where = f"{run.evaluation.get('split') or ''} clips of {run.evaluation.get('data') or 'the data of the run'}".strip()
    parts = [
        paragraph(f"The {where}, by what the classifier is given:"),
        table(head, ([_cell(view, name) for name in shown] for view in views)),
        paragraph(f"{NOTE[0].upper()}{NOTE[1:]}.", soft=True) if any(view.get("map_interval") for view in views) else "",
        *(missing(f"{warning}.") for warning in dict.fromkeys(words(view["warning"]) for view in views if view.get("warning"))),
        _evaluated_model(run),
        _company(run, views),
    ]
    for number, view in enumerate(views):
        parts.append(folded(_title(view), _view(run, view), is_open=number == 0))
    return "".join(parts)


def _evaluated_model(run: RunFolder) -> str:
    """Names the model that was evaluated, and whether the run has gone on since."""
    model, step = run.evaluation.get("model"), run.evaluation.get("step")
    at = f" at step {step}" if isinstance(step, int) else "; the step isn't recorded"
    parts, again = [paragraph(f"Evaluated: {words(model)}{at}.", soft=True)], run.command("evaluate")
    if isinstance(step, int) and run.step not in (None, step):
        parts.append(missing(f"It was evaluated at step {step}; the weights are of step {run.step}: {again} evaluates again."))
    if lacking := as_list(run.evaluation.get("lacking")):
        parts.append(missing(f"The evaluation was stopped before {words(lacking)}: {again} evaluates all."))
    return "".join(parts)


def _company(run: RunFolder, views: Sequence[Mapping[str, Any]]) -> str:
    """Shows the best baseline for each view that is of the same clips, and says whether the classifier beats it."""
    pairs = [(view, best) for view in views if (best := _best_for(view, run.baselines))]
    if not pairs:
        why = "launch.baseline has measured other clips." if run.baselines else "No baseline was measured on these clips."
        data = run.evaluation.get("data")
        return missing(why, shlex.join(["python", "-m", "launch.baseline", data if isinstance(data, str) else "DATASET"]))
    bests = {row["name"]: row for _, best in pairs for row in best.values()}.values()
    head = ["best baseline", *map(term, FIGURES)]
    lines = [paragraph(f"{verdict(view, best)}.") for view, best in pairs]
    return table(head, ([best["name"], *(figure(best, name) for name in FIGURES)] for best in bests)) + "".join(lines)


def _best_for(view: Mapping[str, Any], baselines: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Applies best_for to a view of a file; {} too where the file lacks what is compared."""
    try:
        return best_for(view, baselines) if is_real(view.get("map")) else {}
    except (KeyError, TypeError, ValueError):
        return {}


def _title(view: Mapping[str, Any]) -> str:
    """Names a view as people would."""
    return title_of(str(view.get("mode", view.get("view", "a view"))), str(view.get("frames", "middle")))


def _cell(view: Mapping[str, Any], name: str) -> Any:
    """Returns a figure of a view as a cell of the table of views."""
    mode = str(view.get("mode", ""))
    if name == "mode":
        return mode_title(mode)
    return "-" if name == "frames" and not sees_image(mode) else figure(view, name)


def _view(run: RunFolder, view: Mapping[str, Any]) -> str:
    """Shows the plots and classes of one view."""
    found = _confusions(view)
    worst = (
        "; most often " + ", ".join(f"{own} taken for {taken} ({counted(count, 'clip')})" for own, taken, count, _ in found[:3])
        if found
        else ""
    )
    accuracy = f", accuracy {figure(view, 'accuracy')}" if is_real(view.get("accuracy")) else ""
    parts = [_plot(run, view, "confusion.png", "Confusion matrix", f"{accuracy}{worst}", "where each clip has one class")]
    if found:
        rows = ([own, taken, count, f"{share:.0%}"] for own, taken, count, share in found[:_CONFUSIONS])
        listed = table(("class", "taken for", "clips", "share of its clips"), rows)
        parts.append(folded(f"the most frequent of {counted(len(found), 'confusion')}", listed))
    precision = f", mAP {words(view.get('map'))}"
    parts.append(_plot(run, view, "precision_recall.png", "Precision over recall of the classes", precision))
    error = f", expected calibration error {words(view.get('ece_before'))} as trained"
    parts.append(_plot(run, view, "reliability.png", "Share that is right over the confidence", error))
    if view.get("mean_f1") is not None:
        parts.append(_plot(run, view, "f1.png", "F1 of the classes above their thresholds", f", mean {words(view['mean_f1'])}"))
    if rows := objects(view, "per_class"):
        order = sorted(rows, key=lambda row: -row["average_precision"] if is_real(row.get("average_precision")) else 1)
        columns = [name for name in _CLASS if any(name in row for row in rows)]
        listed = table([term(name) for name in columns], ([figure(row, name) for name in columns] for row in order))
        parts.append(folded(f"{counted(len(rows), 'class', 'classes')}, the best found first", listed))
    return "".join(parts)


def _confusions(view: Mapping[str, Any]) -> list[tuple[str, str, int, float]]:
    """Lists the classes that are taken for others: class, the other one, clips, and their share of the class, the most clips first."""
    names, counts = as_list(view.get("label_names")), as_list(view.get("confusion"))
    if len(names) != len(counts) or not all(len(as_list(row)) == len(names) and all(type(count) is int for count in row) for row in counts):
        return []
    found = [
        (str(names[own]), str(names[taken]), count, count / sum(row))
        for own, row in enumerate(counts)
        for taken, count in enumerate(row)
        if count > 0 and own != taken
    ]
    return sorted(found, key=lambda entry: -entry[2])


def _plot(run: RunFolder, view: Mapping[str, Any], file: str, title: str, found: str = "", condition: str = "") -> str:
    """Embeds a plot of a view under its heading. The name of its folder comes from a file, and may not lead out of the run.

    Args:
      run: of the view.
      view: of evaluation.json.
      file: of the plot.
      title: its heading.
      found: goes on in words with what the plot shows, for those who can't see it.
      condition: when the plot is made.
    """
    name = str(view.get("view", ""))
    path = run.recommended / EVALUATION / name / file
    if not re.fullmatch(r"\w+", name, re.ASCII) or not path.exists():
        return heading(title) + missing(
            f"{title}: {file} isn't there{f'; it is made {condition}' if condition else ''}.", run.command("evaluate")
        )
    return heading(title) + image_file(path, f"{title}, {_title(view)}{found}")


def worst_mistakes(run: RunFolder) -> str:
    """Shows the clips of the first view with the highest loss whose likeliest class isn't their own."""
    views = objects(run.evaluation, "views")
    if not views:
        return missing("An evaluation finds them.", *() if run.holds_out_none else (run.command("evaluate"),))
    view = views[0]
    clips = [row for row in objects(view, "per_clip") if row.get("top") not in as_list(row.get("classes")) and is_real(row.get("loss"))]
    worst = sorted(clips, key=lambda row: -row["loss"])[:_MISTAKES]
    drawn = _plot(run, view, "mistakes.png", f"The clips with the highest loss, given {_title(view)}")
    if not worst:
        return drawn + paragraph("No clip of the first view is mistaken.")
    rows = (
        [
            row.get("id"),
            row.get("classes"),
            _percent(row.get("probabilities")),
            row.get("top"),
            _percent(row.get("top_probability")),
            row["loss"],
        ]
        for row in worst
    )
    head = ("clip", "its classes", "their probabilities", "taken for", "probability", "loss")
    return drawn + folded(f"the {len(worst)} worst of {counted(len(clips), 'mistaken clip')}", table(head, rows))


def _percent(value: Any) -> Any:
    """Formats a probability, or each of a list."""
    if isinstance(value, list):
        return [_percent(item) for item in value]
    return f"{value:.1%}" if is_real(value) else value
