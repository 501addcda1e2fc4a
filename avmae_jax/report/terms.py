"""Names and formats the numbers of JSON files in the words of the page."""

from collections.abc import Mapping
from typing import Any

from avmae_jax.evals.intervals import shown
from avmae_jax.evals.views import mode_title
from avmae_jax.report.run_folder import as_list, is_real

_TERMS = {
    "mode": "given",
    "map": "mAP",
    "auc": "AUC",
    "d_prime": "d'",
    "top_5_accuracy": "accuracy, top 5",
    "mae_audio": "audio reconstruction",
    "mae_image": "image reconstruction",
    "nce": "contrastive, nats",
    "contrast_accuracy": "right pairs in a batch",
    "average_precision": "AP",
    "damaged_clips": "damaged clips",
    "classes_left_out": "classes without a clip",
    "classes_without_auc": "classes without AUC",
    "clips_of_unknown_classes": "clips of other classes",
    "ece_before": "calibration error, as trained",
    "ece_after": "calibrated",
    "mean_f1": "mean F1",
    "f1": "F1",
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "median_rank": "median rank",
    "positives": "clips",
}
_PERCENT = ("accuracy", "top_5_accuracy", "contrast_accuracy", "recall", "precision", "threshold", "r1", "r5", "r10")


def term(name: str) -> str:
    """Names a number; the losses of a classifier by what they are of."""
    if name.startswith("loss_"):
        return f"loss, {mode_title(name.removeprefix('loss_'))}"
    return _TERMS.get(name, name.replace("_", " "))


def figure(values: Mapping[str, Any], name: str) -> Any:
    """Returns a number of a file as a cell, with its interval where it has one; in percent where people expect it."""
    value, interval = values.get(name), as_list(values.get(f"{name}_interval"))
    has = len(interval) == 2 and all(map(is_real, interval)) and is_real(value)
    if name in _PERCENT and is_real(value):
        return f"{value:.1%}" + (f" ({interval[0]:.0%} to {interval[1]:.0%})" if has else "")
    return shown(values, name) if has else value
