"""Makes the tables that programs print."""

from __future__ import annotations

import collections
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from avmae_jax.errors import counted
from avmae_jax.evals.intervals import NOTE
from avmae_jax.evals.intervals import shown as with_interval
from avmae_jax.evals.ranking import DIRECTIONS, TOP

from .screen import escape

if TYPE_CHECKING:
    from avmae_jax.data.store.job import Failure
    from avmae_jax.data.store.records import Index
    from avmae_jax.evals.search import Hits
    from avmae_jax.inference.embedding_files import Embeddings

_BAR = 30  # letters of the longest bar
_FULL_SCALE = -3.0  # dB; a full sine has it: a clip that is louder was most likely cut off
_EXAMPLES = 2  # failures named for each reason
_TALL = 20  # files; with more of them the classes of each are on one line
_LONG, _ENDS = 30, 10  # a table of more than 30 classes shows the 10 best and the 10 worst


def clip_counts(indexes: Mapping[str, Index]) -> Table:
    """Counts the clips of each split by what they have, hours, and quantiles of length and loudness."""
    from avmae_jax.data.store.records import SILENCE

    table = Table("split", "clips", "videos", "audio alone", "images alone", "hours", "seconds (min, median, max)", "dB (5, 50, 95 %)")
    table.add_column("silent")
    table.add_column("at full scale")
    for split, index in indexes.items():
        heard, loudness = index.seconds > 0, index.loudness[index.seconds > 0]
        lengths = _quantiles(index.seconds[heard], (0, 0.5, 1), "{:.2f}")
        shares = [len(np.unique(index.video)), (index.frames == 0).sum(), (~heard).sum()]
        loud = [_quantiles(loudness, (0.05, 0.5, 0.95), "{:.1f}"), (loudness <= SILENCE).sum(), (loudness > _FULL_SCALE).sum()]
        table.add_row(split, str(len(index.id)), *map(str, shares), f"{index.seconds.sum() / 3600:.2f}", lengths, *map(str, loud))
    return table


def class_counts(indexes: Mapping[str, Index], label_names: Sequence[str], shown: int) -> Table:
    """Tabulates how many clips each class has: the most frequent ones, and how many more there are."""
    counts = {split: index.class_counts(len(label_names)) for split, index in indexes.items()}
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")
    empty, unlabelled = int((total == 0).sum()), sum(int((np.diff(index.label_ends, prepend=0) == 0).sum()) for index in indexes.values())
    title = f"{len(label_names)} classes, {empty} without a clip; {unlabelled} clips without a label"
    table = Table("class", *counts, "", title=title)
    for label in order[:shown]:
        bar = "#" * round(_BAR * int(total[label]) / max(1, int(total.max())))
        table.add_row(escape(label_names[int(label)]), *(str(count[label]) for count in counts.values()), bar)
    if len(order) > shown:
        table.add_row(f"... and {len(order) - shown} more", *(str(count[order[shown:]].sum()) for count in counts.values()), "")
    return table


def failure_counts(failures: Sequence[Failure]) -> Table:
    """Tabulates the failures by stage, with examples."""
    by_stage: dict[str, list[Failure]] = collections.defaultdict(list)
    for failure in failures:
        by_stage[failure.stage].append(failure)
    table = Table("failed at", "files", "for example", title=f"{len(failures)} files gave no clip")
    for stage, found in sorted(by_stage.items(), key=lambda item: -len(item[1])):
        table.add_row(stage, str(len(found)), escape("\n".join(f"{failure.file} {failure.reason}" for failure in found[:_EXAMPLES])))
    return table


def views(found: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulates the figures of each view of an evaluation."""
    from avmae_jax.evals.views import mode_title, sees_image

    first = found[0]
    title = f"{counted(first['clips'], str(first['split']) + ' clip')} of {counted(len(first['label_names']), 'class', 'classes')}"
    title += f", {first['classes_left_out']} of them without a clip and left out of the means" if first["classes_left_out"] else ""
    title += f"; {len(first['no_negative'])} of them, which every clip has, have no AUC" if first["no_negative"] else ""
    title += f"; {first['damaged_clips']} clips are damaged and left out" if first["damaged_clips"] else ""
    title += "".join(
        f"; {view['clips_of_unknown_classes']} clips of other classes are left out" for view in found[:1] if view["unknown_classes"]
    )
    table = Table("given", "frames", "mAP", "AUC", "d'", "accuracy", "top 5", "loss", "calibration error", title=title, caption=NOTE)
    for view in found:
        shown = view["frames"] if sees_image(view["mode"]) else "-"
        figures = [with_interval(view, name) for name in ("map", "auc", "d_prime", "accuracy", "top_5_accuracy", "loss")]
        table.add_row(mode_title(view["mode"]), shown, *figures, _calibration_error(view))
    return table


def _calibration_error(view: Mapping[str, Any]) -> str:
    before, after = _number(view["ece_before"]), view["ece_after"]
    return before if after is None else f"{before}, calibrated {_number(after)}"


def confidence(found: Sequence[Mapping[str, Any]], model: str) -> list[str]:
    """Describes in lines how the views of an evaluation are calibrated, and how to calibrate those that aren't."""
    from avmae_jax.evals.views import mode_title

    lines = []
    if any(view["temperature"] is None for view in found):
        lines.append(f"probabilities as trained; python -m launch.calibrate {shlex.quote(model)} makes them mean what they say")
    if any(view["fitted_to_these_clips"] for view in found):
        words = (
            "the calibration was fitted to these clips, so its error and F1 are measured by cross-fitting; the loss flatters it a little"
        )
        lines.append(words)
    return lines + [
        f"{mode_title(view['mode'])}: mean F1 of the classes above their thresholds {view['mean_f1']:.3f}"
        for view in found
        if "mean_f1" in view
    ]


def class_figures(per_class: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Tabulates the classes of a view by average precision: of many the best and the worst, none of those without a clip."""
    rows = sorted(per_class, key=lambda row: -1 if row["average_precision"] is None else row["average_precision"], reverse=True)
    rated = [row for row in rows if row["positives"]]
    cut = len(rated) > _LONG
    which = f"the {_ENDS} best and the {_ENDS} worst of {len(rated)} classes" if cut else counted(len(rated), "class", "classes")
    shown = [("average_precision", "AP"), ("auc", "AUC"), ("d_prime", "d'"), ("recall", "recall"), ("precision", "precision")]
    shown += [(name, words) for name, words in (("f1", "F1"), ("threshold", "threshold")) if any(name in row for row in rows)]
    table = Table("class", "clips", *(words for _, words in shown), title=f"{title}: {which}")
    for row in [*rated[:_ENDS], *rated[-_ENDS:]] if cut else rated:
        figures = [_number(row.get(name)) for name, _ in shown]
        table.add_row(escape(row["name"]), str(row["positives"]), *figures)
    return table


def calibrations(found: Mapping[str, Any]) -> Table:
    """Tabulates what launch.calibrate found of each mode."""
    from avmae_jax.evals.views import mode_title

    title = counted(found["count"], f"{found['split']} clip")
    table = Table("given", "temperature", "calibration error", "calibrated", "log loss", "calibrated", title=title)
    several = any("mean_f1" in row for row in found["modes"].values())
    if several:
        table.add_column("mean F1 above thresholds")
    for mode, row in found["modes"].items():
        figures = [_number(row[name]) for name in ("temperature", "ece_before", "ece_after", "loss_before", "loss_after")]
        table.add_row(mode_title(mode), *figures, *([_number(row.get("mean_f1"))] if several else []))
    return table


def calibration_notes(found: Mapping[str, Any]) -> list[str]:
    """Explains the table of calibrations in lines."""
    lines = ["calibrated: by cross-fitting, each clip with the calibration of others"]
    if (names := found["classes_without_clip"]) and any(row["thresholds"] for row in found["modes"].values()):
        listed = ", ".join(map(escape, names[:_LONG])) + (", ..." if len(names) > _LONG else "")
        lines.append(f"{len(names)} classes without a clip get the mean of the others' thresholds: {listed}")
    return lines


def retrieval(result: Mapping[str, Any]) -> Table:
    """Tabulates both directions of a retrieval, and chance."""
    compared = f", {result['frames']} frames each ({result['pairs']})" if result["pairs"] else ""
    title = f"retrieval among {counted(result['clips'], 'clip')}{compared}"
    table = Table("", *(f"R@{k}" for k in TOP), "median rank", "ties", title=title)
    for name, words in zip((*DIRECTIONS, "chance"), ("image found by audio", "audio found by image", "guessing"), strict=True):
        row = result[name]
        table.add_row(words, *(f"{row[f'r{k}']:.1%}" for k in TOP), f"{row['median_rank']:g}", str(row.get("ties", "")))
    if "class" in result["chance"]:
        table.add_section()
        rows = ("image of the class", "audio of the class", "guessing")
        for name, words in zip((*DIRECTIONS, "chance"), rows, strict=True):
            table.add_row(words, *(f"{result[name]['class'][f'r{k}']:.1%}" for k in TOP))
    return table


def hits(found: Hits, index: Embeddings) -> Table:
    """Tabulates the clips of an index that one side of a query found."""
    names = index.note["label_names"]
    table = Table("", "similarity", "clip", "class")
    for number, (row, score) in enumerate(zip(found.rows, found.scores, strict=True), start=1):
        classes = ", ".join(names[label] for label in index.labels[row])
        table.add_row(str(number), f"{score:.3f}", escape(index.ids[row]), escape(classes))
    return table


def show_predictions(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table of the predictions, a table of each timeline, and the files that failed with their reasons."""
    good = [entry for entry in records if "error" not in entry]
    if good:
        console.print(_predictions(good))
    for entry in good:
        if "timeline" in entry:
            console.print(_timeline(entry))
    show_failures(console, records)


def show_failures(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    """Prints the files that failed with their reasons."""
    bad = [entry for entry in records if "error" in entry]
    for entry in bad:
        console.print(escape(f"failed [{entry['stage']}] {entry['file']}: {entry['error']}"), highlight=False, soft_wrap=True)
    if bad:
        console.print(f"{len(bad)} of {len(records)} files failed")


def _predictions(records: Sequence[Mapping[str, Any]]) -> Table:
    matches, ranked = (any(entry[name] is not None for entry in records) for name in ("match", "match_rank"))
    table = Table(
        "file", "seen", *(["answer", "classes"] if records[0]["classes"] else []), *(["match"] * matches), *(["rank of its image"] * ranked)
    )
    for entry in records:
        classes = [f"{row['probability']:6.1%}  {row['class']}" for row in entry["classes"]]
        cells = ["\n".join(classes) if len(records) <= _TALL else ", ".join(map(str.strip, classes))] if classes else []
        cells[:0] = [entry["answer"]] if classes else []
        cells += ["-" if entry["match"] is None else f"{entry['match']:.3f}"] * matches
        cells += ["-" if entry["match_rank"] is None else f"{entry['match_rank']} of {entry['match_among']}"] * ranked
        table.add_row(escape(entry["file"]), entry["seen"], *map(escape, cells))
    return table


def _timeline(entry: Mapping[str, Any]) -> Table:
    table = Table("second", "class", "probability", title=escape(entry["file"]))
    for row in entry["timeline"]:
        best = row["classes"][0]
        table.add_row(str(row["second"]), escape(best["class"]), f"{best['probability']:.1%}")
    return table


def _quantiles(values: np.ndarray, at: Sequence[float], form: str) -> str:
    return ", ".join(form.format(value) for value in np.quantile(values, at)) if len(values) else "-"


def _number(value: float | None) -> str:
    """Formats a number with three places, and None as a dash."""
    return "-" if value is None else f"{value:.3f}"
