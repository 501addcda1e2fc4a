"""Chooses the views in which a classifier is evaluated or calibrated, by the options of a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags, logging

from . import model_flags, unused

if TYPE_CHECKING:
    from avmae_jax.config import Frames
    from avmae_jax.models.modes import Mode
    from avmae_jax.weights.trained import Trained


def chosen(name: str, given: Sequence[str], choices: Sequence[str]) -> list[str]:
    """Collects the values of an option that may be repeated and may hold commas, each once; raises UsageError."""
    values = list(dict.fromkeys(value.strip() for text in given for value in text.split(",") if value.strip()))
    if unknown := [value for value in values if value not in choices]:
        raise app.UsageError(f"--{name} is {unknown[0]!r}; choose of {', '.join(choices)}")
    return values


def crops_of_run(path: str) -> int:
    """Returns the crops that the model's run evaluates with; 1 for a file outside a run."""
    return model_flags.run_config(path).tune.eval_crops if model_flags.run_folder(path) else 1


def frames_of(trained: Trained, given: Sequence[Frames]) -> list[Frames]:
    """Returns the choices of frames in which a classifier is evaluated; one of pairs takes all, and raises UsageError for --frames."""
    if not trained.spec.pairs:
        return list(given)
    if "frames" in flags.FLAGS:
        unused.require_left_out(["frames"], f"for a {trained.spec.title}, which is given all frames of a clip")
    return ["all"]


def modes_of(trained: Trained, given: Sequence[str]) -> list[Mode]:
    """Returns the modes that are chosen, or all that a classifier's tuning prepares for; raises ValueError for another kind of model."""
    from avmae_jax.evals.views import require_classifier
    from avmae_jax.models.modes import find_mode, learned

    tuned = require_classifier(trained)
    fitting = list(learned(tuned, trained.spec.modes))
    modes = list(dict.fromkeys(find_mode(name, trained.spec.modes, tuned) for name in given)) or fitting
    for mode in modes:
        if mode not in fitting:
            words = "%s was tuned as %s, according to its config; it has not learned to classify in the mode %s"
            logging.warning(words, trained.path, tuned, mode)
    return modes
