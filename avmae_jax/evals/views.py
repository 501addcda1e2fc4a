"""Describes the ways of giving clips to a classifier in which it is evaluated and calibrated."""

import dataclasses
from collections.abc import Sequence

from avmae_jax.config import Frames, Modality
from avmae_jax.models.modes import MODES, Mode, find_mode
from avmae_jax.weights.trained import Trained


@dataclasses.dataclass(frozen=True)
class View:
    """Describes one way of giving clips to a classifier."""

    mode: Mode | None = None  # what the classifier is given; None: what it was tuned on
    frames: Frames = "middle"  # "first" | "middle" | "all"; the probabilities of all frames are averaged
    crops: int = 1  # crops of audio that is longer than the model's, whose probabilities are averaged

    @property
    def name(self) -> str:
        """Names the view's folder."""
        return f"{self.mode}_{self.frames}"


AS_TUNED = View()


def title_of(mode: str, frames: str) -> str:
    """Names a view for people by the official name of its mode and its frames; a mode that isn't known stays as it is."""
    shown = "all frames" if frames == "all" else f"{frames} frame"
    return f"{mode_title(mode)}, {shown}" if sees_image(mode) else mode_title(mode)


def sees_image(mode: str) -> bool:
    """Returns whether a classifier is given an image in the mode of this name."""
    return any("image" in known.inputs for known in MODES if known.name == mode)


def mode_title(mode: str) -> str:
    """Names what a classifier is given for people; a name that is no mode's stays as it is."""
    try:
        return find_mode(mode).title
    except ValueError:
        return mode


def views_of(modes: Sequence[Mode], frames: Sequence[Frames], crops: int = 1) -> list[View]:
    """Combines modes with choices of frames; a mode without the image gets one view."""
    return [View(mode, shown, crops) for mode in modes for shown in (frames if "image" in mode.inputs else frames[:1])]


def common_needs(modes: Sequence[Mode]) -> Modality:
    """Returns what a clip must have to be classified in all modes."""
    needs: set[Modality] = {mode.given for mode in modes}
    return "both" if len(needs) > 1 else needs.pop()


def require_classifier(trained: Trained) -> Mode:
    """Returns the mode in which a classifier was tuned; raises ValueError for another kind of model."""
    if trained.tuned is None:
        raise ValueError(f"{trained.path} is a {trained.spec.title}, no classifier; give a run of launch.finetune, or its weights")
    return trained.tuned
