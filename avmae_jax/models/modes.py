"""Describes the ways in which a classifier is applied: which modalities it is given, and which norms they run through."""

import dataclasses
from collections.abc import Sequence
from typing import cast

from avmae_jax.config import Modality
from avmae_jax.models.layers import MAIN


@dataclasses.dataclass(frozen=True)
class Mode:
    """Describes one way of applying a classifier. It prints as its official name, under which files store it."""

    name: str
    inputs: tuple[str, ...]  # modalities that must be given
    streams: tuple[str, ...]  # whose norms the joint blocks use, one pass each; what becomes of several passes is the model's matter
    fallback: bool = False  # is applied where a modality is missing that the classifier was tuned on

    @property
    def given(self) -> Modality:
        """Returns what the classifier is given: "both", "audio" or "image"."""
        return "both" if len(self.inputs) > 1 else cast(Modality, next(iter(self.inputs)))

    @property
    def title(self) -> str:
        """Returns what people read: "audio and image", "audio alone", or "audio, image missing" after tuning on both."""
        if len(self.inputs) > 1:
            return " and ".join(self.inputs)
        other = {"audio": "image", "image": "audio"}[self.given]
        return f"{self.given}, {other} missing" if len(self.streams) > 1 else f"{self.given} alone"

    def __str__(self) -> str:
        return self.name


MULTIMODAL = Mode("multimodal", ("audio", "image"), (MAIN,))
# A model tuned on both was trained with the joint norms. If one modality is missing, the original averages a pass with these and one with
# the norms of the other modality.
MODES = (
    MULTIMODAL,
    Mode("audioonly", ("audio",), ("audio",)),
    Mode("videoonly", ("image",), ("image",)),
    Mode("missingaudioonly", ("audio",), ("audio", MAIN), fallback=True),
    Mode("missingvideoonly", ("image",), ("image", MAIN), fallback=True),
)


def learned(tuned: Mode, modes: Sequence[Mode] = MODES) -> tuple[Mode, ...]:
    """Lists the modes that fine-tuning in `tuned` prepares a classifier for: that one first, then those in which a modality is missing."""
    return tuned, *(mode for mode in modes if mode.fallback and tuned.given == "both")


def find_mode(name: str, modes: Sequence[Mode] = MODES, tuned: Mode | None = None) -> Mode:
    """Finds a mode by its official name or by what a classifier is given.

    Args:
      name: an official name, or "both", "audio" or "image".
      modes: those that the kind of model has.
      tuned: the mode in which the classifier was tuned: after tuning on both, "audio" and "image" name the modes that miss the other one.
        None: they name the modes of one modality alone. An official name means its mode whatever the tuning.

    Raises:
      ValueError: if there is no such mode, or the tuning doesn't prepare for it; lists the names that can be chosen.
    """
    fitting = modes if tuned is None else learned(tuned, modes)
    found = next((mode for mode in modes if mode.name == name), None) or next((mode for mode in fitting if mode.given == name), None)
    if found is None:
        choices = dict.fromkeys([*(mode.given for mode in fitting), *(mode.name for mode in modes)])
        why = "is unknown" if tuned is None else f"does not fit a classifier tuned as {tuned}"
        raise ValueError(f"mode {name!r} {why}; choose one of {', '.join(choices)}")
    return found
