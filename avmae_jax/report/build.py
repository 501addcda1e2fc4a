"""Puts a run on one page: the contents of its folder, arranged for a reader who wasn't there.

Nothing is computed here. What is missing or can't be read is named on the page, with the command that makes it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from avmae_jax.config import Config
from avmae_jax.errors import counted
from avmae_jax.evals.views import mode_title
from avmae_jax.plots.canvas import short_name
from avmae_jax.plots.curves import best_of, curve_svg, series, shown_value
from avmae_jax.report.classifier_sections import evaluation, worst_mistakes
from avmae_jax.report.html import curve, folded, grid, missing, page, paragraph, preformatted, table, words
from avmae_jax.report.listening_section import listening
from avmae_jax.report.match_section import match_over_time
from avmae_jax.report.pretraining_sections import last_reconstructions, retrieval, summarised_retrieval
from avmae_jax.report.run_folder import RunFolder, group
from avmae_jax.report.study_section import studies
from avmae_jax.report.terms import figure, term
from avmae_jax.settings import flatten_fields
from avmae_jax.train.logbook import EDITED, GAP, METRICS_FILE

_CURVES = {
    "loss": "loss",
    "mae_audio": "loss: audio reconstruction",
    "mae_image": "loss: image reconstruction",
    "nce": "loss: contrastive, nats",
    "contrast_accuracy": "right pairs in a batch",
    "map": "mAP",
    "accuracy": "accuracy",
    "learning_rate": "learning rate",
    "gradient_norm": "norm of the gradient",
    "pairs_per_second": "pairs per second",
    "peak_device_gib": "peak memory of a device, GiB",
    "peak_host_gib": "peak memory of the process, GiB",
}  # in their order; others follow
_NOT_CURVES = ("step", "classes", "epoch", "seconds", "first", "last")
_SECONDS_OF_HOUR = 3600


def report(folder: Path) -> str:
    """Builds the page of a run as HTML.

    Args:
      folder: of a run of launch.pretrain or launch.finetune, finished or not.

    Raises:
      ValueError: if it holds no run.
    """
    run = RunFolder(folder)
    sections = [("Results", _results(run)), ("Curves", _curves(run))]
    if run.is_classifier:
        sections += [("Evaluation", evaluation(run)), ("Hardest mistakes", worst_mistakes(run))]
    else:
        sections += [("Retrieval", retrieval(run)), ("Reconstructions", last_reconstructions(run)), ("Listening", listening(run))]
        sections += [("Match over time", match_over_time(run))] * run.is_of_pairs
    if studied := studies(run):
        sections.append(("How many labels", studied))
    sections.append(("Configuration", _configuration(run)))
    return page(f"Run {run.config.get('name') or folder.name}", _head(run), sections)


def _head(run: RunFolder) -> str:
    model, tune = run.config["model"], group(run.config, "tune")
    if run.is_classifier:
        given = mode_title(str(tune.get("mode", "unknown mode")))
        text = f"A classifier of {given}, fine-tuned from {run.config.get('init_from') or 'random weights'}."
    elif model.get("modality") in ("audio", "image"):
        text = f"Pretraining of a masked autoencoder of {model['modality']} alone."
    else:
        text = "Pretraining of a contrastive audio-visual masked autoencoder."
    steps, seconds = run.summary.get("steps"), run.summary.get("seconds")
    last = max((row["step"] for row in run.rows), default=0)
    if isinstance(steps, int) and isinstance(seconds, int | float):
        text += f" Finished: {counted(steps, 'step')}; the last session took {_duration(seconds)}."
    else:
        text += f" Not finished, or stopped: the last logged step is {last}." if last else " No step is logged yet."
    damage = "".join(missing(f"{line}.") for line in run.damaged)
    return paragraph(text) + paragraph(str(run.folder), soft=True) + damage


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * _SECONDS_OF_HOUR else f"{seconds / _SECONDS_OF_HOUR:.1f} h"


def _results(run: RunFolder) -> str:
    """Shows the numbers of summary.json, or the last held-out line while there is none."""
    parts, spread = [], group(run.summary, "intervals")
    held_out = group(run.summary, "held_out")
    if held_out:
        parts.append(paragraph("On the held-out clips, at the end of the run:"))
    elif logged := [row for row in run.rows if row.get("split") == "eval"]:
        held_out = {name: value for name, value in logged[-1].items() if name not in ("step", "split", "epoch", "seconds")}
        parts.append(paragraph(f"There is no summary.json; on the held-out clips after step {logged[-1]['step']}:"))
    elif run.holds_out_none:
        parts.append(missing("The run has no held-out clips, so nothing was measured."))
    else:
        parts.append(missing("Nothing was measured on held-out clips yet."))
    if held_out:
        parts.append(_numbers(held_out, group(spread, "held_out")))
    if warning := run.summary.get("warning"):
        parts.append(missing(f"{words(warning)}."))
    if averaged := group(run.summary, "averaged"):
        text = "The mean of the weights of several epochs (tune.average_first and average_last):"
        parts.append(paragraph(text) + _numbers(averaged, group(spread, "averaged")))
    if ema := group(run.summary, "ema"):
        parts.append(paragraph("The moving average of the weights (train.ema):") + _numbers(ema, group(spread, "ema")))
    if (found := group(run.summary, "retrieval")) and not run.retrieval:
        parts.append(summarised_retrieval(found))
    return "".join(parts)


def _numbers(values: Mapping[str, Any], spread: Mapping[str, Any]) -> str:
    known = {**values, **spread}
    return table(("measured", "value"), [(term(name), figure(known, name)) for name in values])


def _curves(run: RunFolder) -> str:
    parts = []
    if run.damaged_lines:
        numbers = ", ".join(str(number) for number, _ in run.damaged_lines[:10])
        more = " and more" if len(run.damaged_lines) > 10 else ""
        text = f"{METRICS_FILE}: {len(run.damaged_lines)} damaged lines are left out (line {numbers}{more}), as a kill leaves them."
        parts.append(missing(text))
    for row in run.rows:
        if row.get("split") == GAP:
            parts.append(missing(f"{METRICS_FILE}: steps {words(row.get('first'))} to {words(row.get('last'))} have no line."))
        elif row.get("split") == EDITED:
            parts.append(missing(f"{METRICS_FILE}: lines up to step {row['step']} were edited."))
    if not run.rows:
        return "".join(parts) + missing(f"{METRICS_FILE} has no line yet; the run writes it as it trains.")
    there = {name for row in run.rows for name, value in row.items() if isinstance(value, int | float) and name not in _NOT_CURVES}
    names = [name for name in _CURVES if name in there] + sorted(there - _CURVES.keys())
    size = run.meta.get("negatives", run.meta.get("micro_batch"))  # older runs chose among one micro-batch
    drawn = []
    for name in names:
        title = _CURVES.get(name) or short_name(term(name), 44)
        guess = size if name == "nce" and isinstance(size, int) and size > 1 else None
        draw = partial(curve_svg, run.rows, name, title, batch_size=guess)
        drawn.append(curve(lambda scheme, draw=draw: draw(scheme=scheme), _in_words(run.rows, name, title)))
    legend = "Solid line: training, each value faint. Dashed line with dots: held-out clips; a star marks the best step."
    return "".join([*parts, paragraph(legend, soft=True), grid(drawn)])


def _in_words(rows: list[dict[str, Any]], name: str, title: str) -> str:
    """Says what a curve shows, for those who can't see it."""
    parts = []
    for split, whose in (("train", "training"), ("eval", "held out")):
        _, values = series(rows, split, name)
        if len(values):
            parts.append(f"{whose} from {shown_value(name, values[0])} to {shown_value(name, values[-1])}")
    if best := best_of(rows, name):
        parts.append(f"best held out {shown_value(name, best.value)} at step {best.step}")
    return f"{title} over steps: {', '.join(parts) or 'no values yet'}"


def _configuration(run: RunFolder) -> str:
    """Lists the fields that differ from the defaults, then everything."""
    own, defaults = flatten_fields(run.config), flatten_fields(json.loads(json.dumps(asdict(Config()))))  # as config.json holds them
    changed = [
        (name, value, defaults.get(name, "no such field now"))
        for name, value in own.items()
        if name not in defaults or defaults[name] != value
    ]
    text = paragraph(f"{len(changed)} of {len(own)} fields differ from the defaults of avmae_jax/config.")
    rows = ([name, _shown(value), _shown(default)] for name, value, default in changed)
    everything = json.dumps(run.config, indent=1, ensure_ascii=False)
    return text + table(("field", "this run", "default"), rows) + folded("the whole config.json", preformatted(everything))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
